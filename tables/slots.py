"""The slots of score rows: what the last batches said of a medium, each in fixed-width parts.

A row is a number that tells which parts follow, then these parts, each of all slots in use: what every slot has, then
each utility that one of them has, the sketches, the external utilities. Rows of one length and number decode as one
array.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.events import EXTRACTORS
from tables.arrays import each_bytes
from tables.rows import EXTERNALS, unpack_int
from tables.sketches import SKETCH, Sketches

# The utilities that artifacts allow, whichever count when ranking; NaN where there is none.
UTILITIES = EXTRACTORS
IDS = ("model", "batch", "label")  # as hashes; 0 for none
NOTHING_FOUND = 2**64 - 1  # instead of a label: the model looked at the medium and found nothing
SLOT = np.dtype([*((name, "<u8") for name in IDS), ("at", "<i8")])
# What not every slot has: utilities, the sketch of its features, in steps of `scale` (NaN: none), and what a producer
# computed.
UTILITY = [np.dtype([(name, "<f8")]) for name in UTILITIES]
SKETCHED = np.dtype([("scale", "<f4"), ("sketch", "i1", (SKETCH,))])
EXTERNAL = np.dtype([("external", "<f8", (EXTERNALS,))])
PARTS = {1 << bit: part for bit, part in enumerate((*UTILITY, SKETCHED, EXTERNAL))}  # by what tells of them
WHOLE_SLOT = np.dtype([field for part in (SLOT, *PARTS.values()) for field in part.descr])
NUMBER = np.dtype("<u4")  # which of the parts follow
SLOTS = 4  # of two batches that count, and of two that are coming and must not destroy them; newest first
EMPTY = np.array((0, 0, 0, -1, *(np.nan for _ in UTILITIES), np.nan, [0] * SKETCH, [np.nan] * EXTERNALS), WHOLE_SLOT)
AT = NUMBER.itemsize + 8 * len(IDS)  # where the time stands in a row
Slots = NDArray[np.void]


def slots_of(values: Sequence[bytes | None]) -> Slots:
    """The slots of score rows, (rows, SLOTS) of WHOLE_SLOT; `EMPTY` where there is none."""
    slots = np.full((len(values), SLOTS), EMPTY)
    for which, count, parts in taken_apart(values):
        for part in parts:
            for name in part.dtype.names or ():
                slots[name][which, :count] = part[name]
    return slots


def taken_apart(values: Sequence[bytes | None]) -> Iterator[tuple[NDArray[np.intp], int, list[Slots]]]:
    """Score rows, one form after the other: which they are, how many slots they have, their parts, (rows, slots)."""
    there = range(len(values)) if None not in values else [row for row, value in enumerate(values) if value is not None]
    rows = [value for value in values if value is not None]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    numbers = np.frombuffer(b"".join([value[: NUMBER.itemsize] for value in rows]), NUMBER).astype(np.int64)
    alike = lengths << 32 | numbers
    for each in np.unique(alike).tolist():
        told, length = each & 0xFFFFFFFF, each >> 32
        which = np.flatnonzero(alike == each)
        kinds = kinds_of(told)
        count = slots_in(length, kinds)
        some = rows if len(which) == len(rows) else [rows[row] for row in which.tolist()]
        found: Any = np.frombuffer(b"".join(some), form_of(kinds, count))
        yield np.asarray(there, np.intp)[which], count, [found[f"part {n}"] for n in range(len(kinds))]


def kinds_of(told: int) -> "list[np.dtype[np.void]]":
    """The parts of each slot of a row, by its number."""
    return [SLOT, *(part for bit, part in PARTS.items() if told & bit)]


def named(part: "np.dtype[np.void]") -> str:
    """The field that tells whether a slot has a part: NaN if not."""
    return next(iter(part.fields or ""))


def slots_in(length: int, kinds: "list[np.dtype[np.void]]") -> int:
    """How many slots a row of so many bytes has, of these parts each."""
    return (length - NUMBER.itemsize) // sum(kind.itemsize for kind in kinds)


def form_of(kinds: "list[np.dtype[np.void]]", count: int) -> Any:
    """The form of a row with so many slots of these parts."""
    return np.dtype([("told", NUMBER), *((f"part {n}", kind, (count,)) for n, kind in enumerate(kinds))])


def sketches_of(values: Sequence[bytes | None], wanted: NDArray[np.uint64]) -> Sketches:
    """The sketches of score rows, one for each: that of the slot of a batch, if there is one.

    wanted: the batch of each, as `pairs` has them, (rows,).
    """
    found = Sketches.none(len(values))
    for which, _, parts in taken_apart(values):
        for part in parts:
            if part.dtype == SKETCHED:
                right = pairs(parts[0]) == wanted[which][:, None]
                rows, slots = np.flatnonzero(right.any(axis=1)), right.argmax(axis=1)
                found.values[which[rows]] = part["sketch"][rows, slots[rows]]
                found.scale[which[rows]] = part["scale"][rows, slots[rows]]
    return found


def slot_values(slots: Slots) -> list[bytes | None]:
    """The values of score rows, the other way round, without parts that say nothing; none without a slot."""
    counts = np.count_nonzero(slots["at"] >= 0, axis=1)
    told = np.zeros(len(slots), NUMBER)
    for bit, part in PARTS.items():
        there = np.isfinite(slots[named(part)])
        told[there.any(axis=tuple(range(1, there.ndim)))] |= bit
    alike = counts << 32 | told
    values: list[bytes | None] = [None] * len(slots)
    for each in np.unique(alike).tolist():
        count, parts = each >> 32, each & 0xFFFFFFFF
        if not count:
            continue
        which = np.flatnonzero(alike == each)
        kinds = kinds_of(parts)
        made: Any = np.empty(len(which), form_of(kinds, count))
        made["told"] = parts
        for n, kind in enumerate(kinds):
            for name in kind.names or ():
                made[f"part {n}"][name] = slots[name][which, :count]
        for row, value in zip(which.tolist(), each_bytes(made), strict=True):
            values[row] = value
    return values


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
