"""The slots of score rows: what the last batches said of a medium, as fixed-width rows of two forms.

A row has the wide form where a producer's own utilities are among what was said. What belongs together decodes as one
array either way.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streams.events import EXTRACTORS
from tables.rows import EXTERNALS, unpack_int

# The utilities that artifacts allow, whichever count when ranking; NaN where there is none.
UTILITIES = EXTRACTORS
IDS = ("model", "batch", "label")  # as hashes; 0 for none
NOTHING_FOUND = 2**64 - 1  # instead of a label: the model looked at the medium and found nothing
SLOT = np.dtype([*((name, "<u8") for name in IDS), ("at", "<i8"), *((name, "<f4") for name in UTILITIES)])
WIDE_SLOT = np.dtype([*((name, "<u8") for name in IDS), ("at", "<i8"), *((name, "<f4") for name in UTILITIES),
                      ("external", "<f4", (EXTERNALS,))])  # fmt: skip
# Of two batches that count, and of one that is coming and must not destroy them; newest first.
SLOTS = 3
SCORE = np.dtype((SLOT, (SLOTS,)))
WIDE_SCORE = np.dtype((WIDE_SLOT, (SLOTS,)))
EMPTY = np.array((0, 0, 0, -1, *(np.nan for _ in UTILITIES), [np.nan] * EXTERNALS), WIDE_SLOT)
AT = 8 * len(IDS)  # where the time stands in a slot
Slots = NDArray[np.void]


def slots_of(values: Sequence[bytes | None]) -> Slots:
    """The slots of score rows, (rows, SLOTS) of WIDE_SLOT; `EMPTY` where there is no row."""
    slots = np.full((len(values), SLOTS), EMPTY)
    for form in (SCORE, WIDE_SCORE):
        which = [n for n, value in enumerate(values) if value is not None and len(value) == form.itemsize]
        if which:
            found = np.frombuffer(b"".join(values[n] or b"" for n in which), form)
            for name in found.dtype.names or ():
                slots[name][which] = found[name]
    return slots


def slot_values(slots: Slots) -> list[bytes | None]:
    """The values of score rows, the other way round: narrow where no external utility is; none without a slot."""
    wide = np.count_nonzero(np.isfinite(slots["external"]), axis=(1, 2)) > 0
    narrow = np.empty(slots.shape, SLOT)
    for name in SLOT.names or ():
        narrow[name] = slots[name]
    there = np.count_nonzero(slots["at"] >= 0, axis=1) > 0
    rows = zip(slots, narrow, wide, there, strict=True)
    return [(row.tobytes() if is_wide else small.tobytes()) if any_ else None for row, small, is_wide, any_ in rows]


def newest(value: bytes) -> int:
    """The time of the first slot of a score row: no other is later."""
    return unpack_int(value[AT:])


def kept(slots: Slots, since: NDArray[np.int64]) -> Slots:
    """The slots without those that are not later than a time, one for each row, (rows,)."""
    left = slots.copy()
    left[slots["at"] <= since[:, None]] = EMPTY
    return left


def pairs(slots: Slots) -> NDArray[np.uint64]:
    """A number for each pair of a model and its batch."""
    return np.asarray(slots["model"] ^ slots["batch"].byteswap(), dtype=np.uint64)
