from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tables import kmeans
from tables.chance import mixed
from tables.heads import OFTEN, Head, apportioned, crowding, explored, head, rank_of, shares
from tables.sketches import Sketches

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
NOBODY = Sketches.none(0)
A, B, C = 11, 22, 33  # labels


def lying(of: Places, seed: int = 0) -> Sketches:
    """Sketches of features that lie around a point of a cluster each, far from those of other clusters."""
    random = np.random.default_rng(seed)
    middle = np.random.default_rng(9).normal(size=(int(of.max(initial=0)) + 1, 128)) * 9
    return Sketches.of(middle[of] + random.normal(size=(len(of), 128)) * 0.1)


def falling(count: int) -> Floats:
    """Utilities, the best first."""
    return np.linspace(1, 0, count)


def told(of: Head) -> list[object]:
    return [of.places.tolist(), of.size.tolist(), of.distance.tobytes()]


@given(st.integers(0, 1000), st.integers(2, 9))
def test_each_of_a_set_stands_for_a_cluster_however_the_candidates_are_ordered(seed: int, count: int) -> None:
    of = np.random.default_rng(seed).permutation(np.repeat(np.arange(count), OFTEN))

    found = head(lying(of, seed), falling(len(of)), count, NOBODY)

    assert sorted(of[found.places].tolist()) == [*range(count)]
    assert found.size.tolist() == [OFTEN] * count
    assert (np.diff(found.places) > 0).all()


def test_the_distance_is_that_from_the_middle_of_the_cluster_in_units_of_the_features() -> None:
    features = np.array([[0.0, 0.0], [8.0, 0.0], [100.0, 0.0], [100.0, 0.0], [100.0, 0.0]])

    found = head(Sketches.of(features), falling(5), 2, NOBODY)

    # Of two that are 8 apart the heavier one is nearer to their middle, and less than half way from it.
    assert found.size.tolist() == [2, 3]
    assert 1 < found.distance[0] < 4
    assert found.distance[1] == pytest.approx(0.0, abs=0.1)


def test_it_is_crowded_where_the_nearest_are_near() -> None:
    points = np.array([[0.0], [3.0], [4.0], [50.0], *[[6.0]] * 8], np.float32)

    found = crowding(points)

    # The ten nearest, itself among them.
    assert found[0] == 9 + 16 + 7 * 36
    assert found[3] == 44**2 * 8 + 46**2
    assert found.argmax() == 3
    assert rank_of(np.array([5.0, 1.0, 5.0, 7.0])).tolist() == [3.0, 1.0, 2.0, 4.0]


@given(st.integers(0, 1000), st.integers(20, 80), st.integers(1, 4), st.booleans())
def test_where_nearly_all_candidates_are_taken_there_are_as_many_as_were_asked_for(
    seed: int, rows: int, left: int, outliers: bool
) -> None:
    random = np.random.default_rng(seed)
    features = np.rint(random.normal(size=(rows, 2)) * 0.3)  # nearly all alike
    features[-3:] += outliers * random.normal(size=(3, 2)) * 50

    found = head(Sketches.of(features), falling(rows), rows - left, NOBODY)

    assert len({*found.places.tolist()}) == rows - left
    assert np.isfinite(found.distance).tolist() == (found.size > 0).tolist()


def test_media_that_others_have_keep_a_set_away_from_their_cluster() -> None:
    of = np.tile(np.arange(4), 10)

    found = head(lying(of), falling(40), 2, lying(np.array([0, 3])))
    alone = head(lying(of), falling(40), 1, lying(np.array([0, 3, 1])))

    assert {*of[found.places].tolist()} == {1, 2}
    assert of[alone.places].tolist() == [2]


def test_media_that_others_have_without_a_sketch_keep_nobody_away() -> None:
    sketches = lying(np.tile(np.arange(3), 10))

    assert told(head(sketches, falling(30), 2, Sketches.none(5))) == told(head(sketches, falling(30), 2, NOBODY))


@pytest.mark.parametrize("count", [1, 7, 30, 99])
def test_without_sketches_a_set_is_the_best(count: int) -> None:
    found = head(Sketches.none(30), falling(30), count, NOBODY)

    assert found.places.tolist() == [*range(min(count, 30))]
    assert not found.size.any()
    assert np.isnan(found.distance).all()


