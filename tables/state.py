"""The state: the rows of the partitions that this worker owns, written changelog first.

What an event changes is acknowledged by the changelog before RocksDB or a ranking shows it, with a last row that tells
how far its topic has been applied. That row is the guard, by which an event counts once, and the position at which a
worker goes on. So RocksDB is never ahead of Kafka, and whatever happens between two steps, a restart finds all of an
event or nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import faust

from streams.clock import Clock
from streams.errors import NotReady
from streams.offsets import AskEnds, Offsets
from streams.settings import Settings
from streams.topics import CHANGELOG, SOURCES, TABLE
from tables.batch import Changelog, Ends, Member
from tables.partition import Partition
from tables.store import FaustStores, Store, Stores
from tables.turns import Turns

log = logging.getLogger("activeset.state")

MIB = 1024 * 1024
BUFFER = 16 * MIB  # at most: each row that is written to a larger one costs more
OPEN_FILES = 128  # of each RocksDB; Faust's default is nearly all that the process may have, for each
# Before anybody is answered, these are applied up to where they ended when the partition came; artifacts may lag.
NEEDED = tuple(topic.name for topic in SOURCES if topic.name != "inference_artifacts")


class State:
    """The partitions that this worker owns."""

    def __init__(self, settings: Settings, stores: Stores, changelog: Changelog, ends: AskEnds) -> None:
        """Owns nothing yet.

        restored: rows that were read back from the changelog so far. restoring: how many records of it are still to be
            read, by partition. origin: of which Kafka and topic that is. wrote: told how many rows a transaction had.
        turns: who goes first.
        """
        self._settings = settings
        self._stores = stores
        self._changelog = changelog
        self._ends = ends
        self.restored = 0
        self.restoring: dict[int, int] = {}
        self.wrote: Callable[[int], object] = lambda _: None
        self.origin = ""
        self.turns = Turns()
        self._owned: dict[int, Partition] = {}

    async def take(self, partitions: Iterable[int], generation: int, member: Member) -> None:
        """Take over partitions: shut out who wrote them before, and restore what is missing here from the changelog.

        Whatever ends it, also another rebalance, leaves nothing behind.
        """
        await self.leave()
        taken = {
            number: Partition(
                number,
                generation,
                self._stores.open(number),
                self._changelog.writer(number),
                patience_ms=self._settings.batch_patience_s * 1000,
                wrote=lambda rows: self.wrote(rows),
            )
            for number in partitions
        }
        try:
            starting = [each.writer.start(member) for each in taken.values()]
            started = await asyncio.gather(*starting, return_exceptions=True)
            for why in filter(None, started):
                raise why
            if taken:  # Kafka's client waits for ever for the ends of no partitions
                await self._changelog.ask_time(next(iter(taken.values())).writer)
                await self._restore(taken)
        except BaseException:
            await asyncio.shield(asyncio.gather(*(each.writer.stop() for each in taken.values())))
            raise
        finally:
            self.restoring = {}
        self._owned = taken

    async def _restore(self, taken: dict[int, Partition]) -> None:
        ends = await self._changelog.ends(list(taken))
        await self._changelog.settle({number: each.writer for number, each in taken.items()}, ends.offsets)
        self.origin = ends.origin
        self._check(taken, ends)
        positions = {number: each.store.offset + 1 for number, each in taken.items()}
        self.restoring = {number: ends.offsets[number] - position for number, position in positions.items()}
        count = 0
        async for part in self._changelog.read(positions, ends.offsets):
            taken[part.partition].store.write(part.changes, part.offset, part.written_ms)
            count += len(part.changes)
            self.restored += len(part.changes)
            self.restoring[part.partition] = ends.offsets[part.partition] - part.offset - 1
        if count:
            log.info("restored %d rows from the changelog", count)
        sources = await self.source_ends(taken)
        for number, each in taken.items():
            each.restored(sources[number], NEEDED)

    async def close(self) -> None:
        """Close the connections that are not a partition's."""
        await self._changelog.close()

    async def source_ends(self, partitions: Iterable[int]) -> dict[int, dict[str, int]]:
        """Where each source topic ends now, by partition: the offset of the record that will come next."""
        asked = [(topic.name, number) for number in partitions for topic in SOURCES]
        told = await self._ends([(self._settings.name(topic), number) for topic, number in asked])
        found: dict[int, dict[str, int]] = {}
        for topic, number in asked:
            found.setdefault(number, {})[topic] = told[self._settings.name(topic), number]
        return found

    def _check(self, taken: dict[int, Partition], ends: Ends) -> None:
        """See that the changelog tells all that befell the rows since; a store of which that is not so begins anew."""
        for number, each in taken.items():
            if why := wrong(each.store, number, ends):
                aside = self._stores.set_aside(number)
                each.store = self._stores.open(number)
                log.warning("partition %d: its rows are %s; they are in %s, and restored", number, why, aside)
            each.store.origin = ends.origin

    async def leave(self) -> bool:
        """Let go of all partitions, once the events in hand are written; whether they were."""
        left, self._owned = self._owned, {}
        return all(await asyncio.gather(*(each.leave() for each in left.values())))

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

    def here(self, number: int, generation: int | None) -> Partition | None:
        """The partition, if records that came in this generation are ours to apply."""
        partition = self._owned.get(number)
        return None if partition is None or partition.generation != generation else partition

    @property
    def partitions(self) -> list[Partition]:
        """All partitions that this worker owns and has restored."""
        return list(self._owned.values())


def wrong(store: Store, number: int, ends: Ends) -> str:
    """Why the rows of a partition cannot be brought up to date by the changelog; empty, if they can."""
    if store.offset < 0:
        return ""
    if store.origin != ends.origin:
        return f"of another changelog than {ends.origin}"
    if store.offset >= ends.offsets[number]:
        return "ahead of its changelog"
    if store.offset + 1 < ends.begins.get(number, 0):
        return f"older than its changelog, which begins at {ends.begins[number]} now"
    # A row that was deleted since would stay, for what told so is gone.
    if ends.forgotten_ms is not None and store.written_ms is not None and store.written_ms < ends.forgotten_ms:
        return "older than what its changelog tells of deletions"
    return ""


def declare(app: faust.App, settings: Settings, offsets: Offsets, clock: Clock) -> State:
    """The one table; its changelog is one of the topics of streams/topics.py.

    Keys and values are bytes. All kinds of rows share it, told apart by a prefix: one changelog then keeps the rows of
    an event together and in order, and RocksDB's costs, which are per table and partition, are paid once.
    """
    buffers = settings.rocksdb_buffer_mib * MIB
    table: Any = app.Table(
        TABLE,
        partitions=settings.partitions,
        key_type=bytes,
        value_type=bytes,
        # Faust's defaults (a 2 GiB cache and 3 x 64 MiB of write buffers for each partition) do not suit a laptop.
        options={
            "block_cache_size": settings.rocksdb_cache_mib * MIB // settings.partitions,
            "write_buffer_size": min(max(MIB // 16, buffers // settings.partitions // 2), BUFFER),
            "max_write_buffer_number": 2,
            "max_open_files": OPEN_FILES,
        },
    )
    changelog = Changelog(settings.broker, settings.name(CHANGELOG.name), offsets, clock)
    return State(settings, FaustStores(table.data), changelog, offsets.ends)
