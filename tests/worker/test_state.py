import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Options, Rdict

from streams.errors import CorruptStore, NotReady
from streams.moves import Origin
from streams.offsets import Place
from streams.overrides import close
from tables.batch import Slice
from tables.partition import GROUP, GROUP_ROWS, Applied, At, Fold
from tables.rows import Change, Kind, Rows, moved_name, pack_int, prefix_of, progress_key, unpack_int
from tables.state import NEEDED, State
from tables.store import Store
from tests.worker.conftest import GENERATION, NOW, Disk, House, ListChangelog, ListWriter, a_member, no_ends

KEY = prefix_of("p1", Kind.RESET)


def at(offset: int, partition: int = 0, generation: int = GENERATION, topic: str = "active_set_events") -> At:
    return At(topic, partition, offset, generation)


async def apply(state: State, at: At, fold: Fold) -> Applied:
    """Apply an event as an agent does, and wait until it is written."""
    partition = state.here(at.partition, at.generation)
    return Applied.ELSEWHERE if partition is None else await (await partition.apply(at, fold))


def writes(*values: bytes) -> Fold:
    """A fold that writes a row, whatever is there."""
    return lambda _: [(KEY, value) for value in values]


def adds_one(rows: Rows) -> list[Change]:
    """A fold that reads a number and adds one."""
    [before] = rows.get([KEY])
    return [(KEY, pack_int(1 if before is None else unpack_int(before) + 1))]


def new_state(house: House, disk: Disk) -> State:
    """Another worker's state on the same changelog."""
    return State(house.settings, disk, house.changelog, no_ends)


async def test_an_event_is_written_to_the_changelog_and_then_here_with_how_far_its_topic_has_come(house: House) -> None:
    assert await apply(house.state, at(5), writes(b"1")) is Applied.NOW

    rows = [(KEY, b"1"), (progress_key("active_set_events"), pack_int(5))]
    assert house.changelog.rows[0] == rows
    assert house.disk.open(0).get([key for key, _ in rows]) == [value for _, value in rows]
    assert house.disk.open(0).offset == 1
    assert house.state.position("active_set_events", 0) == 6


async def test_an_event_counts_once_however_often_it_comes(house: House) -> None:
    for _ in range(3):
        for offset in (0, 1):
            await apply(house.state, at(offset), adds_one)

    assert house.disk.open(0).get([KEY]) == [pack_int(2)]


async def test_what_kafka_may_not_have_is_not_shown(house: House) -> None:
    house.changelog.broken = True

    with pytest.raises(OSError, match="did not say"):
        await apply(house.state, at(0), writes(b"1"))

    assert house.disk.open(0).get([KEY]) == [None]
    assert house.state.position("active_set_events", 0) == 0


async def test_a_partition_that_is_not_here_or_was_taken_anew_since_is_left_to_its_owner(house: House) -> None:
    assert await apply(house.state, at(0, partition=9), writes(b"1")) is Applied.ELSEWHERE
    assert await apply(house.state, at(0, generation=GENERATION - 1), writes(b"1")) is Applied.ELSEWHERE

    await house.state.leave()

    assert await apply(house.state, at(0), writes(b"1")) is Applied.ELSEWHERE
    with pytest.raises(NotReady):
        house.state.owned(0)
    assert sorted(house.changelog.stopped) == list(range(8))


@pytest.mark.parametrize("disk", ["the same", "an older one", "an empty one"])
async def test_a_taken_partition_is_restored_from_its_changelog(house: House, tmp_path: Path, disk: str) -> None:
    await apply(house.state, at(0), writes(b"1"))
    old = Disk(tmp_path / "old")
    old.open(0).write(house.changelog.rows[0][:1], 0)
    old.open(0).origin = house.changelog.origin
    for offset in range(1, 6):
        await apply(house.state, at(offset), writes(pack_int(offset)))
    used = {"the same": house.disk, "an older one": old, "an empty one": Disk(tmp_path / "new")}[disk]

    after = new_state(house, used)
    await after.take([0], GENERATION + 1, a_member)

    assert used.open(0).get([KEY]) == [pack_int(5)]
    assert used.open(0).offset == len(house.changelog.rows[0]) - 1
    assert after.position("active_set_events", 0) == 6


