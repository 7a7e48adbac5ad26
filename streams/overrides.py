"""Where Faust 0.15.3 and aiokafka 0.14 are overridden, all of it; tests/core/test_upstream.py tells when they change.

Faust's recovery applies a changelog record by record, and would never reach the end of one that is written in
transactions; its positions are the group's commits, which it may lose or let run ahead of the tables; it does not tell
when Kafka has last heard of the worker, opens no store that is damaged, and waits a minute for requests when it stops
(DESIGN.md, 11).
"""

import logging
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import faust
from aiohttp.web import AppRunner
from aiokafka.errors import IllegalStateError
from aiokafka.protocol.group import HeartbeatRequest, SyncGroupRequest
from faust.stores.rocksdb import RocksDBOptions, Store
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.tables.table import Table
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP
from faust.types.transports import TransportT
from faust.types.web import Web as WebT
from faust.web.drivers.aiohttp import Web
from mode.utils.queues import ThrowableQueue
from rocksdict import AccessType, Options, Rdict

from streams import lenient
from streams.errors import NotReady

log = logging.getLogger("activeset.worker")

MIB = 1024 * 1024
FULL_S = 0.01  # until it is looked again whether an agent that has enough has less
BLOOM_BITS = 10  # for each row in a file: of a hundred that are not there, one is looked for
BLOOM_SHARE = 0.05  # of the write buffers, for the same of rows that wait there
# Kafka holds a fetch that finds nothing for so long. There is one at a time, and partitions of which something was
# fetched are not in it: when that is used up meanwhile, they wait (with Faust's 1,500 ms a backlog stood still, tried).
FETCH_WAIT_MS = 50
SHUTDOWN_S = 2.0  # of requests that are being answered when the worker stops
CLOSE_S = 0.001  # until a RocksDB that is read is closed
CONDEMNED = "activeset-condemned"  # a file in the folder of a store that is to be set aside
# What a damaged store does not explain, and a new one would meet as well.
NOT_DAMAGE = ("lock", "No space left", "Permission denied", "Too many open files", "Read-only file system")


def now_s() -> float:
    """Seconds since some moment, also of those in which the machine slept."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Keeper(Protocol):
    """Who keeps the tables: takes partitions over, and knows how far each topic has been applied."""

    async def take(self, partitions: Iterable[int], generation: int) -> None:
        """Take over all partitions that a worker owns from now on, and restore them.

        Raises:
            NotReady: they went meanwhile.
        """
        ...

    async def leave(self) -> bool:
        """Let go of all partitions."""
        ...

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record to apply."""
        ...


class OurQueue(ThrowableQueue[Any]):
    """What waits for an agent: who hands records on never waits for it, with all others' behind them.

    While it has as many as it should, nothing more is fetched for it (`OurConsumer`): so one fetch more, at most.
    """

    def full(self) -> bool:
        """Never."""
        return False


class OurApp(faust.App):
    """An application whose tables somebody keeps."""

    keeper: Keeper
    fetch_bytes: int  # what Kafka is asked for at once

    def _new_transport(self) -> TransportT:
        lenient.install()
        return OurTransport(self.conf.broker_consumer, self)

    def _new_web(self) -> WebT:
        return OurWeb(self)

    def FlowControlQueue(self, maxsize: int | None = None, *, clear_on_resume: bool = False) -> OurQueue:  # noqa: N802
        """What waits for an agent."""
        return OurQueue(maxsize=maxsize or 0, flow_control=self.flow_control, clear_on_resume=clear_on_resume)

    def is_changelog(self, tp: TP) -> bool:
        """Whether this is a partition of a table's changelog."""
        return tp.topic in self.tables.changelog_topics

    def owned(self) -> list[int]:
        """The partitions of the table that this worker was given, in order."""
        return sorted(tp.partition for tp in self.assignor.assigned_actives() if self.is_changelog(tp))

    def owner(self, partition: int) -> str | None:
        """The web address of the worker that was given a partition; none if nobody knows."""
        [changelog] = self.tables.changelog_topics
        told: Any = self.assignor
        found: str | None = told._tps_url.get(TP(changelog, partition))
        return found

    def settled(self) -> bool:
        """Whether the worker has joined, restored its tables, and is not rebalancing or stopping.

        Counted, and not only noted as Faust does: what ends one rebalance may come after the next has begun.
        """
        tables: Any = self.tables
        over = tables.recovery.restored == self.rebalancing_count
        return not self.should_stop and not self.rebalancing and over and tables.recovery.completed.is_set()

    def unheard_s(self) -> float:
        """Seconds since the worker last asked Kafka for something that only a member of the group is given."""
        told: Any = self.consumer
        return now_s() - float(told._thread.heard_at)

    def read_again(self, topic: str, partition: int, offset: int) -> None:
        """Have records of a topic read once more, from an offset on."""
        told: Any = self.consumer
        told.again[TP(topic, partition)] = offset

    def through(self, topic: str, partition: int, applied: int) -> int:
        """The offset before which all records of a topic are applied: behind the last one, and the markers after it.

        applied: the offset of the last record that is.
        """
        told: Any = self.consumer
        tp = TP(topic, partition)
        everything = told.given.get(tp, -1) <= applied
        return max(applied + 1, told.positions.get(tp, 0) if everything else 0)


