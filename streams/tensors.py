"""Arrays on the wire: nested lists, or bytes with their type and shape."""

import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from streams.errors import MalformedEvent

Array = NDArray[np.float64]
Axis = Annotated[int, Meta(ge=0, le=2**31 - 1)]


DType = Literal["<f2", "<f4", "<f8"]
DTYPES: dict[int, DType] = {2: "<f2", 4: "<f4", 8: "<f8"}


class Tensor(msgspec.Struct, frozen=True):
    """Little-endian numbers in C order; in JSON the bytes are base64."""

    dtype: DType
    shape: Annotated[list[Axis], Meta(min_length=1, max_length=6)]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Tensor":
        """The tensor of an array of numbers; what is no half or single precision is sent as double."""
        dtype = DTYPES[array.dtype.itemsize] if array.dtype.kind == "f" and array.dtype.itemsize <= 8 else "<f8"
        return cls(dtype=dtype, shape=list(array.shape), data=np.ascontiguousarray(array, dtype=dtype).tobytes())


# Lists of one to six axes, one more than any column may have, so that the error can say so. msgspec wants a union of
# lists and a struct to be spelled out like this.
ROWS = 100_000  # of a chunk; a record has no room for more
Column = Annotated[list[float], Meta(max_length=ROWS)] | Tensor
Deep = list[float | list[float | list[float]]]
Nested = Annotated[list[float | list[float | list[float | Deep]]], Meta(max_length=ROWS)] | Tensor


def array_of(field: str, given: Nested | Column, axes: tuple[int, ...], *, single: bool = False) -> Array:
    """The array that was sent, as float64, C order.

    axes: how many axes it may have. single: what was sent in half or single precision becomes float32.

    Raises:
        MalformedEvent: its bytes do not fit its shape, its lists are of unequal length, or it has other axes.

    >>> array_of("features", [[1.0, 2.0]], axes=(2,))
    array([[1., 2.]])
    """
    if isinstance(given, Tensor):
        dtype = np.dtype(given.dtype)
        wanted = math.prod(given.shape) * dtype.itemsize  # before anything is allocated
        if wanted != len(given.data):
            raise MalformedEvent(
                f"{field}.data must have {wanted} bytes, as its shape {given.shape} of {given.dtype} says, "
                f"not {len(given.data)}",
                "columns",
            )
        shape = given.shape
        array = np.frombuffer(given.data, dtype)
    else:
        try:
            array = np.array(given, dtype=np.float64)
        except ValueError as why:
            raise MalformedEvent(
                f"{field} must be an array: its lists are of unequal length or depth", "columns"
            ) from why
        # Lists without rows show no more axes than one.
        shape = list(array.shape) if given else [0, *[1] * (axes[0] - 1)]
    if len(shape) not in axes:
        told = " or ".join(map(str, axes))
        raise MalformedEvent(f"{field} must have {told} axes, not {len(shape)}", "columns")
    if 0 in shape[1:]:
        raise MalformedEvent(f"{field} must have no empty axis, not the shape {tuple(shape)}", "columns")
    kind: Any = np.float32 if single and array.dtype.itemsize < 8 else np.float64
    try:
        return array.reshape(shape).astype(kind)
    except ValueError as why:  # without rows, the other axes may be of any length
        raise MalformedEvent(
            f"{field} must have axes that fit into memory, not the shape {tuple(shape)}", "columns"
        ) from why