@pytest.mark.parametrize("wrong", ["foreign", "ahead", "of nobody knows which", "cut off", "out of date"])
async def test_a_store_that_its_changelog_cannot_bring_up_to_date_is_set_aside_and_restored(
    house: House, tmp_path: Path, wrong: str
) -> None:
    await apply(house.state, at(0), writes(b"1"))
    stale = prefix_of("p1", Kind.PROJECT)
    disk = Disk(tmp_path / "used")
    disk.open(0).write([(stale, b"stale")], 7 if wrong == "ahead" else 0, NOW)
    foreign = {"foreign": "another kafka/changelog", "of nobody knows which": ""}
    disk.open(0).origin = foreign.get(wrong, house.changelog.origin)
    house.changelog.begins = {0: 2 if wrong == "cut off" else 0}
    house.changelog.forgotten_ms = NOW + 1 if wrong == "out of date" else NOW

    state = new_state(house, disk)
    await state.take([0], GENERATION + 1, a_member)

    assert disk.open(0).get([KEY, stale]) == [b"1", None]
    assert disk.open(0).origin == house.changelog.origin
    kept = Rdict(str(tmp_path / "used" / "0.aside"), Options(raw_mode=True))
    assert kept.get(stale) == b"stale"
    kept.close()


async def test_a_row_that_was_deleted_stays_so_when_it_is_restored(house: House, tmp_path: Path) -> None:
    await apply(house.state, at(0), writes(b"1"))
    await apply(house.state, at(1), lambda _: [(KEY, None)])

    new = Disk(tmp_path / "new")
    await new_state(house, new).take([0], GENERATION + 1, a_member)

    assert new.open(0).get([KEY]) == [None]


async def test_a_worker_that_kafka_may_have_forgotten_shuts_nobody_out(house: House, tmp_path: Path) -> None:
    async def not_yet() -> None:
        await asyncio.Event().wait()

    zombie = new_state(house, Disk(tmp_path / "new"))
    taking = asyncio.ensure_future(zombie.take([0], GENERATION + 1, not_yet))
    await asyncio.wait([taking], timeout=0.05)

    assert await apply(house.state, at(0), writes(b"1")) is Applied.NOW

    taking.cancel()  # another rebalance
    with pytest.raises(asyncio.CancelledError):
        await taking
    with pytest.raises(NotReady):
        zombie.owned(0)


async def test_a_former_owner_cannot_write(house: House, tmp_path: Path) -> None:
    await new_state(house, Disk(tmp_path / "new")).take([0], GENERATION + 1, a_member)

    with pytest.raises(OSError, match="did not say"):
        await apply(house.state, at(0), writes(b"1"))

    assert house.changelog.rows[0] == []


async def test_a_restore_that_fails_leaves_nothing_behind(house: House, tmp_path: Path) -> None:
    class Broken(ListChangelog):
        """A changelog that cannot be read."""

        async def read(self, positions: Mapping[int, int], ends: Mapping[int, int]) -> AsyncIterator[Slice]:
            raise OSError(f"gone, with {len(positions)} partitions of {len(ends)}")
            yield

    changelog = Broken()
    state = State(house.settings, Disk(tmp_path / "new"), changelog, no_ends)

    with pytest.raises(OSError, match="gone"):
        await state.take([0, 1], GENERATION, a_member)

    assert sorted(changelog.stopped) == [0, 1]
    with pytest.raises(NotReady):
        state.owned(0)