class OurThread(AIOKafkaConsumerThread):
    """The thread of a consumer, which notes when Kafka last took it for a member of the group.

    heard_at: when that was asked (`now_s`): what is answered may be read much later, by a process that was frozen.
    """

    heard_at = float("-inf")

    async def on_start(self) -> None:
        """Listen to what the group's coordinator says."""
        await super().on_start()
        coordinator: Any = self._ensure_consumer()._coordinator
        ask = coordinator._send_req

        async def asked(request: Any) -> Any:
            asked_at = now_s()
            answer = await ask(request)
            if isinstance(request, HeartbeatRequest | SyncGroupRequest) and answer.error_code == 0:
                self.heard_at = asked_at
            return answer

        coordinator._send_req = asked

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Any:
        """Fetch records, the next time from others: upstream empties what was fetched of one partition first."""
        records = await super()._fetch_records(consumer, *args, **kwargs)
        fetched = consumer._fetcher._records
        for tp in records:
            if tp in fetched:
                fetched[tp] = fetched.pop(tp)
        return records

    def _create_worker_consumer(self, transport: Transport) -> Any:
        consumer: Any = super()._create_worker_consumer(transport)
        app: Any = self.app
        consumer._fetch_max_bytes = app.fetch_bytes  # Faust has no setting for it
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer


class OurConsumer(Consumer):
    """A consumer that goes on where the tables say, whatever the group has committed.

    again: what is to be read once more; given: the offset of the last record that was handed on; positions: of the next
    that will be, when that was known last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.again: dict[TP, int] = {}
        self.given: dict[TP, int] = {}
        self.positions: dict[TP, int] = {}

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return OurThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Seek every partition to the first record that has not been applied."""
        app: Any = self.app
        try:
            positions = {
                tp: app.keeper.position(tp.topic, tp.partition) for tp in self.assignment() if not app.is_changelog(tp)
            }
        except NotReady:  # asked while the partitions move; it is asked again when they are here
            return
        self.again, self.given, self.positions = {}, {}, {}
        await self.seek_wait(positions)  # a position before the first record is set to that one
        self._committed_offset.update({tp: offset or None for tp, offset in positions.items()})

    def on_buffer_full(self, tp: TP) -> None:
        """Nothing: upstream's notes who has enough may be of partitions that went, and then never end."""

    def _has_enough(self, tp: TP) -> bool:
        """Whether the agent of a topic has as many records as should wait."""
        topics: Any = self.app.topics
        return any(each.queue.qsize() >= each.queue.maxsize for each in topics._topic_name_index[tp.topic])

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - upstream's
        """Fetch records; first go back to what is to be read again: here nothing that was fetched is on its way."""
        again, self.again = self.again, {}
        mine = self.assignment()
        if back := {tp: offset for tp, offset in again.items() if tp in mine}:
            with suppress(IllegalStateError):  # they have just gone: whoever has them reads them
                await self.seek_wait(back)
        wanted = {tp for tp in active_partitions or () if not self._has_enough(tp)}
        if len(wanted) < len(active_partitions or ()):
            timeout = FULL_S
        if wanted:
            records = await super()._getmany(wanted, timeout)
        else:
            await self.sleep(FULL_S)
            records = {}
        self.given.update({tp: part[-1].offset for tp, part in records.items()})
        subscription: Any = self._thread._ensure_consumer()._subscription.subscription
        if subscription is not None and subscription.assignment is not None:
            for tp in active_partitions or ():
                state = subscription.assignment.state_value(tp)
                if state is not None and state.has_valid_position:
                    self.positions[tp] = state.position
        return records


class OurTransport(Transport):
    """Kafka, read by our consumer."""

    Consumer = OurConsumer