def test_one_alone_is_the_best_one() -> None:
    assert head(lying(np.tile(np.arange(3), 5)), falling(15), 1, NOBODY).places.tolist() == [0]


def test_of_those_without_a_sketch_as_many_are_taken_as_are_among_the_best() -> None:
    of = np.tile(np.arange(3), 15)
    sketches = lying(of)
    sketches.scale[[1, 7, 8, 9]] = np.nan

    found = head(sketches, falling(45), 4, NOBODY)

    assert found.places[found.size == 0].tolist() == [1]
    assert {*of[found.places[found.size > 0]].tolist()} == {0, 1, 2}


def test_of_media_that_are_all_alike_the_best_are_taken_once_each() -> None:
    found = head(lying(np.zeros(1, np.intp))[np.zeros(60, np.intp)], falling(60), 4, NOBODY)

    assert found.places.tolist() == [0, 1, 2, 3]
    assert found.size.tolist() == [60, 0, 0, 0]


def test_of_fewer_clusters_than_wanted_each_is_there_and_the_set_is_full() -> None:
    of = np.repeat(np.arange(2), 30)
    exact = lying(np.arange(2))[of]

    found = head(exact, falling(60), 4, NOBODY)

    assert len({*found.places.tolist()}) == 4
    assert Counter(of[found.places].tolist())[1] >= 1


def test_the_same_candidates_are_the_same_set_however_many_are_multiplied_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(3)
    sketches, fixed = (Sketches.of(random.normal(size=(rows, 300))) for rows in (450, 20))
    utility = random.permutation(falling(450))
    first = told(head(sketches, utility, 30, fixed))

    for block in (1, 77, 4096, 1 << 22):
        monkeypatch.setattr(kmeans, "BLOCK", block)
        assert told(head(sketches, utility, 30, fixed)) == first


@given(st.integers(0, 1000))
def test_it_does_not_matter_in_what_a_utility_is_measured(seed: int) -> None:
    random = np.random.default_rng(seed)
    sketches, utility = Sketches.of(random.normal(size=(60, 5))), random.random(60)

    assert told(head(sketches, utility, 4, NOBODY)) == told(head(sketches, np.exp(9 * utility), 4, NOBODY))


@given(st.integers(0, 1000), st.integers(0, 6), st.integers(0, 6), st.sampled_from([0.0, 0.3, 1.0]))
def test_a_set_has_as_many_of_each_label_as_its_quota_says(seed: int, a: int, b: int, without: float) -> None:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.array([A] * 30 + [B] * 9 + [C] * 9, np.uint64))
    sketches = lying(random.integers(0, 4, 48), seed)
    sketches.scale[random.random(48) < without] = np.nan

    found = head(sketches, falling(48), a + b, NOBODY, labels, {A: a, B: b})

    assert Counter(labels[found.places].tolist()) == Counter({A: a, B: b})


def test_the_media_of_a_quota_are_unlike_each_other() -> None:
    of, labels = np.tile(np.arange(3), 20), np.array([A, A, A, B, B, B] * 10, np.uint64)

    found = head(lying(of), falling(60), 3, NOBODY, labels, {A: 2, B: 1})

    assert len({*of[found.places].tolist()}) == 3


def test_seats_are_apportioned_as_dhondt_does() -> None:
    # The example of every textbook: votes of four parties, for eight seats.
    votes = {1: 100_000, 2: 80_000, 3: 30_000, 4: 20_000}

    assert apportioned(8, shares("pool", votes), dict.fromkeys(votes, 99), {}) == {1: 4, 2: 3, 3: 1, 4: 0}


@pytest.mark.parametrize(
    ("count", "there", "had", "wanted"),
    [
        (4, {A: 9, B: 9}, {}, {A: 2, B: 2}),
        (4, {A: 9, B: 9}, {A: 4}, {A: 0, B: 4}),  # what was labelled before counts
        (4, {A: 9, B: 1}, {A: 4}, {A: 3, B: 1}),  # one of which nothing is left gives its turn
        (4, {A: 1, B: 1, C: 9}, {}, {A: 1, B: 1, C: 2}),  # one without a target comes last
        (9, {A: 1, B: 1}, {}, {A: 1, B: 1}),
        (3, {}, {}, {}),
        (3, {A: 5, B: 5}, {C: 100}, {A: 2, B: 1}),
    ],
)
def test_each_turn_is_the_labels_that_is_farthest_behind(
    count: int, there: dict[int, int], had: dict[int, int], wanted: dict[int, int]
) -> None:
    assert apportioned(count, {A: 0.5, B: 0.5}, there, had) == wanted


