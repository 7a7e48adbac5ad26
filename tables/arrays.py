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