async def test_whoever_waits_for_an_event_goes_on_when_it_is_applied_or_the_partition_is_gone(house: House) -> None:
    partition = house.state.owned(0)
    waiting = [asyncio.ensure_future(partition.reached("active_set_events", offset)) for offset in (0, 1)]

    await apply(house.state, at(0), writes(b"1"))
    await waiting[0]

    assert not waiting[1].done()
    await house.state.leave()
    with pytest.raises(NotReady, match="went to another worker"):
        await waiting[1]


async def test_an_event_is_folded_on_what_others_made_of_the_row_while_kafka_has_not_acknowledged_it(
    house: House, acknowledge: Callable[[], None]
) -> None:
    topics = ("media_uploads", "annotation_updates", "active_set_events")
    agents = [asyncio.ensure_future(apply(house.state, at(0, topic=topic), adds_one)) for topic in topics]
    while not house.changelog.rows[0]:
        await asyncio.sleep(0)

    assert await asyncio.wait(agents, timeout=0) == (set(), {*agents})
    assert house.disk.open(0).get([KEY]) == [None]  # nobody sees what could be lost
    acknowledge()
    assert [await each for each in agents] == [Applied.NOW] * 3

    assert house.disk.open(0).get([KEY]) == [pack_int(3)]


async def test_what_waits_is_found_by_scans_too_and_what_is_deleted_is_not(
    house: House, acknowledge: Callable[[], None]
) -> None:
    rows = [prefix_of("p1", Kind.NAME) + bytes([n]) for n in range(4)]
    house.disk.open(0).write([(rows[1], b"old"), (rows[2], b"old"), (rows[3], b"old")], 0)
    partition = house.state.owned(0)
    await partition.apply(at(0), lambda _: [(rows[0], b"new"), (rows[2], b"new"), (rows[3], None)])

    found = dict(partition.rows.scan(prefix_of("p1", Kind.NAME)))

    assert found == {rows[0]: b"new", rows[1]: b"old", rows[2]: b"new"}
    assert partition.rows.get(rows) == [b"new", b"old", b"new", None]
    acknowledge()


async def test_what_is_queued_goes_into_one_transaction_and_only_so_much_is_queued(
    house: House, acknowledge: Callable[[], None]
) -> None:
    partition = house.state.owned(0)
    first = await partition.apply(at(0), adds_one)
    while not house.changelog.rows[0]:
        await asyncio.sleep(0)
    queued = [await partition.apply(at(offset), adds_one) for offset in range(1, GROUP + 1)]
    one_more = asyncio.ensure_future(partition.apply(at(GROUP + 1), adds_one))
    await asyncio.sleep(0)
    assert not one_more.done()

    acknowledge()
    await asyncio.gather(first, *queued, await one_more)

    assert len(house.changelog.rows[0]) == 3 * 2  # three transactions, each with the row and how far its topic is
    assert house.disk.open(0).get([KEY]) == [pack_int(GROUP + 2)]
    assert house.state.position("active_set_events", 0) == GROUP + 2


