"""k-means on a grid of whole numbers, so that it gives the same clusters on any machine (tables/sketches.py)."""

import numpy as np

from tables.arrays import Floats, Places, Singles
from tables.chance import mixed, uniform

Near = tuple[Places, Singles]  # of points the centre, and its squared distance; both (rows,)
BLOCK = 1 << 19  # distances that are held at a time


def squares(points: Singles) -> Singles:
    """The squared norm of each point, (rows,)."""
    found: Singles = np.einsum("ij,ij->i", points, points)
    return found


def nearest(points: Singles, centres: Singles, norms: Singles | None = None) -> Near:
    """The nearest centre of each point, the first of equals, and its squared distance; none, and infinite, of none.

    norms: the squared ones of the points, if they are known.
    """
    rows, count = len(points), len(centres)
    if not count:
        return np.zeros(rows, np.intp), np.full(rows, np.inf, np.float32)
    which, distance = np.empty(rows, np.intp), np.empty(rows, np.float32)
    twice, own = -2 * centres, squares(centres)[:, np.newaxis]
    backwards = np.arange(count, 0, -1).astype(np.min_scalar_type(count))[:, np.newaxis]
    step = max(1, BLOCK // count)
    for first in range(0, rows, step):
        # A row for each centre: the least of many such rows, and where it stands, takes less time than that of columns.
        part = slice(first, first + step)
        block = twice @ points[part].T
        block += own
        least = block.min(axis=0, out=distance[part])
        which[part] = count - ((block == least).view(np.uint8) * backwards).max(axis=0)
    distance += squares(points) if norms is None else norms
    return which, distance


def summed(points: Floats, which: Places, count: int) -> Floats:
    """The sum of the points of each of the first clusters, (count, columns): a product, exact for whole numbers."""
    found, step = np.zeros((count, points.shape[1])), max(1, BLOCK // count)
    for first in range(0, len(points), step):
        of = np.minimum(which[first : first + step], count)
        there = np.zeros((count + 1, len(of)))  # the last has those of all others
        there[of, np.arange(len(of))] = 1
        found += there[:-1] @ points[first : first + step]
    return found


def clusters(
    points: Singles, weights: Floats, centres: Singles, free: int, steps: int, near: Near | None = None
) -> tuple[Places, Singles, Singles]:
    """Weighted k-means: which centre each point is of, its squared distance, and the centres, of which some are fixed.

    The first `free` are not: they move to the weighted mean of their points, rounded; those without points stay.
    weights: whole numbers above 0. near: the nearest of the fixed ones, if that is known. Source: Lloyd 1982.
    """
    fixed, apart = nearest(points, centres[free:]) if near is None else near
    norms = squares(points)

    def told() -> Near:
        which, distance = nearest(points, centres[:free], norms)
        closer = apart < distance  # of equals the first, which is free
        return np.where(closer, free + fixed, which), np.where(closer, apart, distance)

    which, distance = told()
    weighted = np.multiply(points, weights[:, np.newaxis], order="C")
    sums, centres = summed(weighted, which, free), centres.copy()
    for _ in range(steps):
        total = np.bincount(which, weights)[:free]
        some = np.flatnonzero(total)
        centres[some] = np.rint(sums[some] / total[some, np.newaxis])
        before = which
        which, distance = told()
        moved = np.flatnonzero(which != before)  # they are few, after the first step
        if not len(moved):
            break
        of = weighted[moved]
        sums += summed(of, which[moved], free) - summed(of, before[moved], free)
    return which, distance, centres


def farthest(points: Singles, weights: Floats, count: int, fixed: Singles, near: Near | None = None) -> Places:
    """Places of points to begin with: each the farthest from those before, by weight times squared distance.

    The first is the one of the largest weight, if nothing is fixed; of equals the first. count: at most as many as
    there are points. near: the nearest of the fixed ones, if that is known. Source: Gonzalez 1985.
    """
    found, norms, twice = np.empty(count, np.intp), squares(points), np.multiply(points, -2, order="C")
    distance = (nearest(points, fixed) if near is None else near)[1].copy()
    away, far = np.empty_like(distance), distance * weights if len(fixed) else weights.copy()
    for turn in range(count):
        found[turn] = place = far.argmax()
        np.dot(points, twice[place], out=away)
        away += norms
        away += norms[place]
        np.minimum(distance, away, out=distance)
        distance[place] = -1.0
        np.multiply(distance, weights, out=far)
    return found


def scattered(points: Singles, count: int, number: int) -> Places:
    """Places of points to begin with, by k-means++: by chance, which is a hash of the number of the try.

    Source: Arthur & Vassilvitskii 2007.
    """
    found, norms = np.empty(count, np.intp), squares(points)
    draws = uniform(mixed(np.array([number])) + np.arange(count).astype(np.uint64))
    distance = np.ones(len(points))
    for turn in range(count):
        summed = np.cumsum(distance)  # whole numbers below 2 ** 53
        place = min(int(np.searchsorted(summed, draws[turn] * summed[-1], side="right")), len(points) - 1)
        found[turn] = place
        away = norms - 2 * (points @ points[place]) + norms[place]
        distance = np.minimum(distance, away) if turn else away.astype(np.float64)
    return found
