"""The batch path to and from the changelog: rows appended in transactions by one writer, and read back.

A partition's writer has a transactional id of its own: whoever takes the partition over starts one with the same id,
and from then on Kafka refuses what a former owner still sends.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.consumer import AIOKafkaConsumer
from aiokafka.producer import AIOKafkaProducer

from streams.clock import Clock
from streams.offsets import Offsets
from streams.overrides import now_s
from streams.record import MESSAGE_BYTES
from streams.topics import configs
from tables.rows import KEPT, Change, pack_int, progress_key

BY_KAFKA = 1  # a record's time is when Kafka took it
SLICE = 5000  # rows that are read back between two steps of the event loop
# Returns when Kafka takes this worker for a member of the group, as it is.
Member = Callable[[], Awaitable[object]]

log = logging.getLogger("activeset.state")

FORGOTTEN_S = 3.0  # after which a transaction is forgotten that hides what comes after it
AGAIN_S = 0.5  # until a Kafka that knows of no broker is asked again; the watch bounds how often
BATCH_BYTES = 1024 * 1024  # a record batch; a row is at most that (agents/decide.py, ROW_BYTES)


class Writer:
    """The one writer of a partition of the changelog.

    written_ms: when Kafka took the last row; none, if it does not tell.
    """

    written_ms: int | None = None

    def __init__(self, broker: str, topic: str, partition: int, clock: Clock | None = None) -> None:
        """Connects to nothing yet.

        clock: is told Kafka's time with every row.
        """
        self.topic = topic
        self.partition = partition
        self.used_at = now_s()  # when it wrote last: Kafka forgets a writer that has written nothing for a week
        self._broker = broker
        self._clock = clock
        self._producer = self._new()

    def _new(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self._broker,
            transactional_id=f"{self.topic}-{self.partition}",
            acks="all",
            max_batch_size=BATCH_BYTES,
            max_request_size=MESSAGE_BYTES,
            request_timeout_ms=20_000,
        )

    async def start(self, member: Member) -> None:
        """Take the partition over: nobody who had it before can write to it any more.

        member: waited for first. Who was frozen since it was given the partition would shut out whoever has it by now.
        """
        await member()
        while True:
            try:
                await self._producer.start()
            except AssertionError:
                # aiokafka's, where a Kafka that has just come back tells of no broker yet.
                log.warning("partition %d: Kafka tells of no broker yet", self.partition)
                await self._producer.stop()
                self._producer = self._new()
                await asyncio.sleep(AGAIN_S)
            else:
                break
        self.used_at = now_s()

    async def stop(self) -> None:
        """Close the connections."""
        await self._producer.stop()

    async def append(self, changes: Sequence[Change]) -> int:
        """Append rows as one transaction; the answer is the offset of the last one, which Kafka has by then.

        Raises:
            KafkaError: it may or may not have been written. Whoever writes must end; what is restored is the truth.
        """
        self.used_at = now_s()
        await self._producer.begin_transaction()
        sent: list[asyncio.Future[Any]] = []
        try:
            return await self._append(changes, sent)
        except BaseException:
            for each in sent:  # what is told below is what went wrong
                each.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def _append(self, changes: Sequence[Change], sent: "list[asyncio.Future[Any]]") -> int:
        batch, count, asked = self._producer.create_batch(), 0, now_s()
        for key, value in changes:
            if batch.append(key=key, value=value, timestamp=None) is None:  # it is full
                sent.append(await self._producer.send_batch(batch, self.topic, partition=self.partition))
                await asyncio.sleep(0)  # a megabyte is enough for a step of the event loop
                batch, count = self._producer.create_batch(), 0
                batch.append(key=key, value=value, timestamp=None)
            count += 1
        sent.append(await self._producer.send_batch(batch, self.topic, partition=self.partition))
        # Before the commit, which would not look at what became of them: then a part of the rows would stand.
        last = [await each for each in sent][-1]
        if last.timestamp_type == BY_KAFKA:
            self.written_ms = last.timestamp
            if self._clock is not None:
                self._clock.hear(asked, last.timestamp, now_s())
        await self._producer.commit_transaction()
        return int(last.offset) + count - 1  # Kafka tells the offset of a batch's first record

    async def end_forgotten(self, *, commit: bool) -> None:
        """End a transaction that was begun before this writer started, and that Kafka has forgotten.

        What ends one of the writer's own, of a row that nobody reads, ends that as well, for it has the same id.
        """
        await self._producer.begin_transaction()
        await self._producer.send_and_wait(self.topic, pack_int(0), progress_key(KEPT), self.partition)
        await (self._producer.commit_transaction() if commit else self._producer.abort_transaction())


class Slice(NamedTuple):
    """Rows of one partition as they were appended, and the offset of the record before the next slice.

    written_ms: when Kafka took the last one; none, if it does not tell.
    """

    partition: int
    changes: list[Change]
    offset: int
    written_ms: int | None = None


class Ends(NamedTuple):
    """Which changelog it is, whatever it is called elsewhere, and where its partitions end.

    begins: where they begin. forgotten_ms: what was deleted before that may be told no more; none, if nobody knows.
    """

    origin: str
    offsets: dict[int, int]
    begins: Mapping[int, int] = MappingProxyType({})
    forgotten_ms: int | None = None


class Changelog:
    """The changelog of the table: who writes a partition of it, and how it is read back."""

    clock: Clock | None = None

    def __init__(self, broker: str, topic: str, offsets: Offsets, clock: Clock | None = None) -> None:
        """Connects to nothing yet.

        clock: is told Kafka's time with every row.
        """
        self.clock = clock
        self._broker = broker
        self._topic = topic
        self._offsets = offsets
        self._committed = Offsets(broker, committed=True)

    def writer(self, partition: int) -> Writer:
        """A new writer of a partition, not started."""
        return Writer(self._broker, self._topic, partition, self.clock)

    async def ask_time(self, writer: Writer) -> None:
        """Have Kafka tell the time, unless it has already: by a row that nobody reads."""
        if self.clock is None or self.clock.told:
            return
        await writer.append([(progress_key(KEPT), pack_int(0))])
        if not self.clock.told:
            log.warning(
                "topic %s does not tell Kafka's time (message.timestamp.type is not LogAppendTime): leases go by the "
                "clocks of the workers' machines, which must agree",
                self._topic,
            )

    async def ends(self, partitions: Sequence[int]) -> Ends:
        """Where some partitions end now, and of which Kafka and topic they are."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._broker)
        try:
            await admin.start()
            cluster = (await admin.describe_cluster())["cluster_id"]
            kept_ms = int((await configs(admin, [self._topic]))[self._topic]["delete.retention.ms"])
        finally:
            await admin.close()
        places = [(self._topic, partition) for partition in partitions]
        begins, ends = await self._offsets.begins(places), await self._offsets.ends(places)
        told = self.clock is not None and self.clock.told
        return Ends(
            f"{cluster}/{self._topic}",
            {partition: offset for (_, partition), offset in ends.items()},
            {partition: offset for (_, partition), offset in begins.items()},
            self.clock.now_ms() - kept_ms if self.clock is not None and told else None,
        )

    async def settle(self, writers: Mapping[int, Writer], ends: Mapping[int, int]) -> None:
        """See that all can be read up to some ends, in partitions whose writers have started.

        Kafka ends what was begun before that. But one that was killed while it ended a transaction forgets a partition
        that has no leader at the moment when it goes on: nothing behind can be read then, by anybody, for ever. The
        transaction counts if all of it is there: the last rows tell how far each topic is.
        """
        give_up = now_s() + FORGOTTEN_S
        while hidden := await self._hidden(ends):
            if now_s() < give_up:
                await asyncio.sleep(AGAIN_S)
                continue
            for partition, first in hidden.items():
                whole = await self._whole(partition, first, ends[partition])
                log.warning(
                    "partition %d: Kafka has forgotten to end a transaction at offset %d of the changelog: %s",
                    partition,
                    first,
                    "it is whole, and counts" if whole else "it is not whole, and does not count",
                )
                await writers[partition].end_forgotten(commit=whole)
            give_up = now_s() + FORGOTTEN_S

    async def close(self) -> None:
        """Close the connection."""
        await self._committed.close()

    async def _hidden(self, ends: Mapping[int, int]) -> dict[int, int]:
        """Where the partitions whose end cannot be read cannot be read any more."""
        told = await self._committed.ends([(self._topic, partition) for partition in ends])
        return {partition: offset for (_, partition), offset in told.items() if offset < ends[partition]}

    async def _whole(self, partition: int, first: int, end: int) -> bool:
        """Whether a transaction from an offset on, the last there is, has all its rows."""
        place, last = TopicPartition(self._topic, partition), b""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._broker, enable_auto_commit=False, max_partition_fetch_bytes=MESSAGE_BYTES
        )
        async with consumer:
            consumer.assign([place])
            consumer.seek(place, first)
            while await consumer.position(place) < end:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    last = records[-1].key or b""
        return last.startswith(progress_key(""))

    async def read(self, positions: Mapping[int, int], ends: Mapping[int, int]) -> AsyncIterator[Slice]:
        """What was written to some partitions and committed, from the offset of each on, up to its end."""
        behind = {TopicPartition(self._topic, number): ends[number] for number in positions}
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._broker,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=MESSAGE_BYTES,
        )
        async with consumer:
            consumer.assign([*behind])
            for partition in behind:
                consumer.seek(partition, positions[partition.partition])
            while behind:
                for partition, records in (await consumer.getmany(timeout_ms=100, max_records=SLICE)).items():
                    if strange := [record.offset for record in records if record.headers]:
                        raise ValueError(f"partition {partition.partition}: record {strange[0]} is not one of ours")
                    rows: list[Change] = [(record.key or b"", record.value) for record in records]
                    last = records[-1]
                    written_ms = last.timestamp if last.timestamp_type == BY_KAFKA else None
                    yield Slice(partition.partition, rows, last.offset, written_ms)
                for partition in [each for each, end in behind.items() if await consumer.position(each) >= end]:
                    consumer.pause(partition)
                    del behind[partition]