class OurRecovery(Recovery):
    """A recovery that leaves the tables to their keeper.

    assigned, restored: the rebalance whose partitions were given to us last, and the one whose are restored.
    """

    assigned = -1
    restored = -1

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Note which rebalance it is."""
        self.assigned = self.app.rebalancing_count
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)

    def need_recovery(self) -> bool:
        """Never: Faust itself restores nothing."""
        return False

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Have the partitions restored, then let records flow.

        Here and not when they are assigned, for Kafka hears no heartbeat then. Another rebalance ends it: Faust waits
        for the partitions that come with that one, but those of this one are gone by then.
        """
        app: Any = self.app
        this = self.assigned
        if this != app.rebalancing_count:  # the partitions have gone again
            return
        # Nothing is delivered until every position is set: upstream resumes the partitions before it seeks.
        app.consumer.stop_flow()
        app.flow_control.suspend()
        try:
            await app.keeper.take(app.owned(), generation_id)
        except NotReady:
            return
        if this != app.rebalancing_count:
            await app.keeper.leave()
            return
        self.restored = this
        await super().on_recovery_completed(generation_id)


class OurTables(TableManager):
    """A table manager with our recovery."""

    @property
    def recovery(self) -> Recovery:
        """The one recovery of this manager."""
        if self._recovery is None:
            self._recovery = OurRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


class OurTable(Table[Any, Any]):
    """A table on our store."""

    def _new_store(self) -> Any:
        return OurStore(self.app.conf.store, self.app, self, table_name=self.name, loop=self.loop, options=self.options)


class OurOptions(RocksDBOptions):
    """Options of a RocksDB that tells quickly that a row is not there, also of what is in no file yet."""

    bloom_filter_size = BLOOM_BITS

    def as_options(self) -> Any:
        """The options as rocksdict takes them."""
        options: Any = super().as_options()
        options.set_memtable_whole_key_filtering(True)
        options.set_memtable_prefix_bloom_ratio(BLOOM_SHARE)
        return options


def unknown_files(path: Path) -> set[str]:
    """The files of rows in the folder of a RocksDB of which its manifest does not know.

    A manifest that was cut short is opened without an error, and what it knew of is lost. Seldom it is a file that a
    worker was about to enter, or to remove, when it was killed: then rows are restored that need not be.
    """
    there = {file.name for file in path.glob("*.sst")}
    if not there:
        return there
    database = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only(False))
    try:
        return there - {file["name"].lstrip("/") for file in database.live_files()}
    finally:
        database.close()


def close(database: Any) -> None:
    """Close a RocksDB, once threads have read what they read: rocksdict refuses before that."""
    while True:
        try:
            database.close()
        except RuntimeError as why:
            if "borrowed" not in str(why):
                raise
            time.sleep(CLOSE_S)
        else:
            return


class OurStore(Store):
    """RocksDBs, one for each partition; one that is damaged is put out of the way, and begins empty."""

    def __init__(self, *args: Any, options: Any, **kwargs: Any) -> None:
        super().__init__(*args, options=options, **kwargs)
        self.rocksdb_options = OurOptions(**options)

    def _open_for_partition(self, partition: int) -> Any:
        path = Path(self.partition_path(partition))
        why: object = "a file of it could not be read"
        if not (path / CONDEMNED).exists():
            try:
                if not (unknown := unknown_files(path)):
                    return super()._open_for_partition(partition)
                why = f"its manifest does not know of {', '.join(sorted(unknown))}"
            except Exception as error:
                if any(word in str(error) for word in NOT_DAMAGE):
                    raise
                why = error
        log.warning(
            "partition %d: its rows are damaged (%s); they are in %s", partition, why, self.set_aside(partition)
        )
        return super()._open_for_partition(partition)

    def revoke_partitions(self, table: Any, tps: set[TP]) -> None:
        """Close the RocksDBs of partitions that went; upstream leaves it to the garbage collector."""
        for tp in tps:
            database = self._dbs.pop(tp.partition, None) if tp.topic in table.changelog_topic.topics else None
            if database is not None:
                close(database)

    def set_aside(self, partition: int) -> Path:
        """Rename the folder of a partition's store; the one that was renamed before is gone then."""
        path = Path(self.partition_path(partition))
        aside = path.with_name(f"{path.name}.aside")
        shutil.rmtree(aside, ignore_errors=True)
        return path.rename(aside)

    def condemn(self, partition: int) -> None:
        """Have the store of a partition set aside when it is opened next."""
        (Path(self.partition_path(partition)) / CONDEMNED).touch()


class OurWeb(Web):
    """A web server that does not keep a worker from stopping."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self.run_by(AppRunner)

    def run_by(self, runner: type[AppRunner]) -> None:
        """Take what runs the server; to be called before it starts."""
        self._runner = runner(self.web_app, access_log=None, shutdown_timeout=SHUTDOWN_S)
