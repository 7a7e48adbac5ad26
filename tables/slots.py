"""The slots of score rows: what the last batches said of a medium, as fixed-width rows of two forms.

A row has the wide form where a producer's own utilities are among what was said. Rows of one length decode as one
array.
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
SLOT = np.dtype([*((name, "<u8") for name in IDS), ("at", "<i8"), *((name, "<f8") for name in UTILITIES)])
WIDE_SLOT = np.dtype([*((name, "<u8") for name in IDS), ("at", "<i8"), *((name, "<f8") for name in UTILITIES),
                      ("external", "<f8", (EXTERNALS,))])  # fmt: skip
SLOTS = 4  # of two batches that count, and of two that are coming and must not destroy them; newest first
EMPTY = np.array((0, 0, 0, -1, *(np.nan for _ in UTILITIES), [np.nan] * EXTERNALS), WIDE_SLOT)
AT = 8 * len(IDS)  # where the time stands in a slot
Slots = NDArray[np.void]
# A row has as many slots as are in use. No length is that of two forms.
FORMS = {form.itemsize * count: (form, count) for form in (SLOT, WIDE_SLOT) for count in range(1, SLOTS + 1)}


def slots_of(values: Sequence[bytes | None]) -> Slots:
    """The slots of score rows, (rows, SLOTS) of WIDE_SLOT; `EMPTY` where there is none."""
    slots = np.full((len(values), SLOTS), EMPTY)
    rows, places, found = said(values)
    for name in found.dtype.names or ():
        slots[name][rows, places] = found[name]
    return slots


def said(values: Sequence[bytes | None]) -> tuple[NDArray[np.intp], NDArray[np.intp], Slots]:
    """All slots of score rows, one after the other: of which row each is, its place in it, and the slot.

    They are of WIDE_SLOT if one is, and else of SLOT: most have no external utility, and there may be a million.
    """
    by_length: dict[int, list[int]] = {}
    for row, value in enumerate(values):
        if value is not None:
            by_length.setdefault(len(value), []).append(row)
    wide = any(FORMS[length][0] is WIDE_SLOT for length in by_length)
    rows, places, slots = [np.empty(0, np.intp)], [np.empty(0, np.intp)], [np.empty(0, WIDE_SLOT if wide else SLOT)]
    for length, which in by_length.items():
        form, count = FORMS[length]
        found = np.frombuffer(b"".join(values[row] or b"" for row in which), form)
        if wide and form is SLOT:
            narrow, found = found, np.full(len(found), EMPTY)
            for name in SLOT.names or ():
                found[name] = narrow[name]
        rows.append(np.repeat(np.array(which, np.intp), count))
        places.append(np.tile(np.arange(count), len(which)))
        slots.append(found)
    return np.concatenate(rows), np.concatenate(places), np.concatenate(slots)


def slot_values(slots: Slots) -> list[bytes | None]:
    """The values of score rows, the other way round: narrow where no external utility is; none without a slot."""
    wide = np.count_nonzero(np.isfinite(slots["external"]), axis=(1, 2)) > 0
    narrow = np.empty(slots.shape, SLOT)
    for name in SLOT.names or ():
        narrow[name] = slots[name]
    counts = np.count_nonzero(slots["at"] >= 0, axis=1)
    rows = zip(slots, narrow, wide, counts, strict=True)
    return [(row if is_wide else small)[:count].tobytes() if count else None for row, small, is_wide, count in rows]


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
