"""What is typical: an order for a beginning, before any model has scored the media.

Source: TypiClust, Hacohen et al., arXiv:2202.02794, section 3.2; the levels are ours.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tables.arrays import Floats, Mask, Places, Singles
from tables.kmeans import BLOCK, clusters, scattered, squares
from tables.sketches import Sketches

SAMPLE = 20_000  # media among which the most typical are looked for
FIRST, MOST = 10, 500  # clusters of the coarsest and of the finest level
NEIGHBOURS, SMALLEST = 20, 5  # of a typicality; of a cluster that is not an outlier (TypiClust, section 3.2)
TYPICAL_STEPS, TRIES = 15, 10  # of the coarsest level; of finer ones fewer tries: more of them change little


@dataclass(frozen=True)
class Level:
    """The clusters of a sample.

    which: of each medium, its cluster. size: of each cluster. away: how far each medium is from its nearest neighbours
    in its cluster, in the mean, in units of the features: the less, the more typical.
    """

    which: Places
    size: NDArray[np.int64]
    away: Floats


@dataclass(frozen=True)
class Typical:
    """Media of a sample, the first of which are those to begin with.

    order: their places. size: of the cluster that each of these stands for, 0 where it was not chosen as typical.
    distance: its mean distance from its nearest neighbours, in units of the features; NaN there.
    """

    order: Places
    size: NDArray[np.int64]
    distance: Floats


def sample_of(media: Places, lot: NDArray[np.uint32]) -> Places:
    """Those of some media among which the typical ones are looked for: with the least lot, in its order."""
    return media[np.argsort(lot[media])][:SAMPLE]


def levels(sketches: Sketches) -> list[Level]:
    """The clusters of a sample, at each level twice as many as before; it takes seconds where the sample is large."""
    points, step = sketches.points()
    found, count = list[Level](), 0
    while len(points) and count < min(MOST, len(points)):
        count = min(max(FIRST, 2 * count), MOST, len(points))
        which = best_clusters(points, count)
        found.append(Level(which, np.bincount(which, minlength=count), spacing(points, which) * step))
    return found


def typical(of: list[Level], covered: Mask, candidates: Mask) -> Typical:
    """An order for a beginning without a model; the first N of it are a good set whatever N is.

    Level by level, of the clusters that hold nothing that is covered or was chosen before, the most typical medium, the
    largest cluster first. After the last level the others follow, of each cluster the most typical first, those of
    clusters that have the fewest first.

    covered: of each medium of the sample, whether it is annotated or somebody has it. candidates: whether it may be in
    the order if it is not.
    """
    done = covered.copy()
    chosen, sizes, apart = [np.empty(0, np.intp)], [np.empty(0, np.int64)], [np.empty(0)]
    for level in of:
        empty = np.bincount(level.which[done], minlength=len(level.size)) == 0
        leading = np.lexsort((level.away, level.which))
        leading = leading[candidates[leading]]
        leading = leading[np.diff(level.which[leading], prepend=-1) > 0]
        leading = leading[(empty & (level.size >= SMALLEST))[level.which[leading]]]
        leading = leading[np.argsort(-level.size[level.which[leading]], kind="stable")]
        done[leading] = True
        chosen.append(leading)
        sizes.append(level.size[level.which[leading]])
        apart.append(level.away[leading])
    rest = by_turns(of[-1], done, candidates) if of else chosen[0]
    return Typical(
        np.concatenate([*chosen, rest]),
        np.concatenate([*sizes, np.zeros(len(rest), np.int64)]),
        np.concatenate([*apart, np.full(len(rest), np.nan)]),
    )


def by_turns(level: Level, done: Mask, candidates: Mask) -> Places:
    """The candidates that are not done: each cluster gives its most typical, those with the fewest done first."""
    had = np.bincount(level.which[done], minlength=len(level.size))
    left = np.flatnonzero(candidates & ~done)
    left = left[np.lexsort((level.away[left], level.which[left]))]
    of = level.which[left]
    numbers = np.bincount(of, minlength=len(level.size))
    turn = np.arange(len(left)) - np.repeat(np.cumsum(numbers) - numbers, numbers) + had[of]
    return left[np.lexsort((of, -numbers[of], turn))]


def best_clusters(points: Singles, count: int) -> Places:
    """The best k-means of several tries, the fewer the more clusters there are: the one with the least inertia."""
    ones = np.ones(len(points))
    best: tuple[float, Places] | None = None
    for number in range(max(1, TRIES * FIRST // count)):
        begin = points[scattered(points, count, number)]
        which, distance, _ = clusters(points, ones, begin, count, TYPICAL_STEPS)
        inertia = float(distance.sum(dtype=np.float64))
        if best is None or inertia < best[0]:
            best = inertia, which
    assert best is not None
    return best[1]


def spacing(points: Singles, which: Places) -> Floats:
    """The mean distance of each point from its nearest neighbours in its cluster, (rows,): the less, the more typical.

    0 where a point is alone.
    """
    found = np.zeros(len(points))
    order = np.argsort(which, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
        own = points[rows]
        norms, near = squares(own), min(NEIGHBOURS, len(rows) - 1)
        if near < 1:
            continue
        step = max(1, BLOCK // len(rows))
        for first in range(0, len(rows), step):
            block = own[first : first + step] @ own.T
            block *= -2
            block += norms
            block += norms[first : first + step, np.newaxis]
            here = np.arange(len(block))
            block[here, first + here] = np.inf
            closest = np.sort(np.partition(block, near - 1, axis=1)[:, :near], axis=1).astype(np.float64)
            total = np.zeros(len(block))
            for column in np.sqrt(closest).T:  # one after the other: no sum of its own order
                total += column
            found[rows[first : first + step]] = total / near
    return found
