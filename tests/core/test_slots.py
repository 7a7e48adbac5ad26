from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tables.rows import EXTERNALS
from tables.sketches import SKETCH, Sketches
from tables.slots import (
    EMPTY,
    NUMBER,
    SLOT,
    SLOTS,
    UTILITIES,
    kept,
    newest,
    pairs,
    sketches_of,
    slot_values,
    slots_of,
    taken_apart,
)


def slot(at: int, *, utilities: int = 2, sketch: bool = False, external: bool = False) -> Any:
    """What a batch told of a medium."""
    made = EMPTY.copy()
    made["at"], made["model"], made["batch"], made["label"] = at, 7, at + 1, 5
    for number, name in enumerate(UTILITIES[:utilities]):
        made[name] = at + number / 10
    if sketch:
        made["sketch"], made["scale"] = np.arange(SKETCH) - at, 0.5 + at
    if external:
        made["external"][:2] = at, -at
    return made


def row(*slots: Any) -> "NDArray[np.void]":
    """The slots of a score row, newest first."""
    made = np.full(SLOTS, EMPTY)
    for place, each in enumerate(slots):
        made[place] = each
    return made


tellings = st.lists(st.tuples(st.integers(0, len(UTILITIES)), st.booleans(), st.booleans()), max_size=SLOTS)


@given(st.lists(tellings, min_size=1, max_size=12))
def test_rows_with_and_without_a_sketch_and_external_utilities_are_the_same_when_they_are_read_again(
    rows: list[list[tuple[int, bool, bool]]],
) -> None:
    slots = np.stack(
        [row(*(slot(9 - n, utilities=u, sketch=s, external=e) for n, (u, s, e) in enumerate(told))) for told in rows]
    )

    values = slot_values(slots)

    assert slots_of(values).tobytes() == slots.tobytes()
    assert [value is None for value in values] == [not told for told in rows]
    assert all(newest(value) == 9 for value in values if value is not None)


@pytest.mark.parametrize(
    ("told", "length"),
    [
        ([slot(1, utilities=0)], SLOT.itemsize),
        ([slot(1)], SLOT.itemsize + 16),
        ([slot(1, sketch=True)], SLOT.itemsize + 16 + SKETCH + 4),
        ([slot(1, external=True)], SLOT.itemsize + 16 + 8 * EXTERNALS),
        ([slot(2, utilities=0), slot(1, utilities=1)], 2 * (SLOT.itemsize + 8)),
        ([slot(2), slot(1, sketch=True, external=True)], 2 * (SLOT.itemsize + 16 + SKETCH + 4 + 8 * EXTERNALS)),
    ],
)
def test_a_row_has_room_for_what_one_of_its_slots_says_and_for_nothing_else(told: list[Any], length: int) -> None:
    [value] = slot_values(row(*told)[None])

    assert value is not None
    assert len(value) == NUMBER.itemsize + length


def test_the_sketch_is_that_of_the_batch_that_is_asked_for() -> None:
    rows = np.stack(
        [
            row(slot(3, sketch=True), slot(2, sketch=True), slot(1)),
            row(slot(2, sketch=True, external=True)),
            row(slot(2)),
            row(slot(3, sketch=True)),
            row(slot(4), slot(2, sketch=True)),
        ]
    )
    wanted = np.repeat(pairs(np.stack([slot(2)])), 6)

    found = sketches_of([*slot_values(rows), None], wanted)

    assert found.scale.tolist()[:2] == [2.5, 2.5]
    assert found.there.tolist() == [True, True, False, False, True, False]
    assert found.values[4].tolist() == (np.arange(SKETCH) - 2).tolist()


def test_a_slot_of_the_batch_without_a_sketch_beside_one_with_it_has_none() -> None:
    [value] = slot_values(row(slot(3, sketch=True), slot(2))[None])

    assert sketches_of([value], pairs(np.stack([slot(2)]))).there.tolist() == [False]
    assert len(sketches_of([], np.empty(0, np.uint64))) == 0


def test_a_sketch_is_kept_to_the_byte() -> None:
    sketches = Sketches.of(np.random.default_rng(0).normal(size=(2, 300)))
    rows = np.stack([row(slot(1))] * 2)
    rows["sketch"][:, 0], rows["scale"][:, 0] = sketches.values, sketches.scale

    found = sketches_of(slot_values(rows), pairs(rows[:, 0]))

    assert found.values.tobytes() == sketches.values.tobytes()
    assert found.scale.tobytes() == sketches.scale.tobytes()


def test_rows_of_one_form_are_taken_apart_at_once() -> None:
    rows = [row(slot(2), slot(1)), row(slot(1)), row(slot(9), slot(4)), row(slot(1, sketch=True)), row()]

    found = [(which.tolist(), count, len(parts)) for which, count, parts in taken_apart(slot_values(np.stack(rows)))]

    assert sorted(found) == [([0, 2], 2, 3), ([1], 1, 3), ([3], 1, 4)]


def test_slots_of_before_a_deletion_go() -> None:
    slots = np.stack([row(slot(3), slot(1)), row(slot(3), slot(1))])

    left = kept(slots, np.array([1, 3]))

    assert left["at"].tolist() == [[3, -1, -1, -1], [-1] * 4]
    assert slots["at"].tolist() == [[3, 1, -1, -1]] * 2
