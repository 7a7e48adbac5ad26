"""Chance that is the same for ever: hashes that look drawn by lot."""

import numpy as np

from tables.arrays import Array, Floats, Numbers

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
