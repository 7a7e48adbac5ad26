"""The state: the rows of the partitions that this worker owns, written changelog first.

What an event changes is acknowledged by the changelog before RocksDB or a ranking shows it, with a last row that tells
how far its topic has been applied. That row is the guard, by which an event counts once, and the position at which a
worker goes on. So RocksDB is never ahead of Kafka, and whatever happens between two steps, a restart finds all of an
event or nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

import faust

from streams.errors import NotReady, UnknownProject
from streams.settings import Settings
from streams.topics import CHANGELOG
from tables.batch import Changelog, Writer
from tables.pool import READ
from tables.ranking import Ranking
from tables.rows import Change, Kind, Rows, pack_int, prefix_of, progress_key, project_of, unpack_int
from tables.store import FaustStores, Store, Stores

log = logging.getLogger("activeset.state")

MIB = 1024 * 1024
LEAVE_S = 10.0  # twice this is less than the rebalance timeout (streams/app.py)
SLICE = 5000  # rows of a scan between two steps of the event loop

# Answers what rows an event changes, from the rows there are.
Decide = Callable[[Rows], Awaitable[list[Change]]]


class At(NamedTuple):
    """Where a record stands: its topic (without a prefix), partition and offset, and the generation it came in."""

    topic: str
    partition: int
    offset: int
    generation: int | None


class Applied(StrEnum):
    """What came of an event."""

    NOW = "now"
    BEFORE = "before"  # it had been applied already, and came again
    ELSEWHERE = "elsewhere"  # the partition is not ours any more: whoever has it reads the event there


@dataclass
class Partition:
    """What a worker holds of a partition that it owns. Whoever folds or writes holds the lock."""

    number: int
    generation: int
    store: Store
    writer: Writer
    progress: dict[str, int] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    building: asyncio.Lock = field(default_factory=asyncio.Lock)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    gone: bool = False

    async def apply(self, at: At, decide: Decide) -> Applied:
        """Read, decide, and write the rows of an event: to Kafka, here, to who looks on.

        The last row tells how far its topic is. If the partition was let go of meanwhile, nothing more is done: what
        Kafka has by then is restored by the next owner.
        """
        if at.offset <= self.progress.get(at.topic, -1):
            return Applied.BEFORE
        changes = [*await decide(self.store), (progress_key(at.topic), pack_int(at.offset))]
        if self.gone:
            return Applied.ELSEWHERE
        offset = await self.writer.append(changes)
        if self.gone:
            return Applied.ELSEWHERE
        self.store.write(changes, offset)
        self.progress[at.topic] = at.offset
        ranking = self.rankings.get(project_of(changes[0][0]))  # an event is about one project
        if ranking is not None:
            ranking.update(changes)
        async with self.moved:
            self.moved.notify_all()
        return Applied.NOW

    async def leave(self) -> None:
        """Let go, once the event in hand is written; or after a while, and Kafka will refuse what is still sent."""
        try:
            async with asyncio.timeout(LEAVE_S):
                async with self.lock:
                    self.gone = True
        except TimeoutError:
            log.warning("partition %d: left with an event in hand, which its next owner reads", self.number)
        self.gone = True
        async with self.moved:
            self.moved.notify_all()
        try:
            async with asyncio.timeout(LEAVE_S):
                await self.writer.stop()
        except TimeoutError:
            log.warning("partition %d: its writer did not stop within %.0f s", self.number, LEAVE_S)


class State:
    """The partitions that this worker owns."""

    def __init__(self, stores: Stores, changelog: Changelog) -> None:
        """Owns nothing yet."""
        self._stores = stores
        self._changelog = changelog
        self._owned: dict[int, Partition] = {}

    async def take(self, partitions: Iterable[int], generation: int) -> None:
        """Take over partitions: shut out who wrote them before, and restore what is missing here from the changelog.

        Whatever ends it, also another rebalance, leaves nothing behind.
        """
        await self.leave()
        taken = {
            number: Partition(number, generation, self._stores.open(number), self._changelog.writer(number))
            for number in partitions
        }
        try:
            started = await asyncio.gather(*(each.writer.start() for each in taken.values()), return_exceptions=True)
            for why in filter(None, started):
                raise why
            await self._restore(taken)
        except BaseException:
            await asyncio.shield(asyncio.gather(*(each.writer.stop() for each in taken.values())))
            raise
        self._owned = taken

    async def _restore(self, taken: dict[int, Partition]) -> None:
        await self._check(taken)
        positions = {number: each.store.offset + 1 for number, each in taken.items()}
        count = 0
        async for part in self._changelog.read(positions):
            taken[part.partition].store.write(part.changes, part.offset)
            count += len(part.changes)
        if count:
            log.info("restored %d rows from the changelog", count)
        head = len(progress_key(""))
        for each in taken.values():
            each.progress = {key[head:].decode(): unpack_int(row) for key, row in each.store.scan(progress_key(""))}

    async def _check(self, taken: dict[int, Partition]) -> None:
        """See that the stores are of this changelog and not ahead of it; one that is not begins anew."""
        ends = await self._changelog.ends(list(taken))
        for number, each in taken.items():
            foreign = each.store.offset >= 0 and each.store.origin != ends.origin
            if foreign or each.store.offset >= ends.offsets[number]:
                why = f"of another changelog than {ends.origin}" if foreign else "ahead of its changelog"
                aside = self._stores.set_aside(number)
                each.store = self._stores.open(number)
                log.warning("partition %d: its rows are %s; they are in %s, and restored", number, why, aside)
            each.store.origin = ends.origin

    async def leave(self) -> None:
        """Let go of all partitions, once the events in hand are written."""
        left, self._owned = self._owned, {}
        await asyncio.gather(*(each.leave() for each in left.values()))

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record of a topic that is to be applied: 0 if none was."""
        return self.owned(partition).progress.get(topic, -1) + 1

    def owned(self, partition: int) -> Partition:
        """A partition that this worker owns and has restored.

        Raises:
            NotReady: it does not.
        """
        if partition not in self._owned:
            raise NotReady(f"partition {partition} is not here, or not restored yet")
        return self._owned[partition]

    async def apply(self, at: At, decide: Decide) -> Applied:
        """Apply an event: read, decide and write as one step of its partition. This is the only way that rows change.

        decide: which rows the event changes, from the rows there are. What it raises leaves everything as it is.

        Raises:
            KafkaError: the write is ambiguous, and the worker must end.
        """
        partition = self._owned.get(at.partition)
        if partition is None or partition.generation != at.generation:
            return Applied.ELSEWHERE
        async with partition.lock:
            if partition.gone:
                return Applied.ELSEWHERE
            try:
                return await partition.apply(at, decide)
            except Exception:
                if partition.gone:
                    return Applied.ELSEWHERE
                raise

    async def reached(self, partition: Partition, topic: str, offset: int) -> None:
        """Wait until a record of a topic is applied, by the owner that this worker was when it asked.

        Raises:
            NotReady: the partition went before that.
        """
        async with partition.moved:
            await partition.moved.wait_for(lambda: partition.gone or partition.progress.get(topic, -1) >= offset)
        self.check(partition)

    def check(self, partition: Partition) -> None:
        """See that a partition is still ours.

        Raises:
            NotReady: it went.
        """
        if partition.gone:
            raise NotReady(f"partition {partition.number} went to another worker")

    async def ranking(self, partition: Partition, project: str) -> Ranking:
        """What is known of a project, for its ranking: built on first use, then kept up with every event.

        Raises:
            UnknownProject: no event has told of it.
            NotReady: the partition went meanwhile.
        """
        async with partition.building:
            if project not in partition.rankings:
                if partition.store.get([prefix_of(project, Kind.PROJECT)]) == [None]:
                    raise UnknownProject(f"there is no project {project!r}")
                # In slices, no iterator kept between them. Events go on: what they write is in the scan, or taken here
                # already and read once more.
                ranking = partition.rankings[project] = Ranking(project)
                try:
                    await self._build(ranking, partition)
                except BaseException:  # whoever asked may have gone
                    del partition.rankings[project]
                    raise
        self.check(partition)
        return partition.rankings[project]

    async def _build(self, ranking: Ranking, partition: Partition) -> None:
        for kind in sorted(READ):
            prefix = after = prefix_of(ranking.pool.project_id, kind)
            while rows := list(islice(partition.store.scan(prefix, after), SLICE)):
                ranking.update(rows)
                after = rows[-1][0] + b"\0"
                await asyncio.sleep(0)
                self.check(partition)  # before the store is touched again


def declare(app: faust.App, settings: Settings) -> State:
    """The table `state`; its changelog is one of the topics of streams/topics.py.

    Keys and values are bytes. All kinds of rows share it, told apart by a prefix: one changelog then keeps the rows of
    an event together and in order, and RocksDB's costs, which are per table and partition, are paid once.
    """
    table: Any = app.Table(
        "state",
        partitions=settings.partitions,
        key_type=bytes,
        value_type=bytes,
        # Faust's defaults (a 2 GiB cache and 3 x 64 MiB of write buffers for each partition) do not suit a laptop.
        options={"block_cache_size": 64 * MIB, "write_buffer_size": 16 * MIB, "max_write_buffer_number": 2},
    )
    return State(FaustStores(table.data), Changelog(settings.broker, settings.name(CHANGELOG.name)))
