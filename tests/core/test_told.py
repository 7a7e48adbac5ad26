from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tables.rows import MEDIUM_BYTES
from tables.shelves import Shelf
from tables.slots import EMPTY, SLOTS, UTILITIES, newest, pairs, slot_values, slots_of
from tables.told import Told, external

KEYS = [bytes([n]) * MEDIUM_BYTES for n in range(6)]
slot = st.tuples(st.integers(1, 3), st.integers(0, 2), st.booleans(), st.booleans(), st.booleans())
rows = st.lists(slot, min_size=1, max_size=SLOTS)


def value_of(told: list[tuple[int, int, bool, bool, bool]]) -> bytes:
    """A score row; of each slot model, label, and whether it has a margin, a sketch and an external utility."""
    slots = np.full((1, SLOTS), EMPTY)
    for place, (model, label, margin, sketch, own) in enumerate(told):
        slots[0, place]["model"], slots[0, place]["label"] = model, label
        slots[0, place]["batch"], slots[0, place]["at"] = 7, 99 - place
        if margin:
            slots[0, place]["margin"] = place / 8
        if sketch:
            slots[0, place]["scale"] = 0.5
        if own:
            slots[0, place]["external"][1] = place
    [value] = slot_values(slots)
    assert value is not None
    return value


def slots_told(told: Told) -> dict[bytes, list[Any]]:
    """What columns say, as rows have it."""
    found: dict[bytes, list[Any]] = {}
    columns = [told.column(name) for name in (*UTILITIES, external(1))]
    for key, first, end in zip(told.keys.tolist(), told.first[:-1], told.first[1:], strict=True):
        found[key.ljust(MEDIUM_BYTES, b"\0")] = [
            (
                told.names.pairs[told.batch[n]],
                told.names.models[told.batch[n]],
                told.names.labels[told.label[n]],
                told.at[n],
                *(str(column[n]) for column in columns),
            )
            for n in range(first, end)
        ]
    return found


def slots_in(rows: dict[bytes, bytes]) -> dict[bytes, list[Any]]:
    """The same of rows."""
    return {
        key: [
            (
                pairs(each[None])[0],
                each["model"],
                each["label"],
                each["at"],
                *(str(each[name]) for name in UTILITIES),
                str(each["external"][1]),
            )
            for each in slots_of([rows[key]])[0]
            if each["at"] >= 0
        ]
        for key in sorted(rows)
    }


@given(
    loaded=st.dictionaries(st.sampled_from(KEYS), rows),
    changes=st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), rows), st.booleans()), max_size=12),
    part=st.integers(1, 4),
)
def test_score_rows_are_columns_that_say_the_same_however_they_came(
    loaded: dict[bytes, Any], changes: list[tuple[bytes, Any, bool]], part: int
) -> None:
    shelf, wanted = Shelf(Told.none()), {key: value_of(told) for key, told in sorted(loaded.items())}
    keys = [*wanted]
    for first in range(0, len(keys), part):
        some = keys[first : first + part]
        shelf.load(np.array(some, f"S{MEDIUM_BYTES}"), [wanted[key] for key in some])

    for key, told, settle in changes:
        value = None if told is None else value_of(told)
        shelf.change(key, value)
        wanted.pop(key, None)
        if value is not None:
            wanted[key] = value
        if settle:
            shelf.settle()

    block = shelf.settle()
    assert slots_told(block) == slots_in(wanted)
    assert [block.newest(key) for key in KEYS] == [newest(wanted[key]) if key in wanted else None for key in KEYS]


def test_a_utility_that_nobody_told_takes_no_place() -> None:
    told = Told.none().of(np.array(KEYS[:1]), [value_of([(1, 1, True, True, False)])])

    assert [*told.columns] == ["margin"]
