"""What is in a topic now, for who looks in, beside the workers and in no group."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from streams import lenient
from streams.errors import KafkaUnavailable
from streams.record import MESSAGE_BYTES, Headers, Record, Stored
from streams.settings import Settings

PATIENCE_S = 30.0  # until more of a topic comes

Offsets = Mapping[TopicPartition, int]


async def records(settings: Settings, topic: str) -> AsyncIterator[Stored]:
    """The records of a topic, by its name without a prefix, from its beginning to its end as it is now.

    Those of a partition are in order. A topic that is not there has none.

    Raises:
        KafkaUnavailable: no broker answers, or nothing more comes.
    """
    async with opened(settings, topic) as (consumer, starts, ends):
        async for each in between(consumer, topic, starts, ends):
            yield each


async def last(settings: Settings, topic: str, count: int, wanted: Callable[[Record], bool]) -> AsyncIterator[Stored]:
    """The last records of a topic that are wanted: of each partition so many, or a few more, if it has them.

    Partitions are read from their ends, in steps that grow until enough is found; what is before that is not read.

    Raises:
        KafkaUnavailable: as `records`.
    """
    async with opened(settings, topic) as (consumer, starts, ends):
        found, left, step = Counter[int](), ends, count
        while left:
            first = {place: max(starts[place], end - step) for place, end in left.items()}
            async for each in between(consumer, topic, first, left):
                if wanted(each.record):
                    found[each.record.partition] += 1
                    yield each
            left = {place: at for place, at in first.items() if at > starts[place] and found[place.partition] < count}
            step *= 2


@asynccontextmanager
async def opened(settings: Settings, topic: str) -> AsyncIterator[tuple[AIOKafkaConsumer, Offsets, Offsets]]:
    """A consumer of all partitions of a topic, and where they begin and end now; there are none if the topic is not.

    Raises:
        KafkaUnavailable: as `records`.
    """
    lenient.install()
    name = settings.name(topic)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.broker,
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # what is asked for may be deleted by then
        max_partition_fetch_bytes=MESSAGE_BYTES,
    )
    try:
        starts: Offsets = {}
        ends: Offsets = {}
        async with asyncio.timeout(PATIENCE_S):
            await consumer.start()
            if name in await consumer.topics():
                await consumer.end_offsets([TopicPartition(name, 0)])  # from then on the client knows of the topic
                places = [TopicPartition(name, number) for number in consumer.partitions_for_topic(name) or ()]
                consumer.assign(places)
                starts, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        yield consumer, starts, ends
    except (KafkaError, OSError, TimeoutError) as why:
        raise KafkaUnavailable(
            f"no Kafka that tells of {name} at {settings.broker} ({why!r}): is ACTIVESET_BROKER its host:port, "
            "and is it up?"
        ) from why
    finally:
        await consumer.stop()


async def between(consumer: AIOKafkaConsumer, topic: str, first: Offsets, ends: Offsets) -> AsyncIterator[Stored]:
    """The records of partitions from some offsets on, and before others."""
    for place, at in first.items():
        consumer.seek(place, at)
    while found := await more(consumer, ends):
        for place, messages in found.items():
            for each in messages:
                if each.offset < ends[place]:
                    headers: Headers = [*each.headers]
                    record = Record(topic, place.partition, each.key, each.value, headers, each.timestamp / 1000)
                    yield Stored(record, each.offset, len(consumer.assignment()))


async def more(consumer: AIOKafkaConsumer, ends: Offsets) -> dict[TopicPartition, list[ConsumerRecord]]:
    """What comes next of partitions that are not at their ends; nothing if all are, also by what is no record."""
    async with asyncio.timeout(PATIENCE_S):
        while behind := [place for place, end in ends.items() if await consumer.position(place) < end]:
            found: dict[TopicPartition, list[ConsumerRecord]] = await consumer.getmany(*behind, timeout_ms=1000)
            if found:
                return found
    return {}
