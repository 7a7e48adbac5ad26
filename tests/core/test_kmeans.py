from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tables import kmeans
from tables.kmeans import clusters, farthest, nearest, scattered, summed
from tables.sketches import SKETCH

Singles = NDArray[np.float32]


def points(*rows: list[int]) -> Singles:
    return np.array([row + [0] * (SKETCH - len(row)) for row in rows], np.float32)


def some(seed: int, rows: int) -> Singles:
    return np.random.default_rng(seed).integers(-200, 201, size=(rows, SKETCH)).astype(np.float32)


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 9), st.integers(1, 99))
def test_the_nearest_centre_is_the_same_however_many_are_multiplied_at_once(
    seed: int, rows: int, count: int, block: int
) -> None:
    own, centres = some(seed, rows), some(seed + 1, count)
    squared = ((own[:, None].astype(np.int64) - centres[None].astype(np.int64)) ** 2).sum(axis=2)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kmeans, "BLOCK", block)
        which, distance = nearest(own, centres)

    assert which.tolist() == squared.argmin(axis=1).tolist()
    assert distance.tolist() == squared.min(axis=1).tolist()


def test_of_centres_that_are_as_near_the_first_is_the_nearest() -> None:
    which, distance = nearest(points([0, 0]), points([3, 4], [-3, 4], [5, 0]))

    assert (which.tolist(), distance.tolist()) == ([0], [25.0])


def test_a_centre_moves_to_the_weighted_mean_of_its_points_and_one_without_points_or_that_is_fixed_stays() -> None:
    own, centres = points([0], [10], [50], [90]), points([1], [777], [60])

    which, _, found = clusters(own, np.array([1.0, 4.0, 1.0, 1.0]), centres, free=2, steps=1)

    assert (which.tolist(), found[:, 0].tolist()) == ([0, 0, 2, 2], [8, 777, 60])
    assert centres[:, 0].tolist() == [1, 777, 60]


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 9), st.integers(1, 99))
def test_sums_are_the_same_however_many_are_multiplied_at_once(seed: int, rows: int, count: int, block: int) -> None:
    own, which = some(seed, rows), np.random.default_rng(seed).integers(0, count, rows)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kmeans, "BLOCK", block)
        found = summed(own.astype(np.float64), which, count)
        few = summed(own.astype(np.float64), which, max(1, count - 1))

    assert found.tolist() == [own[which == each].sum(axis=0, dtype=np.float64).tolist() for each in range(count)]
    assert few.tolist() == found[: len(few)].tolist()


def test_clusters_settle_where_the_points_lie() -> None:
    own = points([0, 1], [0, -1], [100, 1], [100, -1])

    which, distance, centres = clusters(own, np.ones(4), points([0, 1], [0, -1]), free=2, steps=10)
    fixed, _, stayed = clusters(own, np.ones(4), points([100, 1], [0, 0]), free=1, steps=10)

    assert which.tolist() == [0, 1, 0, 1]  # a draw of Lloyd's: it does not leave where it began
    assert (distance.tolist(), centres[:, 0].tolist()) == ([2500.0] * 4, [50, 50])
    assert (fixed.tolist(), stayed[:, :2].tolist()) == ([1, 1, 0, 0], [[100, 0], [0, 0]])


def test_the_first_point_to_begin_with_weighs_the_most_and_each_other_is_the_farthest_from_those_before() -> None:
    own = points([0], [1], [9], [20])

    assert farthest(own, np.array([1.0, 5.0, 1.0, 1.0]), 3, points()[:0].reshape(0, SKETCH)).tolist() == [1, 3, 2]
    assert farthest(own, np.ones(4), 2, points([20])).tolist() == [0, 2]
    assert farthest(own, np.array([1.0, 1.0, 9.0, 1.0]), 1, points([20])).tolist() == [2]


@pytest.mark.parametrize("fixed", [0, 1])
def test_points_to_begin_with_are_all_different_though_they_lie_in_one_place(fixed: int) -> None:
    own = points(*[[7]] * 6)

    found = farthest(own, np.arange(6, 0, -1.0), 6, own[:fixed])

    assert sorted(found.tolist()) == [*range(6)]


def test_by_chance_points_far_apart_begin_and_another_number_is_another_try() -> None:
    own = points(*([n % 3 * 1000, n] for n in range(30)))

    tries = [scattered(own, 3, number) for number in range(9)]

    assert sum(len({place % 3 for place in each.tolist()}) == 3 for each in tries) >= 8
    assert len({tuple(each.tolist()) for each in tries}) > 1
    assert scattered(own, 3, 4).tolist() == tries[4].tolist()
    assert scattered(points(*[[7]] * 3), 3, 0).shape == (3,)


@given(st.integers(0, 1000), st.integers(2, 40), st.integers(1, 6))
def test_more_steps_never_lie_farther_from_the_points(seed: int, rows: int, count: int) -> None:
    own, count = some(seed, rows), min(count, rows)
    weights = np.arange(1.0, rows + 1)
    begin = own[farthest(own, weights, count, own[:0])]

    inertia = [float((clusters(own, weights, begin, count, steps)[1] * weights).sum()) for steps in range(6)]

    # Centres are whole numbers: what rounding adds is at most a quarter for each of their numbers.
    allowed = SKETCH / 4 * weights.sum()
    assert all(after <= before + allowed for before, after in pairwise(inertia))
