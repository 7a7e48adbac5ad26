"""Sketches: what is kept of features, 64 small numbers of each row, to tell which media are alike.

All is equal to the byte on any machine, and whatever the shapes that BLAS is given: what is multiplied are integers
that are small enough for every sum of them to be exact in the float that holds it, in any order.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tables.arrays import Array, Mask, Singles
from tables.chance import mixed

SKETCH = 64  # numbers in a sketch
EXACT_BITS = 24  # integers up to 2 ** 24, and their sums up to that, are exact in a float32
NORM = 2040.0  # of the longest point: squared distances, up to (2 NORM) ** 2, stay below 2 ** EXACT_BITS
FAR = 4.0  # times the median norm: a point farther out is drawn in, or it would leave no digits to the others


@lru_cache(maxsize=8)
def signs(length: int) -> Singles:
    """The projection of features to a sketch, (length, SKETCH) of -1 and 1: the bits of a hash of the feature's index.

    Source: Achlioptas 2003, "Database-friendly random projections".
    """
    words = mixed(np.arange(length)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8).reshape(length, 8), axis=1)
    return (2.0 * bits - 1.0).astype(np.float32)


@dataclass(frozen=True)
class Sketches:
    """What is kept of features, one row for each medium; each is made of its own features alone.

    values: (rows, SKETCH), int8. scale: (rows,), what a step of a row's values is in units of the features; NaN where
    there is no sketch. The values times the scale are as far apart as the features, but for some percent.
    """

    values: NDArray[np.int8]
    scale: Singles

    @classmethod
    def of(cls, features: Array) -> "Sketches":
        """The sketches of features, (rows, D <= 2 ** 22) of any float: short ones as they are, long ones projected.

        A row that is not finite, or has no number at all, has none.
        """
        length = features.shape[1]
        wide = features.astype(np.float64)
        largest = np.abs(wide).max(axis=1, initial=0.0)
        there = np.isfinite(largest) & (length > 0)
        # By a power of two: no digits are lost, whatever the float.
        power = np.maximum(np.frexp(np.where(there, largest, 0.0))[1], -900)
        bits = EXACT_BITS - (length - 1).bit_length() if length > 1 else EXACT_BITS
        if not there.all():
            wide[~there] = 0
        wide *= np.exp2(bits - power)[:, np.newaxis]
        whole = np.rint(wide)
        if length <= SKETCH:
            whole, shrink = np.pad(whole, ((0, 0), (0, SKETCH - length))), 1.0
        else:
            whole, shrink = (whole.astype(np.float32) @ signs(length)).astype(np.float64), SKETCH**-0.5
        most = np.maximum(np.abs(whole).max(axis=1, initial=0.0), 1.0)
        values = np.rint(whole * 127 / most[:, np.newaxis]).astype(np.int8)
        with np.errstate(over="ignore", under="ignore"):
            scale = np.ldexp(most / 127 * shrink, power - bits).astype(np.float32)
        return cls(values, np.where(there & np.isfinite(scale), scale, np.float32(np.nan)))

    @classmethod
    def none(cls, rows: int) -> "Sketches":
        """As many media, and no sketch of any."""
        return cls(np.zeros((rows, SKETCH), np.int8), np.full(rows, np.nan, np.float32))

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, rows: Array) -> "Sketches":
        return Sketches(self.values[rows], self.scale[rows])

    def __add__(self, other: "Sketches") -> "Sketches":
        return Sketches(np.concatenate([self.values, other.values]), np.concatenate([self.scale, other.scale]))

    @property
    def there(self) -> Mask:
        """Of which media there is one, (rows,)."""
        return np.isfinite(self.scale)

    def where(self, some: Mask) -> "Sketches":
        """Those of some media, (rows,); the others have none."""
        return Sketches(self.values, np.where(some, self.scale, np.float32(np.nan)))

    def points(self) -> tuple[Singles, float]:
        """All of them as points of one grid, (rows, SKETCH) of integers, and what its step is in units of the features.

        Those far out are drawn in. All must be there.
        """
        values = np.ascontiguousarray(self.values.T, np.float64)  # by columns, as `nearest` multiplies them soonest
        # Of each row by itself: a sum that is no integer must not depend on its machine.
        norm = np.sqrt(np.einsum("ij,ij->j", values, values)) * self.scale
        longest = norm.max(initial=0.0)
        middle = np.sort(norm)[len(norm) // 2] if len(norm) else 0.0
        reach = min(longest, FAR * middle) if middle > 0 else longest
        if reach == 0:
            return np.zeros(self.values.shape, np.float32), 1.0
        values *= self.scale
        values /= np.maximum(norm, reach)
        values *= NORM
        return np.rint(values, out=values).astype(np.float32).T, reach / NORM
