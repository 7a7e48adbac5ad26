"""Chance that is the same for ever: hashes that look drawn by lot."""

import numpy as np
from numpy.typing import NDArray

from tables.arrays import Array, Floats, Numbers, Places

STEP = 0x9E3779B97F4A7C15  # 2 ** 64 by the golden ratio: SplitMix64's step from one number to the next


def mixed(numbers: Array) -> Numbers:
    """Numbers that look drawn by lot, one for each: SplitMix64 (Steele et al. 2014).

    >>> int(mixed(np.array([0], np.uint64))[0]) == 0xE220A8397B1DCDAF
    True
    """
    return finalized(numbers.astype(np.uint64) + np.uint64(STEP))


def finalized(numbers: Numbers) -> Numbers:
    """The finalizer of SplitMix64: of numbers that differ in a bit about half of the bits differ."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


def uniform(numbers: Array) -> Floats:
    """Numbers in [0, 1) that look drawn by lot, one for each."""
    found: Floats = (mixed(numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found


def lots(numbers: Numbers) -> NDArray[np.uint32]:
    """The place of each number among all of them: the same order in less bits.

    >>> lots(np.array([30, 10, 20], np.uint64)).tolist()
    [2, 0, 1]
    """
    found = np.empty(len(numbers), np.uint32)
    found[np.argsort(numbers)] = np.arange(len(numbers), dtype=np.uint32)
    return found


def by_value(values: Floats, lot: Numbers | NDArray[np.uint32]) -> Places:
    """The places of values, the least first, of equal ones that with the least lot. lot: below 2 ** 32, distinct.

    Sorts of plain numbers are several times as fast as those of numpy that are stable or have several keys.

    >>> by_value(np.array([0.5, 0.1, 0.5]), np.array([9, 8, 7], np.uint64)).tolist()
    [1, 2, 0]
    """
    order = np.argsort(values)
    differ = np.diff(values[order]) != 0
    if differ.all():
        return order
    key = np.empty(len(values), np.uint64)
    key[order] = np.concatenate([np.zeros(1, np.uint64), np.cumsum(differ, dtype=np.uint64)])
    return np.argsort(key << np.uint64(32) | lot)
