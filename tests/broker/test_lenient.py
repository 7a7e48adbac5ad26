"""What a real Kafka lets in, what it refuses, and what a consumer of ours makes of it (streams/lenient.py)."""

import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from confluent_kafka import Producer

from streams.lenient import UNPACKED_BYTES, install
from streams.record import MESSAGE_BYTES, undecodable
from tests.broker.conftest import Program, Start, until
from tests.broker.test_worker import WORKER
from tests.core.test_lenient import CODECS, GZIP, LZ4, NONE, NOT_UTF8, PACK, SNAPPY, ZSTD, batch, packed, record

Write = Callable[[bytes], Awaitable[int]]

INVALID_RECORD, CORRUPT, UNKNOWN = 87, 2, -1
GOOD = record(0) + record(1)
OLD = LegacyRecordBatchBuilder(1, NONE, 1000)
OLD.append(0, None, b"p", b"value")


@pytest.fixture
async def topic(kafka: str, prefix: str) -> str:
    """A topic with one partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(f"{prefix}t", 1, 1, topic_configs={"max.message.bytes": str(MESSAGE_BYTES)})])
    await admin.close()
    return f"{prefix}t"


@asynccontextmanager
async def writing(kafka: str, topic: str) -> AsyncIterator[Write]:
    """Writes bytes as a batch, past all that a producer would check; answers with Kafka's code, 0 if it took them."""
    client = AIOKafkaClient(bootstrap_servers=kafka)
    await client.bootstrap()
    await client.add_topic(topic)
    while (leader := client.cluster.leader_for_partition(TopicPartition(topic, 0))) in (None, -1):
        await client.force_metadata_update()

    async def write(data: bytes) -> int:
        answer: Any = await client.send(leader, ProduceRequest(None, -1, 30_000, [(topic, [(0, data)])]))
        return int(answer.topics[0][1][0][1])

    yield write
    await client.close()


