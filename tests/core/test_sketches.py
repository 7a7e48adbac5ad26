from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tables.chance import mixed
from tables.sketches import EXACT_BITS, FAR, NORM, SKETCH, Sketches, signs

Floats = NDArray[np.float64]


def told(sketches: Sketches) -> tuple[bytes, bytes]:
    return sketches.values.tobytes(), sketches.scale.tobytes()


def apart(rows: NDArray[Any]) -> Floats:
    """How far each row is from each other."""
    found: Floats = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    return found


def test_short_features_are_kept_as_they_are_but_for_rounding() -> None:
    sketches = Sketches.of(np.array([[127.0, -64.0, 0.0], [0.5, 0.25, -0.125]]))

    assert sketches.values[:, :3].tolist() == [[127, -64, 0], [127, 64, -32]]
    assert not sketches.values[:, 3:].any()
    assert sketches.scale == pytest.approx([1.0, 0.5 / 127])


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 512, 2048])
def test_what_is_kept_is_as_far_apart_as_the_features_but_for_some_percent(length: int) -> None:
    features = np.random.default_rng(length).normal(size=(60, length)) * 7

    sketches = Sketches.of(features)

    kept, real = apart(sketches.values * sketches.scale.astype(np.float64)[:, None]), apart(features)
    off = np.abs(kept / np.where(real > 0, real, 1) - 1)[~np.eye(60, dtype=bool)]
    if length > SKETCH:  # of a projection to 64 numbers it is about 1 / sqrt(2 * 64)
        assert np.sqrt((off**2).mean()) < 0.11
        assert off.max() < 0.45
    else:
        assert np.abs(kept - real).max() < 0.06 * np.abs(features).max()


def test_a_sign_is_a_bit_of_a_hash_of_the_features_index() -> None:
    # SplitMix64's first numbers, from its reference implementation with the seed 0.
    golden = [0, 0x9E3779B97F4A7C15, 2 * 0x9E3779B97F4A7C15 % 2**64]
    assert [hex(each) for each in mixed(np.array(golden, np.uint64)).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]
    first = signs(1000)[0].tolist()
    assert {*first} == {-1.0, 1.0}
    assert [each > 0 for each in first[:8]] == [bool(0xAF >> bit & 1) for bit in range(7, -1, -1)]
    assert signs(1000)[:70].tolist() == signs(70).tolist()


@pytest.mark.parametrize("length", [5, 64, 65, 700])
def test_the_same_numbers_make_the_same_sketch_whatever_float_they_come_in(length: int) -> None:
    features = np.random.default_rng(length).normal(size=(9, length)).astype("<f2")

    made = {dtype: told(Sketches.of(features.astype(dtype))) for dtype in ("<f2", ">f2", "<f4", "<f8", ">f8")}

    assert len({*made.values()}) == 1


@given(
    st.integers(0, 1000),
    st.sampled_from([3, 64, 65, 128, 1000]),
    st.lists(st.integers(0, 19), min_size=1, max_size=20),
)
def test_a_row_has_the_same_sketch_alone_and_among_others(seed: int, length: int, rows: list[int]) -> None:
    features = np.random.default_rng(seed).normal(size=(20, length))

    assert told(Sketches.of(features)[np.array(rows)]) == told(Sketches.of(features[rows]))
    assert told(Sketches.of(features)) == told(Sketches.of(np.asfortranarray(features)))


@given(st.integers(0, 1000), st.integers(-100, 100))
def test_features_in_another_unit_have_the_same_values_in_other_steps(seed: int, power: int) -> None:
    features = np.random.default_rng(seed).normal(size=(4, 100))

    one, other = Sketches.of(features), Sketches.of(features * 2.0**power)

    assert one.values.tolist() == other.values.tolist()
    assert other.scale.tolist() == (one.scale * np.float32(2.0**power)).tolist()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e308])
@pytest.mark.parametrize("length", [3, 100])
def test_a_row_that_is_not_finite_or_too_large_to_be_kept_has_no_sketch_and_harms_no_other(
    wrong: float, length: int
) -> None:
    features = np.ones((3, length))
    features[1, 2] = wrong

    sketches = Sketches.of(features)

    assert sketches.there.tolist() == [True, False, True]
    assert told(sketches[np.array([0, 2])]) == told(Sketches.of(np.ones((2, length))))


def test_features_without_numbers_have_no_sketch_and_features_of_zeros_have_one() -> None:
    assert Sketches.of(np.empty((2, 0))).there.tolist() == [False, False]
    assert len(Sketches.of(np.empty((0, 7)))) == 0
    assert Sketches.of(np.zeros((2, 7))).there.tolist() == [True, True]
    assert Sketches.none(2).there.tolist() == [False, False]


@given(arrays(np.float64, (6, 5), elements=st.floats(-1e30, 1e30)))
def test_points_are_whole_numbers_whose_distances_a_single_float_holds_exactly(features: Floats) -> None:
    points, step = Sketches.of(features).points()

    assert (points == np.rint(points)).all()
    assert (apart(points.astype(np.float64)) ** 2).max() <= 2**EXACT_BITS
    assert step > 0


def test_points_are_as_far_apart_as_the_features_and_those_far_out_are_drawn_in() -> None:
    features = np.random.default_rng(0).normal(size=(30, 40))
    middle = np.sort(np.linalg.norm(features, axis=1))[15]

    near, step = Sketches.of(features).points()
    far, wider = Sketches.of(np.concatenate([features, features[:1] * 1e6])).points()

    assert apart(near.astype(np.float64)) * step == pytest.approx(apart(features), rel=0.02, abs=1e-9)
    assert np.linalg.norm(far[-1]) == pytest.approx(NORM, rel=0.01)
    assert wider * NORM == pytest.approx(FAR * middle, rel=0.1)


def test_equal_rows_of_zeros_are_one_point() -> None:
    points, _ = Sketches.of(np.zeros((3, 4))).points()

    assert not points.any()
    assert Sketches.none(0).points()[0].shape == (0, SKETCH)