async def test_a_group_has_only_so_many_rows_and_who_waits_for_room_has_it_as_soon_as_they_are_taken(
    house: House, acknowledge: Callable[[], None]
) -> None:
    partition = house.state.owned(0)

    def half(offset: int) -> Fold:
        keys = (b"%06d-%06d" % (offset, n) for n in range(GROUP_ROWS // 2))
        return lambda _: [(prefix_of("p", Kind.NAME) + key, b"") for key in keys]

    first = await partition.apply(at(0), half(0))
    while not house.changelog.rows[0]:
        await asyncio.sleep(0)
    queued = [await partition.apply(at(offset), half(offset)) for offset in (1, 2)]
    waiting = asyncio.ensure_future(partition.apply(at(3), half(3)))
    await asyncio.sleep(0)
    assert not waiting.done()

    acknowledge()
    while len(house.changelog.rows[0]) < 3 * GROUP_ROWS // 2:
        await asyncio.sleep(0)
    assert waiting.done()  # while the second group is on its way

    await asyncio.gather(first, *queued, await waiting)
    assert len(house.changelog.rows[0]) == 4 * GROUP_ROWS // 2 + 3


async def test_what_cannot_be_folded_leaves_everything_as_it_is(house: House) -> None:
    def fails(_: Rows) -> list[Change]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await apply(house.state, at(0), fails)

    assert house.changelog.rows[0] == []
    assert await apply(house.state, at(0), writes(b"1")) is Applied.NOW


async def test_what_an_event_had_published_is_in_kafka_before_it_counts(house: House) -> None:
    sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    applying = await house.state.owned(0).apply(at(0), writes(b"1"), sent)

    assert await asyncio.wait([applying], timeout=0.01) == (set(), {applying})
    assert house.changelog.rows[0] == []
    sent.set_result(7)

    assert await applying is Applied.NOW


async def test_a_partition_in_which_nothing_happens_writes_something_that_nobody_sees(house: House) -> None:
    partition = house.state.owned(0)
    await apply(house.state, at(0), writes(b"1"))
    before = (partition.as_of(), partition.lag(), house.disk.open(0).get([KEY]))

    await partition.keep()

    assert house.changelog.rows[0][2:] == [(progress_key("<"), pack_int(0))]
    assert (partition.as_of(), partition.lag(), house.disk.open(0).get([KEY])) == before
    assert house.state.position("active_set_events", 0) == 1
    await house.state.leave()
    await partition.keep()
    assert len(house.changelog.rows[0]) == 3


async def test_leaving_tells_whether_everything_is_written(
    house: House, acknowledge: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await house.state.leave()
    await house.state.take(range(8), GENERATION, a_member)
    monkeypatch.setattr("tables.partition.LEAVE_S", 0.01)
    await house.state.owned(0).apply(at(0), writes(b"1"))

    assert not await house.state.leave()
    acknowledge()


async def test_a_moved_record_counts_once_however_often_it_is_moved(house: House) -> None:
    def moved(offset: int, *origin: int) -> At:
        return at(offset)._replace(origin=Origin(*origin))

    came = [moved(0, 3, 70), moved(1, 3, 71), moved(2, 3, 70), moved(3, 5, 70), moved(4, 3, 72)]

    assert [await apply(house.state, each, adds_one) for each in came] == [
        Applied.NOW,
        Applied.NOW,
        Applied.BEFORE,
        Applied.NOW,
        Applied.NOW,
    ]

    assert house.disk.open(0).get([KEY]) == [pack_int(4)]
    again = new_state(house, house.disk)
    await again.take([0], GENERATION + 1, a_member)
    partition = again.owned(0)
    assert (partition.folded("active_set_events"), partition.folded(moved_name("active_set_events", 3))) == (4, 72)
    assert partition.as_of() == {"active_set_events": 4}


async def test_leaving_waits_for_what_is_folded_and_takes_nothing_more(
    house: House, acknowledge: Callable[[], None]
) -> None:
    partition = house.state.owned(0)
    applying = await partition.apply(at(0), writes(b"1"))
    leaving = asyncio.ensure_future(house.state.leave())
    while not partition.closed:
        await asyncio.sleep(0)

    assert await (await partition.apply(at(1), writes(b"2"))) is Applied.ELSEWHERE
    acknowledge()
    await leaving

    assert await applying is Applied.NOW
    assert house.disk.open(0).get([KEY]) == [b"1"]


async def test_an_event_that_kafka_acknowledges_too_late_when_its_partition_went_touches_nothing_here(
    house: House, acknowledge: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tables.partition.LEAVE_S", 0.01)
    applying = await house.state.owned(0).apply(at(0), writes(b"late"))
    while not house.changelog.rows[0]:
        await asyncio.sleep(0)
    waiting = [await house.state.owned(0).apply(at(offset), writes(b"later")) for offset in (1, 2)]
    await house.state.leave()
    acknowledge()

    assert [await each for each in (applying, *waiting)] == [Applied.ELSEWHERE] * 3
    assert house.disk.open(0).get([KEY]) == [None]
    assert (KEY, b"late") in house.changelog.rows[0]
    assert (KEY, b"later") not in house.changelog.rows[0]
    assert sorted(house.changelog.stopped) == list(range(8))


async def test_nothing_is_folded_on_rows_that_kafka_did_not_take(house: House) -> None:
    partition = house.state.owned(0)
    house.changelog.broken = True
    first = await partition.apply(at(0), writes(b"1"))
    with pytest.raises(OSError, match="did not say"):
        await first
    house.changelog.broken = False

    with pytest.raises(OSError, match="did not say"):
        await (await partition.apply(at(1), writes(b"2")))

    assert house.changelog.rows[0] == []


async def test_a_write_that_is_refused_after_its_partition_went_does_not_end_the_worker(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = house.state.owned(0)

    async def refused(*_: Any) -> int:
        partition.closed = partition.gone = True
        raise OSError("fenced")

    monkeypatch.setattr(ListWriter, "append", refused)

    assert await apply(house.state, at(0), writes(b"1")) is Applied.ELSEWHERE


async def test_a_partition_has_caught_up_when_all_but_artifacts_are_where_they_ended_when_it_came(house: House) -> None:
    async def ends(places: Sequence[Place]) -> dict[Place, int]:
        return dict.fromkeys(places, 5)

    state = State(house.settings, house.disk, house.changelog, ends)
    await state.take([0], GENERATION + 1, a_member)

    assert state.owned(0).targets == dict.fromkeys(NEEDED, 5)
    assert not state.owned(0).caught_up
    assert state.owned(0).lag() == dict.fromkeys([*NEEDED, "inference_artifacts"], 5)


async def test_a_damaged_file_is_told_and_condemns_its_store_also_when_a_scan_just_ends(tmp_path: Path) -> None:
    condemned: list[int] = []
    disk = Disk(tmp_path, condemn=condemned.append)
    keys = [b"%05d" % n for n in range(20_000)]
    disk.open(0).write([(key, os.urandom(50)) for key in keys], 0)
    disk.opened.pop(0).close()
    [file] = (tmp_path / "0").glob("*.sst")
    with file.open("r+b") as raw:
        raw.seek(file.stat().st_size // 2)
        raw.write(b"\xff" * 64)
    store = disk.open(0)

    with pytest.raises(CorruptStore, match="damaged"):
        list(store.scan(b""))
    with pytest.raises(CorruptStore, match="damaged"):
        store.get(keys)

    assert condemned == [0, 0]


async def test_a_store_whose_partition_went_says_so(house: House) -> None:
    store = house.disk.open(0)
    house.disk.opened.pop(0).close()

    with pytest.raises(NotReady, match="its files are closed"):
        store.get([KEY])
    with pytest.raises(NotReady, match="its files are closed"):
        list(store.scan(b""))


async def test_a_store_is_closed_while_threads_read_it_and_tells_them_that_its_partition_goes(tmp_path: Path) -> None:
    keys = [b"%05d" % n for n in range(20_000)]
    for number in range(10):  # it is a race, which one that is not mended loses in most of these
        disk = Disk(tmp_path)
        store = disk.open(number)
        store.write([(key, bytes(300)) for key in keys], 0)

        def read(store: Store = store) -> None:
            while True:
                store.get(keys)

        def scan(store: Store = store) -> None:
            while True:
                list(store.scan(b""))

        reading = [asyncio.create_task(asyncio.to_thread(each)) for each in (read, scan)]
        await asyncio.sleep(0.03)
        close(disk.opened[number])

        assert {type(each) for each in await asyncio.gather(*reading, return_exceptions=True)} == {NotReady}
