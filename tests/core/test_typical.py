from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tables import typical as module
from tables.sketches import SKETCH, Sketches
from tables.typical import FIRST, SMALLEST, levels, sample_of, spacing, typical

Places = NDArray[np.intp]


def lying(of: Places, seed: int = 0) -> Sketches:
    """Sketches of features that lie around a point of a cluster each, far from those of other clusters."""
    random = np.random.default_rng(seed)
    middle = np.random.default_rng(9).normal(size=(int(of.max(initial=0)) + 1, 32)) * 9
    return Sketches.of(middle[of] + random.normal(size=(len(of), 32)) * 0.3)


def uncovered(of: Places) -> NDArray[np.bool_]:
    return np.zeros(len(of), bool)


def every(of: Places) -> NDArray[np.bool_]:
    return np.ones(len(of), bool)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_ones_are_one_of_each_cluster_so_that_any_number_of_them_is_a_good_beginning(seed: int) -> None:
    of = np.random.default_rng(seed).permutation(np.repeat(np.arange(FIRST), 30))

    found = typical(levels(lying(of, seed)), uncovered(of), every(of))

    first = of[found.order]
    assert sorted(first[:FIRST].tolist()) == [*range(FIRST)]
    assert found.size[:FIRST].tolist() == [30] * FIRST
    for count in range(1, len(of) + 1):
        times = Counter(first[:count].tolist())
        assert max(times.values()) <= 3 * -(-count // FIRST)


def test_the_largest_cluster_comes_first() -> None:
    of = np.repeat(np.arange(FIRST), np.arange(10, 10 + 5 * FIRST, 5))

    found = typical(levels(lying(of)), uncovered(of), every(of))

    assert of[found.order[:FIRST]].tolist() == [*range(FIRST)][::-1]
    assert found.size[:FIRST].tolist() == [*range(10, 10 + 5 * FIRST, 5)][::-1]


def test_clusters_in_which_something_is_annotated_come_after_the_others() -> None:
    of = np.random.default_rng(0).permutation(np.repeat(np.arange(FIRST), 30))
    covered = uncovered(of)
    covered[[int(np.flatnonzero(of == cluster)[0]) for cluster in (2, 5, 6)]] = True

    found = typical(levels(lying(of)), covered, every(of))

    assert sorted(of[found.order[:7]].tolist()) == [0, 1, 3, 4, 7, 8, 9]
    assert {2, 5, 6} <= {*of[found.order[7:20]].tolist()}


def test_of_a_cluster_of_which_some_are_no_candidates_another_is_the_example() -> None:
    of = np.random.default_rng(0).permutation(np.repeat(np.arange(FIRST), 30))
    of_all = levels(lying(of))
    candidates = every(of)
    candidates[typical(of_all, uncovered(of), every(of)).order[:FIRST]] = False

    found = typical(of_all, uncovered(of), candidates)

    assert sorted(of[found.order[:FIRST]].tolist()) == [*range(FIRST)]
    assert found.size[:FIRST].tolist() == [30] * FIRST


def test_who_lies_closest_to_the_others_of_its_cluster_is_the_most_typical() -> None:
    of = np.repeat(np.arange(FIRST), 30)
    sketches = lying(of)
    points = sketches.values * sketches.scale[:, None].astype(np.float64)

    found = typical(levels(sketches)[:1], uncovered(of), every(of))

    for chosen, distance in zip(found.order[:FIRST].tolist(), found.distance[:FIRST].tolist(), strict=True):
        own = points[of == of[chosen]]
        away = np.sort(np.linalg.norm(own[:, None] - own, axis=2), axis=1)[:, 1:21].mean(axis=1)
        assert distance == pytest.approx(away.min(), rel=0.01)


def test_outliers_are_nobodys_example() -> None:
    of = np.concatenate([np.repeat(np.arange(8), 40), [8, 9]])

    found = typical(levels(lying(of)), uncovered(of), every(of))

    assert {*of[found.order[:8]].tolist()} == {*range(8)}
    assert (found.size[: np.flatnonzero(found.size)[-1] + 1] >= SMALLEST).all()


@given(st.integers(0, 1000), st.integers(0, 80), st.floats(0, 1))
def test_every_candidate_that_is_not_covered_is_in_the_order_once(seed: int, rows: int, share: float) -> None:
    random = np.random.default_rng(seed)
    covered, candidates = random.random(rows) < share, random.random(rows) < 0.8

    found = typical(levels(Sketches.of(random.normal(size=(rows, 3)))), covered, candidates)

    assert sorted(found.order.tolist()) == np.flatnonzero(candidates & ~covered).tolist()
    assert len(found.order) == len(found.size) == len(found.distance)
    assert np.isfinite(found.distance).tolist() == (found.size > 0).tolist()


def test_media_that_are_all_alike_are_all_in_the_order() -> None:
    found = typical(levels(Sketches.of(np.ones((30, 4)))), np.zeros(30, bool), np.ones(30, bool))

    assert sorted(found.order.tolist()) == [*range(30)]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (0, []),
        (1, [1]),
        (7, [7]),
        (15, [10, 15]),
        (45, [10, 20, 40, 45]),
        (600, [10, 20, 40, 80, 160, 320, 500]),
    ],
)
def test_every_level_has_twice_as_many_clusters_as_the_one_before(rows: int, wanted: list[int]) -> None:
    found = levels(Sketches.of(np.random.default_rng(0).normal(size=(rows, 8))))

    assert [len(level.size) for level in found] == wanted
    assert all(level.size.sum() == rows for level in found)


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 4), st.integers(1, 300))
def test_the_spacing_is_the_mean_distance_from_the_nearest_of_the_same_cluster(
    seed: int, rows: int, count: int, block: int
) -> None:
    random = np.random.default_rng(seed)
    points = random.integers(-200, 201, size=(rows, SKETCH)).astype(np.float32)
    which = random.integers(0, count, rows)

    with pytest.MonkeyPatch.context() as patched:
        whole = spacing(points, which).tolist()
        patched.setattr(module, "BLOCK", block)
        assert spacing(points, which).tolist() == whole

    for row in range(rows):
        others = np.flatnonzero((which == which[row]) & (np.arange(rows) != row))
        away = np.sort(np.linalg.norm(points[others].astype(np.float64) - points[row], axis=1))[:20]
        assert whole[row] == pytest.approx(away.mean() if len(away) else 0.0)


def test_of_many_media_those_with_a_sketch_and_the_smallest_hash_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE", 3)
    sketches = Sketches.of(np.ones((6, 2)))
    sketches.scale[1] = np.nan

    assert sample_of(np.flatnonzero(sketches.there), np.array([60, 10, 20, 50, 30, 40], np.uint32)).tolist() == [
        2,
        4,
        5,
    ]
