import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from streams.errors import NotReady
from tables.batch import Slice
from tables.partition import Applied, At
from tables.rows import Change, Kind, Rows, pack_int, prefix_of, progress_key
from tables.state import State
from tests.worker.conftest import GENERATION, Disk, House, ListChangelog, ListWriter

KEY = prefix_of("p1", Kind.RESET)


def at(offset: int, partition: int = 0, generation: int = GENERATION) -> At:
    return At("active_set_events", partition, offset, generation)


def writes(*values: bytes):  # type: ignore[no-untyped-def]
    """Decides to write a row, whatever is there."""

    async def decide(_: Rows) -> list[Change]:
        return [(KEY, value) for value in values]

    return decide


async def adds_one(rows: Rows) -> list[Change]:
    """Reads a number, and while somebody else might write it, adds one."""
    [before] = rows.get([KEY])
    await asyncio.sleep(0)
    return [(KEY, pack_int(int.from_bytes(before or b"", "little") + 1))]


async def test_an_event_is_written_to_the_changelog_and_then_here_with_how_far_its_topic_has_come(house: House) -> None:
    assert await house.state.apply(at(5), writes(b"1")) is Applied.NOW

    rows = [(KEY, b"1"), (progress_key("active_set_events"), pack_int(5))]
    assert house.changelog.rows[0] == rows
    assert house.disk.open(0).get([key for key, _ in rows]) == [value for _, value in rows]
    assert house.disk.open(0).offset == 1
    assert house.state.position("active_set_events", 0) == 6


async def test_an_event_counts_once_however_often_it_comes(house: House) -> None:
    for _ in range(3):
        for offset in (0, 1):
            await house.state.apply(at(offset), adds_one)

    assert house.disk.open(0).get([KEY]) == [pack_int(2)]


async def test_events_of_a_partition_are_applied_one_after_the_other(house: House) -> None:
    topics = ("media_uploads", "annotation_updates", "active_set_events")

    await asyncio.gather(*(house.state.apply(at(0)._replace(topic=topic), adds_one) for topic in topics))

    assert house.disk.open(0).get([KEY]) == [pack_int(3)]


async def test_what_kafka_may_not_have_is_not_shown(house: House) -> None:
    house.changelog.broken = True

    with pytest.raises(OSError, match="did not say"):
        await house.state.apply(at(0), writes(b"1"))

    assert house.disk.open(0).get([KEY]) == [None]
    assert house.state.position("active_set_events", 0) == 0


async def test_what_cannot_be_decided_leaves_everything_as_it_is(house: House) -> None:
    async def fails(_: Rows) -> list[Change]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await house.state.apply(at(0), fails)

    assert house.changelog.rows[0] == []
    assert await house.state.apply(at(0), writes(b"1")) is Applied.NOW


async def test_a_partition_that_is_not_here_or_was_taken_anew_since_is_left_to_its_owner(house: House) -> None:
    assert await house.state.apply(at(0, partition=9), writes(b"1")) is Applied.ELSEWHERE
    assert await house.state.apply(at(0, generation=GENERATION - 1), writes(b"1")) is Applied.ELSEWHERE

    await house.state.leave()

    assert await house.state.apply(at(0), writes(b"1")) is Applied.ELSEWHERE
    with pytest.raises(NotReady):
        house.state.owned(0)
    assert sorted(house.changelog.stopped) == list(range(8))


async def test_leaving_waits_for_the_event_in_hand(house: House) -> None:
    reading, write_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Rows) -> list[Change]:
        reading.set()
        await write_on.wait()
        return [(KEY, b"1")]

    applying = asyncio.ensure_future(house.state.apply(at(0), slow))
    await reading.wait()
    waiting = asyncio.ensure_future(house.state.apply(at(1), writes(b"2")))
    leaving = asyncio.ensure_future(house.state.leave())
    await asyncio.sleep(0)
    write_on.set()

    assert await applying is Applied.NOW
    await leaving
    assert (KEY, b"1") in house.changelog.rows[0]
    assert await waiting in (Applied.NOW, Applied.ELSEWHERE)
    assert ((KEY, b"2") in house.changelog.rows[0]) == (waiting.result() is Applied.NOW)