@pytest.fixture
async def write(kafka: str, topic: str) -> AsyncIterator[Write]:
    """The same for the topic with one partition."""
    async with writing(kafka, topic) as write:
        yield write


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consumers read as ours do."""
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)
    install()


async def read(kafka: str, topic: str) -> list[Any]:
    """All records of the topic."""
    async with AIOKafkaConsumer(
        bootstrap_servers=kafka, auto_offset_reset="earliest", max_partition_fetch_bytes=MESSAGE_BYTES
    ) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        records: list[Any] = []
        while await consumer.position(partition) < end:
            records += (await consumer.getmany(timeout_ms=100)).get(partition, [])
        return records


@pytest.mark.parametrize("kind", CODECS)
async def test_a_record_whose_header_name_is_not_utf_8_arrives_between_its_neighbours(
    kafka: str, topic: str, write: Write, lenient: None, kind: int
) -> None:
    assert await write(packed(NONE, record(0, b"before"))) == 0
    assert await write(packed(kind, record(0, b"first"), record(1, b"bad", NOT_UTF8), record(2, b"last"))) == 0
    assert await write(packed(NONE, record(0, b"after"))) == 0

    records = await read(kafka, topic)

    assert [each.value for each in records] == [b"before", b"first", b"bad", b"last", b"after"]
    assert [each.offset for each in records if undecodable([*each.headers])] == [2]


async def test_without_us_it_ends_a_consumer(
    kafka: str, topic: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "MemoryRecords", MemoryRecords)  # whoever has built a worker has installed ours
    assert await write(packed(NONE, record(0, b"bad", NOT_UTF8))) == 0

    with pytest.raises(UnicodeDecodeError):
        await read(kafka, topic)


LET_IN = {
    "a record tells a wrong length": batch(PACK[GZIP](record(0) + record(1, size=3)), 2, GZIP),
    "an offset is far ahead": batch(record(0) + record(2**31 - 1), 2),
    "an offset is before the batch": batch(record(0) + record(-5), 2),
    "what follows gzip": batch(PACK[GZIP](GOOD) + b"more", 2, GZIP),
    "what follows lz4": batch(PACK[LZ4](GOOD) + b"more", 2, LZ4),
    "what follows snappy": batch(PACK[SNAPPY](GOOD) + b"mo", 2, SNAPPY),
    "snappy of another version": batch(b"\x82SNAPPY\0" + struct.pack(">ii", 2, 1) + PACK[SNAPPY](GOOD)[16:], 2, SNAPPY),
    "a few kilobytes of zstd": batch(PACK[ZSTD](record(0, bytes(UNPACKED_BYTES)) + record(1)), 2, ZSTD),
}


@pytest.mark.parametrize("data", LET_IN.values(), ids=LET_IN)
async def test_for_what_kafka_lets_in_and_nobody_can_read_a_record_tells_why(
    kafka: str, topic: str, write: Write, lenient: None, data: bytes
) -> None:
    assert await write(packed(NONE, record(0, b"before"))) == 0
    assert await write(data) == 0
    assert await write(packed(NONE, record(0, b"after"))) == 0

    first, *some, stands, last = await read(kafka, topic)

    assert [each.value for each in (first, last)] == [b"before", b"after"]
    assert [(each.offset, each.value) for each in some] in ([], [(1, b"value")])
    assert (stands.offset, stands.value) == (2, data[61:])
    assert "to 2 cannot be" in (undecodable([*stands.headers]) or "")


REFUSED = {
    "a name that is null": (packed(NONE, record(0, headers=[(None, b"")])), INVALID_RECORD),  # type: ignore[list-item] # on purpose
    "fewer records than it counts": (batch(GOOD, 3), INVALID_RECORD),
    "more records than it counts": (batch(GOOD, 1), INVALID_RECORD),
    "fewer records than offsets": (batch(GOOD, 2, last=5), INVALID_RECORD),
    "other offsets, compressed": (batch(PACK[GZIP](record(7)), 1, GZIP), UNKNOWN),
    "a control batch": (batch(GOOD, 2, 0x20), INVALID_RECORD),
    "a codec that is not known": (batch(GOOD, 2, 5), UNKNOWN),
    "a format before 0.11": (bytes(OLD.build()), INVALID_RECORD),
    "a wrong checksum": (batch(GOOD, 2)[:-1] + b"\1", CORRUPT),
    "gzip that is cut off": (batch(PACK[GZIP](GOOD)[:-4], 2, GZIP), UNKNOWN),
    "what is no zstd": (batch(b"no zstd", 2, ZSTD), UNKNOWN),
}


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED)
async def test_kafka_refuses(write: Write, data: bytes, code: int) -> None:
    assert await write(data) == code


async def test_none_of_it_travels_from_owner_to_owner(kafka: str, prefix: str, start: Start) -> None:
    first = await start(*WORKER, broker=kafka, topic_prefix=prefix, partitions=1)
    await until(first.partitions, first)
    async with writing(kafka, f"{prefix}media_uploads") as write:
        for poison in (packed(NONE, record(0, b"bad", NOT_UTF8)), *LET_IN.values()):
            assert await write(poison) == 0
    about = {"workspace_id": "w1", "project_id": "p1", "timestamp": 1, "dataset_storage_id": "s"}
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(f"{prefix}project_updates", json.dumps({**about, "tasks": [{"task_id": "t1"}]}), "p1")
    producer.produce(f"{prefix}media_uploads", json.dumps({**about, "media_type": "image", "media_id": "m1"}), "p1")
    assert producer.flush(20) == 0
    await until(partial(serves, first), first)

    first.process.kill()
    second = await start(*WORKER, broker=kafka, topic_prefix=prefix, partitions=1)  # which reads what is not applied
    await until(partial(serves, second), second)

    assert first.said().count("rejected media_uploads") >= 1 + len(LET_IN)
    assert await second.stop() == 0


async def serves(worker: Program) -> bool:
    """Whether a worker serves the image that came after all."""
    status, answer = await worker.get("/v1/projects/p1/active-set")
    return status == 200 and [item["id"] for item in answer["active_set"]] == ["m1"]
