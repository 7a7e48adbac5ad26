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


def nearest(points: Singles, centres: Singles) -> Near:
    """The nearest centre of each point, the first of equals, and its squared distance; none, and infinite, of none."""
    if not len(centres):
        return np.zeros(len(points), np.intp), np.full(len(points), np.inf, np.float32)
    which, distance = np.empty(len(points), np.intp), squares(points)
    norms = squares(centres)
    step = max(1, BLOCK // len(centres))
    for first in range(0, len(points), step):
        block = points[first : first + step] @ centres.T
        block *= -2
        block += norms
        found = block.argmin(axis=1)
        which[first : first + step] = found
        distance[first : first + step] += block[np.arange(len(found)), found]
    return which, distance


def moved(points: Singles, weights: Floats, which: Places, centres: Singles, free: int) -> Singles:
    """The centres, of which the first `free` are where the weighted mean of their points is; those without stay.

    weights: whole numbers.
    """
    order = np.argsort(which, kind="stable")
    order = order[: np.searchsorted(which[order], free)]
    if not len(order):
        return centres
    of = which[order]
    first = np.flatnonzero(np.diff(of, prepend=-1))
    total = np.add.reduceat(weights[order], first)
    summed = np.add.reduceat(points[order] * weights[order][:, np.newaxis], first, axis=0)
    centres = centres.copy()
    centres[of[first]] = np.rint(summed / total[:, np.newaxis])
    return centres


def clusters(
    points: Singles, weights: Floats, centres: Singles, free: int, steps: int, near: Near | None = None
) -> tuple[Places, Singles, Singles]:
    """Weighted k-means: which centre each point is of, its squared distance, and the centres, of which some are fixed.

    near: the nearest of the fixed ones, if that is known. Source: Lloyd 1982.
    """
    fixed, apart = nearest(points, centres[free:]) if near is None else near

    def told() -> tuple[Places, Singles]:
        which, distance = nearest(points, centres[:free])
        closer = apart < distance  # of equals the first, which is free
        return np.where(closer, free + fixed, which), np.where(closer, apart, distance).astype(np.float32)

    which, distance = told()
    for _ in range(steps):
        centres = moved(points, weights, which, centres, free)
        before = which
        which, distance = told()
        if np.array_equal(which, before):
            break
    return which, distance, centres


def farthest(points: Singles, weights: Floats, count: int, fixed: Singles, near: Near | None = None) -> Places:
    """Places of points to begin with: each the farthest from those before, by weight times squared distance.

    The first is the one of the largest weight, if nothing is fixed; of equals the first. count: at most as many as
    there are points. near: the nearest of the fixed ones, if that is known. Source: Gonzalez 1985.
    """
    found, norms = np.empty(count, np.intp), squares(points)
    distance = (nearest(points, fixed) if near is None else near)[1].astype(np.float64)
    for turn in range(count):
        place = int(np.argmax(distance * weights if turn or len(fixed) else weights))
        found[turn] = place
        away = points @ points[place]
        away *= -2
        away += norms
        away += norms[place]
        np.minimum(distance, away, out=distance)
        distance[place] = -1.0
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
