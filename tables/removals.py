"""What is gone: rows that were told of a project or a medium before it was deleted.

They are invisible for ever, so they may go from the tables whenever there is time, and need not be written where the
deletion is known already. Nothing that stays depends on when that happens: among the rows of a key the later one wins,
and what is older never decides between two that are newer.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tables.rows import (
    GRANT,
    HASH_BYTES,
    Change,
    Kind,
    Rows,
    prefix_of,
    unpack_int,
)
from tables.slots import kept, slot_values, slots_of

Times = NDArray[np.int64]

# Where in a key, after project and kind, the image or video stands.
OF_MEDIA = {
    Kind.UPLOAD: 0,
    Kind.STATE: HASH_BYTES,
    Kind.SCORE: HASH_BYTES,
    Kind.LABEL: HASH_BYTES,
    Kind.GRANT: 0,
    Kind.SKIP: 0,
}
# The rows that go. Batches and names are few and small, and whether a batch is complete must not depend on when rows
# go; references go with the end of their batch, and leases a day after their end.
GOING = (
    Kind.PROJECT,
    Kind.UPLOAD,
    Kind.REMOVAL,
    Kind.STATE,
    Kind.ACTIVATION,
    Kind.SCORE,
    Kind.LABEL,
    Kind.GRANT,
    Kind.SKIP,
)


def left(changes: list[Change], project: str, oldest: int, rows: Rows) -> list[Change]:
    """The changes of an event without what is gone already.

    oldest: the earliest time that a row of them is of.
    """
    of_project, of_media = (
        -1 if row is None else unpack_int(row)
        for row in rows.get([prefix_of(project, Kind.REMOVAL), prefix_of(project, Kind.LAST_REMOVAL)])
    )
    if oldest > max(of_project, of_media):
        return changes
    prefix = prefix_of(project)
    going: list[tuple[bytes, bytes]] = []
    staying: list[Change] = []
    for key, value in changes:
        # A row that tells what to sweep is of no project.
        if value is not None and key.startswith(prefix) and key[len(prefix)] in GOING:
            going.append((key, value))
        else:
            staying.append((key, value))
    return staying + [(key, value) for key, value in trimmed(project, going, rows) if value is not None]


def trimmed(project: str, found: Iterable[tuple[bytes, bytes]], rows: Rows) -> list[Change]:
    """What is left of rows of kinds that go: all, less, or nothing."""
    head = len(prefix_of(project))
    of_kind: dict[int, list[tuple[bytes, bytes]]] = {}
    for key, value in found:
        of_kind.setdefault(key[head], []).append((key, value))
    return [
        (key, left)
        for kind, each in of_kind.items()
        for (key, _), left in zip(each, trimmed_kind(project, Kind(kind), each, rows), strict=True)
    ]


def trimmed_kind(project: str, kind: Kind, found: Sequence[tuple[bytes, bytes]], rows: Rows) -> list[bytes | None]:
    """The same of rows of one kind: their values, in their order."""
    values = [value for _, value in found]
    since = gone_at(project, kind, [key for key, _ in found], rows)
    if kind is Kind.SCORE:
        slots = slots_of(values)
        if not (slots["at"] <= since[:, None])[slots["at"] >= 0].any():
            return [*values]
        return slot_values(kept(slots, since))
    if kind is Kind.GRANT:
        times = np.frombuffer(b"".join(values), GRANT)["uploaded_at"].astype(np.int64)
    else:
        times = np.array([unpack_int(value) for value in values], np.int64)
    return [value if later else None for value, later in zip(values, times > since, strict=True)]


def gone_at(project: str, kind: Kind, keys: Sequence[bytes], rows: Rows) -> Times:
    """When what a row is about was deleted last, itself or with its project; before all time if it never was."""
    removal = prefix_of(project, Kind.REMOVAL)
    [told] = rows.get([removal])
    times = np.full(len(keys), -1 if told is None else unpack_int(told), np.int64)
    if kind in OF_MEDIA:
        first = len(removal) + OF_MEDIA[kind]
        wholes = [key[first : first + HASH_BYTES] for key in keys]
        each = [*dict.fromkeys(wholes)]
        removals = {
            whole: unpack_int(row)
            for whole, row in zip(each, rows.get([removal + whole for whole in each]), strict=True)
            if row is not None
        }
        times = np.maximum(times, [removals.get(whole, -1) for whole in wholes])
    # That the project is gone is what all else is measured by.
    times[[key == removal for key in keys]] = -1
    return times
