"""What is in a topic now, read once from its beginning: for who looks in, beside the workers and in no group."""

import asyncio
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streams.errors import KafkaUnavailable
from streams.record import MESSAGE_BYTES, Headers, Record
from streams.settings import Settings

PATIENCE_S = 30.0  # until more of a topic comes


async def records(settings: Settings, topic: str) -> AsyncIterator[tuple[Record, int]]:
    """The records of a topic, by its name without a prefix, up to its end as it is now, and their offsets.

    Those of a partition are in order. A topic that is not there has none.

    Raises:
        KafkaUnavailable: no broker answers, or nothing more comes.
    """
    name = settings.name(topic)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.broker,
        enable_auto_commit=False,
        # Not `seek_to_beginning`: what looks for the end, by default, may come after it.
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=MESSAGE_BYTES,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            await consumer.start()
        if name not in await consumer.topics():
            return
        places = [TopicPartition(name, number) for number in range(settings.partitions)]
        consumer.assign(places)
        async with asyncio.timeout(PATIENCE_S):
            ends = await consumer.end_offsets(places)
        while behind := [place for place in places if await consumer.position(place) < ends[place]]:
            async with asyncio.timeout(PATIENCE_S):
                found = await consumer.getmany(*behind, timeout_ms=1000)
            for place, messages in found.items():
                for each in messages:
                    if each.offset < ends[place]:
                        headers: Headers = [*each.headers]
                        at = each.timestamp / 1000
                        yield Record(topic, place.partition, each.key, each.value, headers, at), each.offset
    except (KafkaError, OSError, TimeoutError) as why:
        raise KafkaUnavailable(
            f"no Kafka that tells of {name} at {settings.broker} ({why!r}): is ACTIVESET_BROKER its host:port, "
            "and is it up?"
        ) from why
    finally:
        await consumer.stop()