counts = st.dictionaries(st.integers(1, 6), st.integers(0, 20))


@given(counts, counts, st.dictionaries(st.integers(1, 6), st.floats(0, 1)), st.integers(0, 60))
def test_a_larger_set_has_no_less_of_any_label_and_is_full_while_there_are_any(
    there: dict[int, int], had: dict[int, int], target: dict[int, float], count: int
) -> None:
    one, more = (apportioned(each, target, there, had) for each in (count, count + 1))

    assert sum(one.values()) == min(count, sum(there.values()))
    assert all(one[label] <= more[label] <= there[label] for label in there)


def test_what_nobody_named_has_no_share_and_where_nothing_named_is_there_shares_are_the_pools() -> None:
    pool = {A: 30, B: 10}

    assert shares("uniform", pool) == {A: 0.5, B: 0.5}
    assert shares("pool", pool) == {A: 0.75, B: 0.25}
    assert shares({A: 1.0, C: 3.0}, pool) == {A: 1.0, B: 0.0}
    assert shares({C: 3.0}, pool) == {A: 0.75, B: 0.25}
    assert shares("uniform", {}) == {}


def drawn(pool: int, best: list[int], share: float, count: int, times: int) -> Iterator[tuple[list[int], list[float]]]:
    """Sets of many seeds: their media, and how probable each is."""
    chance = mixed(np.arange(pool))
    for seed in mixed(np.arange(times)).tolist():
        of = explored(np.array(best, np.intp), chance, share, count, seed)
        yield [*best[: of.ranked], *of.drawn.tolist()], of.probability.tolist()


SETS = [
    (12, [3, 0, 7], 0.3, 4),  # 1.2 by lot: one, or by chance two
    (12, [3, 0, 7, 9, 1], 0.1, 5),  # 0.5: none or one
    (12, [5, 2], 0.5, 4),
    (12, [5], 0.9, 5),
    (12, [5], 0.0, 1),
    (12, [1], 0.25, 1),
    (12, [], 1.0, 5),
    (4, [2, 0, 1], 0.3, 9),  # all that there is
    (12, [4], 0.5, 6),  # quotas left the head shorter
    (1, [0], 0.5, 1),
]


@pytest.mark.parametrize(("pool", "best", "share", "count"), SETS)
def test_how_probable_a_medium_is_is_what_one_counts(pool: int, best: list[int], share: float, count: int) -> None:
    times, counted, told = 3000, Counter[int](), dict[int, set[float]]()
    for media, probabilities in drawn(pool, best, share, count, times):
        assert len(media) == len({*media}) == min(count, pool)
        counted.update(media)
        for medium, probability in zip(media, probabilities, strict=True):
            told.setdefault(medium, set()).add(round(probability, 12))

    assert all(len(each) == 1 for each in told.values())  # it does not depend on how chance decided
    single = {medium: min(each) for medium, each in told.items()}
    assert sum(single.values()) == pytest.approx(min(count, pool))
    for medium, each in single.items():
        deviation = max(each * (1 - each) / times, 1e-9) ** 0.5
        assert counted[medium] / times == pytest.approx(each, abs=4.5 * deviation)


def test_what_is_measured_by_its_probability_adds_up_to_the_pools_sum_in_the_mean() -> None:
    measured = np.random.default_rng(0).random(30)

    sums = [
        float((measured[media] / probabilities).sum())
        for media, probabilities in drawn(30, [4, 8, 1, 0, 9, 11], 0.45, 10, 4000)
    ]

    assert np.mean(sums) == pytest.approx(measured.sum(), abs=4 * np.std(sums) / 4000**0.5)


def test_the_share_by_lot_is_what_was_asked_for_in_the_mean() -> None:
    ranked = [media[0] == 0 for media, _ in drawn(500, [0], 0.3, 1, 4000)]

    assert np.mean(ranked) == pytest.approx(0.7, abs=0.03)


def test_another_seed_is_another_draw_and_the_same_the_same() -> None:
    sets = [tuple(media) for media, _ in drawn(100, [], 1.0, 5, 20)]

    assert len({*sets}) == 20
    assert sets == [tuple(media) for media, _ in drawn(100, [], 1.0, 5, 20)]
