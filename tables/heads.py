"""The head of an order: of the best candidates, a set whose media are unlike each other, and of all labels.

Chance is a hash, and all else exact: the same candidates give the same set on any machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tables.arrays import Array, Floats, Numbers, Places, Singles
from tables.chance import mixed, uniform
from tables.kmeans import clusters, farthest, nearest, squares
from tables.sketches import Sketches

OFTEN = 20  # candidates for each medium of a set,
AMONG = 6  # and of how many media at least one is one: what is far from the best gains nothing by being unlike them
STEPS = 5  # of k-means in a head; more change nothing that can be measured
ANCHORS, NEIGHBOURS = 256, 10  # that tell how crowded it is around a candidate
EVERY = 0  # the label of all, where labels do not matter
TINY = 1e-9  # what a share times a count may lack of a whole number


@dataclass(frozen=True)
class Head:
    """What was taken of candidates, in their order; all (count,).

    places: which ones. size: how many candidates are in the cluster that each stands for; 0 where it was taken by its
    score alone. distance: from the centre of the cluster, in units of the features; NaN there.
    """

    places: Places
    size: NDArray[np.int64]
    distance: Floats


def head(
    sketches: Sketches,
    utility: Floats,
    count: int,
    fixed: Sketches,
    labels: Array | None = None,
    quota: Mapping[int, int] | None = None,
) -> Head:
    """As many of the candidates, so that they are useful and unlike each other, and unlike media that are fixed.

    Weighted k-means; of each cluster the candidate nearest to its centre. A candidate weighs as much as its place in
    the order and the rank of its utility among them add up to, times the root of its rank by how near others are: so it
    does not matter what is measured, the best of a label that is rare keep their weight, and one that is like many
    others comes before one that is like none. Of candidates without a sketch as many are taken as are among the best.
    Where there are fewer clusters than wanted, since media are alike, the best of the others. One alone, with nothing
    fixed, is the best.

    sketches: of the candidates, best score first: OFTEN times the count; all of one model. utility: of each, NaN for
    none. fixed: media that others have, with sketches of the same model.
    labels, quota: with both, as many of each predicted label are taken as its quota says, the sum of which is the
    count; candidates are OFTEN times the quota of each label then.
    Source: Zhdanov, arXiv:1901.05954, section 3; how near others are: Settles & Craven 2008, section 3.4 (information
    density). The ranks and quotas are ours.
    """
    count = min(count, len(sketches))
    if labels is None or quota is None:
        labels, quota = np.full(len(sketches), EVERY), {EVERY: count}
    left, of = dict(quota), labels.tolist()
    taken = np.zeros(len(sketches), bool)
    size, away = np.zeros(len(sketches), np.int64), np.full(len(sketches), np.nan)

    def take(place: int) -> bool:
        if taken[place] or left.get(of[place], 0) <= 0:
            return False
        left[of[place]] -= 1
        taken[place] = True
        return True

    rows = np.flatnonzero(sketches.there)
    if len(rows) < len(sketches):
        for place in best_of(of, quota):
            if not np.isfinite(sketches.scale[place]):
                take(place)
    wanted, fixed = sum(left.values()), fixed[fixed.there]
    if wanted < len(rows) and (wanted > 1 or (wanted == 1 and len(fixed))):
        which, distance, step = clustered(sketches[rows], utility[rows], wanted, fixed)
        sizes, open_ = np.bincount(which, minlength=wanted), [True] * wanted + [False] * len(fixed)
        nearest_first = np.argsort(distance, kind="stable")
        apart = np.sqrt(distance.astype(np.float64)) * step
        each_of = (each[nearest_first].tolist() for each in (which, rows, apart))
        for cluster, place, far in zip(*each_of, strict=True):
            if open_[cluster] and take(place):
                open_[cluster] = False
                size[place] = sizes[cluster]
                away[place] = far
    if any(left.values()):
        for place in range(len(sketches)):
            take(place)
    places = np.flatnonzero(taken)
    return Head(places, size[places], away[places])


def best_of(labels: list[int], quota: Mapping[int, int]) -> list[int]:
    """Places of the first of each label, as many as its quota."""
    left, found = dict(quota), []
    for place, label in enumerate(labels):
        if left.get(label, 0) > 0:
            left[label] -= 1
            found.append(place)
    return found


def rank_of(values: Floats) -> Floats:
    """The rank of each value, 1 for the least; of equals the last one has the least: (rows,)."""
    rank = np.empty(len(values))
    rank[::-1][np.argsort(values[::-1], kind="stable")] = np.arange(1.0, len(values) + 1)
    return rank


def crowding(points: Singles) -> Floats:
    """How far the nearest others are: the sum of their squared distances, (rows,). The less, the more a point tells of.

    Of many points only some stand for the others: as many of the best as of the worst.
    """
    some = points[np.linspace(0, len(points) - 1, min(len(points), ANCHORS)).astype(np.intp)]
    apart = points @ (-2 * some).T
    apart += squares(some)
    apart.sort(axis=1)  # in less time than it takes to part them
    near = apart[:, :NEIGHBOURS]
    found: Floats = near.sum(axis=1, dtype=np.float64) + near.shape[1] * squares(points).astype(np.float64)
    return found


def clustered(sketches: Sketches, utility: Floats, count: int, fixed: Sketches) -> tuple[Places, Singles, float]:
    """The cluster of each candidate, its squared distance from the centre, and the step of both grids."""
    points, step = (sketches + fixed).points()
    own, others = points[: len(sketches)], points[len(sketches) :]
    by_place = np.arange(len(own), 0, -1.0)
    weights = by_place + rank_of(np.nan_to_num(utility, nan=-np.inf))
    # None weighs nothing: a cluster of such alone would have no mean.
    weights = np.maximum(np.rint(weights * np.sqrt(rank_of(-crowding(own)) / len(own))), 1.0)
    near = nearest(own, others)
    begin = own[farthest(own, weights, count, others, near)]
    which, distance, _ = clusters(own, weights, np.concatenate([begin, others]), count, STEPS, near)
    return which, distance, step


Quotas = Literal["uniform", "pool"] | Mapping[int, float]


def shares(quotas: Quotas, pool: Mapping[int, int]) -> dict[int, float]:
    """What share of a set each predicted label should have, adding up to 1 over the labels that the pool has.

    pool: how many media each label is predicted for, without those for which none is: they come last. A label that is
    not named gets nothing, unless none is that is there: then as the pool.
    """
    wanted = {label: 1.0 if quotas == "uniform" else float(count) for label, count in pool.items()}
    if not isinstance(quotas, str):
        named = {label: float(quotas.get(label, 0.0)) for label in pool}
        wanted = named if any(named.values()) else wanted
    total = sum(wanted.values())
    return {label: share / total for label, share in wanted.items()}


def apportioned(
    count: int, target: Mapping[int, float], there: Mapping[int, int], had: Mapping[int, int]
) -> dict[int, int]:
    """How many media of each label a set should have, so that with those that were had before it nears the target.

    One after the other, each for the label that is farthest behind: the one with the most target for each medium it
    would have (D'Hondt). A label of which nothing is left gives its turn to the others; those without a target come
    when the others are used up, the most frequent first.

    there: how many can be had. had: how many were annotated or given out before; the nearer to their true labels, the
    nearer the result is to the target.

    >>> apportioned(5, {1: 0.5, 2: 0.5}, {1: 9, 2: 9}, {1: 3})
    {1: 1, 2: 4}
    """
    given = dict.fromkeys(sorted(there), 0)

    def turn(label: int) -> tuple[float, int, int]:
        share, left = target.get(label, 0.0), there[label] - given[label]
        return -share / (had.get(label, 0) + given[label] + 1), 0 if share else -left, label

    turns = [turn(label) for label in given if there[label]]
    heapify(turns)
    for _ in range(min(count, sum(there.values()))):
        label = turns[0][-1]
        given[label] += 1
        if given[label] < there[label]:
            heapreplace(turns, turn(label))
        else:
            heappop(turns)
    return given


@dataclass(frozen=True)
class Explored:
    """A set of which a part was drawn at random.

    ranked: how many of the head are in it, from its beginning. drawn: places in the pool that were drawn besides.
    probability: with which each of the set is in it, (ranked + drawn,), the ranked first.
    """

    ranked: int
    drawn: Places
    probability: Floats


def drawn_at_least(share: float, count: int) -> int:
    """How many of a set of so many are drawn at random at least, where a share of it is."""
    return min(int(share * count + TINY), count)


def explored(head: Places, chance: Numbers, share: float, count: int, seed: int) -> Explored:
    """A share of a set at random: of count media, m are drawn from all of the pool that the head does not have.

    m is the share times the count, rounded up or down by chance, so that it is the share in the mean. The head is that
    of the most places that it can have; one less is its best without the last. Told is how probable it is, whatever
    chance rounds and draws, that a medium is in a set that is made at this moment. So the sum over the set of what is
    measured by its probability is an unbiased estimate of the sum over the pool (Horvitz & Thompson 1952), as long as
    something may be drawn: share > 0.

    head: places in the pool of the count - floor(share count) that are chosen, best first; fewer if there are no more.
    chance: of all media of the pool, a hash each. seed: another for each set.
    """
    pool = len(chance)
    count = min(count, pool)
    exact = share * count
    least = drawn_at_least(share, count)
    head = head[: count - least]
    up = exact - least if exact - least > TINY and len(head) else 0.0
    rounded = bool(uniform(np.array([seed], np.uint64))[0] < up)
    ranked, drawn_least, outside = len(head) - rounded, count - len(head), pool - len(head)
    free = np.ones(pool, bool)
    free[head[:ranked]] = False
    rest = np.flatnonzero(free)
    lots = mixed(chance[rest] ^ mixed(np.array([seed], np.uint64) ^ np.uint64(0x5851F42D4C957F2D)))
    drawn = rest[least_of(lots, count - ranked)]
    # The last of the head is chosen or, where it had to go, drawn; the others of the pool can only be drawn.
    one_more = up * (drawn_least + 1) / (outside + 1)
    other, last = (1 - up) * drawn_least / max(1, outside) + one_more, 1 - up + one_more
    probability = np.concatenate([np.ones(ranked), np.full(len(drawn), other)])
    if rounded:
        probability[ranked:][drawn == head[-1]] = last
    elif up > 0:
        probability[ranked - 1] = last
    return Explored(ranked, drawn, probability)


def least_of(lots: Numbers, count: int) -> Places:
    """The places of so many of the least, the least first, of equal ones the first."""
    some = np.arange(len(lots))
    if 0 < count < len(lots):  # not all are sorted: there may be a million
        some = np.flatnonzero(lots <= np.partition(lots, count - 1)[count - 1])
    return some[np.argsort(lots[some], kind="stable")][:count]
