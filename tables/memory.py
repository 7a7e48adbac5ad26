"""Memory that nobody uses goes back to the system."""

import ctypes
from collections.abc import Callable
from typing import Any

_trim: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone


def trim() -> None:
    """Give back what was freed: glibc keeps it, and of an order of a million media that is half as much as what stays.

    It takes some milliseconds, in which other threads go on.
    """
    if _trim is not None:
        _trim(0)