@pytest.mark.parametrize("slow", ["while it decides", "while kafka acknowledges"])
async def test_an_event_that_takes_too_long_when_its_partition_goes_touches_nothing_here(
    house: House, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    monkeypatch.setattr("tables.partition.LEAVE_S", 0.01)
    begun, go_on = asyncio.Event(), asyncio.Event()
    append = ListWriter.append

    async def waits() -> None:
        begun.set()
        await go_on.wait()

    async def decide(_: Rows) -> list[Change]:
        if slow == "while it decides":
            await waits()
        return [(KEY, b"late")]

    async def late(writer: ListWriter, changes: Sequence[Change]) -> int:
        offset = await append(writer, changes)
        if slow == "while kafka acknowledges":
            await waits()
        return offset

    monkeypatch.setattr(ListWriter, "append", late)
    applying = asyncio.ensure_future(house.state.apply(at(0), decide))
    await begun.wait()
    await house.state.leave()
    go_on.set()

    assert await applying is Applied.ELSEWHERE
    assert house.disk.open(0).get([KEY]) == [None]
    assert ((KEY, b"late") in house.changelog.rows[0]) == (slow == "while kafka acknowledges")
    assert sorted(house.changelog.stopped) == list(range(8))


async def test_a_write_that_is_refused_after_its_partition_went_does_not_end_the_worker(house: House) -> None:
    partition = house.state.owned(0)

    async def decide(_: Rows) -> list[Change]:
        partition.gone = True
        raise OSError("fenced")

    assert await house.state.apply(at(0), decide) is Applied.ELSEWHERE


@pytest.mark.parametrize("disk", ["the same", "an older one", "an empty one"])
async def test_a_taken_partition_is_restored_from_its_changelog(house: House, tmp_path: Path, disk: str) -> None:
    await house.state.apply(at(0), writes(b"1"))
    old = Disk(tmp_path / "old")
    old.open(0).write(house.changelog.rows[0][:1], 0)
    old.open(0).origin = house.changelog.origin
    for offset in range(1, 6):
        await house.state.apply(at(offset), writes(pack_int(offset)))
    used = {"the same": house.disk, "an older one": old, "an empty one": Disk(tmp_path / "new")}[disk]

    after = State(used, house.changelog)
    await after.take([0], GENERATION + 1)

    assert used.open(0).get([KEY]) == [pack_int(5)]
    assert used.open(0).offset == len(house.changelog.rows[0]) - 1
    assert after.position("active_set_events", 0) == 6


@pytest.mark.parametrize("wrong", ["foreign", "ahead", "of nobody knows which"])
async def test_a_store_that_is_not_this_changelogs_is_set_aside_and_restored(
    house: House, tmp_path: Path, wrong: str
) -> None:
    await house.state.apply(at(0), writes(b"1"))
    stale = prefix_of("p1", Kind.PROJECT)
    disk = Disk(tmp_path / "used")
    disk.open(0).write([(stale, b"stale")], 7 if wrong == "ahead" else 0)
    disk.open(0).origin = {"ahead": house.changelog.origin, "foreign": "another kafka/changelog"}.get(wrong, "")

    state = State(disk, house.changelog)
    await state.take([0], GENERATION + 1)

    assert disk.open(0).get([KEY, stale]) == [b"1", None]
    assert disk.open(0).origin == house.changelog.origin
    kept = Rdict(str(tmp_path / "used" / "0.aside"), Options(raw_mode=True))
    assert kept.get(stale) == b"stale"
    kept.close()


async def test_a_row_that_was_deleted_stays_so_when_it_is_restored(house: House, tmp_path: Path) -> None:
    async def deletes(_: Rows) -> list[Change]:
        return [(KEY, None)]

    await house.state.apply(at(0), writes(b"1"))
    await house.state.apply(at(1), deletes)

    new = Disk(tmp_path / "new")
    await State(new, house.changelog).take([0], GENERATION + 1)

    assert new.open(0).get([KEY]) == [None]


async def test_a_former_owner_cannot_write(house: House, tmp_path: Path) -> None:
    await State(Disk(tmp_path / "new"), house.changelog).take([0], GENERATION + 1)

    with pytest.raises(OSError, match="did not say"):
        await house.state.apply(at(0), writes(b"1"))

    assert house.changelog.rows[0] == []


async def test_a_restore_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken(ListChangelog):
        """A changelog that cannot be read."""

        async def read(self, positions: Mapping[int, int], ends: Mapping[int, int]) -> AsyncIterator[Slice]:
            raise OSError(f"gone, with {len(positions)} partitions of {len(ends)}")
            yield

    changelog = Broken()
    state = State(Disk(tmp_path), changelog)

    with pytest.raises(OSError, match="gone"):
        await state.take([0, 1], GENERATION)

    assert sorted(changelog.stopped) == [0, 1]
    with pytest.raises(NotReady):
        state.owned(0)


async def test_whoever_waits_for_an_event_goes_on_when_it_is_applied_or_the_partition_is_gone(house: House) -> None:
    partition = house.state.owned(0)
    waiting = [asyncio.ensure_future(partition.reached("active_set_events", offset)) for offset in (0, 1)]

    await house.state.apply(at(0), writes(b"1"))
    await waiting[0]

    assert not waiting[1].done()
    await house.state.leave()
    with pytest.raises(NotReady, match="went to another worker"):
        await waiting[1]
