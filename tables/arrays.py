"""Arrays by what is in them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.uint64]  # hashes
Places = NDArray[np.intp]  # in another array


def each_bytes(rows: NDArray[np.void]) -> list[bytes]:
    """Each of some structured rows as its bytes."""
    whole, size = rows.tobytes(), rows.dtype.itemsize
    return [whole[first : first + size] for first in range(0, len(whole), size)]
