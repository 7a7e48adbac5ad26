import json
import signal
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from confluent_kafka import Producer

from streams.partition import partition_of
from streams.record import RECORD_BYTES
from streams.topics import TOPICS
from tests.broker.conftest import Program, Start, until
from tests.broker.programs import ALL as ALL
from tests.broker.programs import WORKER as WORKER


def event(project: str) -> bytes:
    """An upload of one image."""
    medium = {"dataset_storage_id": "s", "media_type": "image", "media_id": "m1"}
    return json.dumps({"workspace_id": "w", "project_id": project, "timestamp": 1, **medium}).encode()


async def read(kafka: str, topic: str) -> list[tuple[int, bytes, dict[str, bytes]]]:
    """Every record of a topic: partition, value, headers."""
    return [(each.partition, each.value, dict(each.headers)) for each in await records(kafka, topic)]


async def records(kafka: str, topic: str) -> list[Any]:
    """Every record of a topic, as Kafka's client gives it."""
    async with AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
        partitions = [TopicPartition(topic, partition) for partition in ALL]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        records: list[Any] = []
        while any([await consumer.position(each) < ends[each] for each in partitions]):
            for got in (await consumer.getmany(timeout_ms=200)).values():
                records += got
        return records


async def test_a_worker_makes_the_topics_joins_and_leaves_in_order(kafka: str, prefix: str, start: Start) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    assert await until(worker.partitions, worker) == ALL
    assert await worker.get("/livez") == (200, {"status": "live"})

    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    names = [prefix + topic.name for topic in TOPICS]
    told = {each["topic"]: len(each["partitions"]) for each in await admin.describe_topics(names)}
    configs: Any = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, names[-1])])
    await admin.close()

    assert told == dict.fromkeys(names, 8)
    assert {"compact", str(30 * 24 * 3600 * 1000)} <= {entry[1] for entry in configs[0].resources[0][4]}
    assert await worker.stop() == 0
    assert "ERROR" not in worker.said()


async def test_workers_share_the_partitions_and_take_over_from_one_that_leaves_or_dies(
    kafka: str, prefix: str, start: Start
) -> None:
    workers = [await start(*WORKER, broker=kafka, topic_prefix=prefix) for _ in range(3)]

    async def shared(*workers: Program) -> bool:
        owned = [await worker.partitions() for worker in workers]
        return all(owned) and sorted(chain.from_iterable(owned)) == ALL

    first, second, third = workers
    await until(lambda: shared(first, second, third), *workers)

    assert await first.stop() == 0
    await until(lambda: shared(second, third), second, third)

    second.process.send_signal(signal.SIGKILL)
    await until(lambda: shared(third), third)


async def test_a_worker_without_a_partition_is_ready_and_takes_over_when_it_gets_one(
    kafka: str, prefix: str, start: Start
) -> None:
    first = await start(*WORKER, broker=kafka, topic_prefix=prefix, partitions=1)
    await until(first.partitions, first)
    second = await start(*WORKER, broker=kafka, topic_prefix=prefix, partitions=1)

    await second.says(r"joined in .*, partitions (\[\]|\[0\])")
    workers = (first, second)

    async def one_has_it() -> bool:
        told = [await worker.get("/readyz") for worker in workers]
        return sorted(body["partitions"] for status, body in told if status == 200) == [[], [0]]

    await until(one_has_it, *workers)
    owner, idle = workers if await first.partitions() else reversed(workers)
    assert await owner.stop() == 0
    await until(idle.partitions, idle)


async def test_what_other_clients_send_is_heard_moved_or_rejected_whatever_its_compression(
    kafka: str, prefix: str, start: Start
) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    topic = f"{prefix}media_uploads"
    home = partition_of(b"p", 8)
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        producer = Producer({"bootstrap.servers": kafka, "compression.type": codec, "linger.ms": 50})
        headers: list[tuple[str, str | bytes | None]] = [("codec", codec.encode())]
        producer.produce(topic, event("p"), b"p", headers=headers, partition=home)
        producer.produce(topic, event("p"), b"p", headers=headers, partition=(home + 1) % 8)
        producer.produce(topic, f"{{oops {codec}".encode(), b"p", partition=home)
        producer.produce(topic, None, b"p", partition=home)
        assert producer.flush(20) == 0

    await until(partial(holds, kafka, f"{prefix}rejected_events", 10), worker)
    await until(partial(through, kafka, prefix, "media_uploads", 25), worker)

    rejected = [value.decode() for _, value, _ in await read(kafka, f"{prefix}rejected_events")]
    assert sorted(rejected)[5:] == sorted(f"{{oops {codec}" for codec in ("none", "gzip", "snappy", "lz4", "zstd"))
    at_home = [
        headers for partition, value, headers in await read(kafka, topic) if partition == home and value == event("p")
    ]
    assert len(at_home) == 10
    assert {headers["codec"] for headers in at_home} == {b"none", b"gzip", b"snappy", b"lz4", b"zstd"}
    assert await worker.stop() == 0
    # The ten at home, five of which came there by way of another partition.
    assert "records since the start: 10 heard, 5 moved, 10 rejected" in worker.said()


async def test_the_largest_records_are_moved_and_larger_ones_rejected(kafka: str, prefix: str, start: Start) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    topic, home = f"{prefix}media_uploads", partition_of(b"p", 8)
    for size, codec in ((RECORD_BYTES - 1, "none"), (RECORD_BYTES, "none"), (20_000_000, "zstd")):
        limits = {"message.max.bytes": 50_000_000, "compression.type": codec}
        producer = Producer({"bootstrap.servers": kafka, **limits})
        for partition in (home, (home + 1) % 8):
            producer.produce(topic, event("p").ljust(size), b"p", partition=partition)
        assert producer.flush(20) == 0

    await until(partial(holds, kafka, f"{prefix}rejected_events", 4), worker)
    await until(partial(through, kafka, prefix, "media_uploads", 7), worker)

    told = [headers for _, _, headers in await read(kafka, f"{prefix}rejected_events")]
    assert all(b"record must be at most 4128768 bytes" in headers["error"] for headers in told)
    assert sorted(int(headers["length"]) for headers in told) == [RECORD_BYTES] * 2 + [20_000_000] * 2
    assert await worker.stop() == 0
    assert "records since the start: 2 heard, 1 moved, 4 rejected" in worker.said()


async def test_a_worker_goes_on_where_the_last_one_stopped(kafka: str, prefix: str, start: Start) -> None:
    for run in (1, 2):
        worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
        await until(worker.partitions, worker)
        producer = Producer({"bootstrap.servers": kafka})
        producer.produce(f"{prefix}media_uploads", b"oops", b"p", partition=0)
        assert producer.flush(20) == 0
        await until(partial(holds, kafka, f"{prefix}rejected_events", run), worker)
        await until(partial(through, kafka, prefix, "media_uploads", run), worker)

        assert await worker.stop() == 0
        assert "records since the start: 1 rejected" in worker.said()


async def through(kafka: str, prefix: str, topic: str, count: int) -> bool:
    """Whether the workers have dealt with so many records of a topic: Faust has committed them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(f"{prefix}activeset")
    finally:
        await admin.close()
    committed: list[int] = [told.offset for at, told in offsets.items() if at.topic == f"{prefix}{topic}"]
    return sum(offset for offset in committed if offset > 0) == count


async def holds(kafka: str, topic: str, count: int) -> bool:
    """Whether there are so many records in a topic."""
    return len(await read(kafka, topic)) == count


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"partitions": "none"}, "ACTIVESET_PARTITIONS must be a whole number 1..1024, not 'none'"),
        ({"broker": ""}, "ACTIVESET_BROKER must be host:port of a Kafka"),
        ({"create_topics": "no"}, "ACTIVESET_CREATE_TOPICS is no, and these topics are missing: "),
        ({"tls_cert": "/no/such.pem"}, "ACTIVESET_TLS_CERT must be the path of a PEM file, not '/no/such.pem'"),
        ({"tls_cert": __file__, "tls_key": __file__}, "ACTIVESET_TLS_CERT and ACTIVESET_TLS_KEY must be a certificate"),
        ({"web_bind": "203.0.113.1"}, "ACTIVESET_WEB_BIND must be an address of this machine, not 203.0.113.1"),
    ],
)
async def test_a_setting_that_makes_no_sense_ends_the_start_with_2(
    kafka: str, prefix: str, start: Start, settings: dict[str, str], told: str
) -> None:
    worker = await start(*WORKER, **{"broker": kafka, "topic_prefix": prefix, **settings})

    assert await worker.ends() == 2
    assert worker.said().startswith(f"activeset: {told}")
    assert worker.said().count("\n") == 1


async def test_another_number_of_partitions_than_the_topics_have_ends_the_start_with_2(
    kafka: str, prefix: str, start: Start
) -> None:
    first = await start(*WORKER, broker=kafka, topic_prefix=prefix, partitions=3)
    await until(first.partitions, first)

    second = await start(*WORKER, broker=kafka, topic_prefix=prefix)

    assert await second.ends() == 2
    assert f"ACTIVESET_PARTITIONS must be 3, as topic {prefix}" in second.said()


async def test_a_kafka_that_is_not_there_ends_the_start_with_1_and_a_sentence(start: Start) -> None:
    worker = await start(*WORKER, broker="127.0.0.1:1")

    assert await worker.ends() == 1
    assert "activeset: no Kafka that serves us at 127.0.0.1:1" in worker.said()


async def test_the_readmes_example_of_another_client_is_heard(kafka: str, prefix: str, start: Start) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    readme = Path(__file__).parents[2].joinpath("README.md").read_text()
    example = "from confluent_kafka" + readme.partition("from confluent_kafka")[2].partition("```")[0]
    assert "127.0.0.1:43333" in example
    example = example.replace("127.0.0.1:43333", kafka).replace("media_uploads", f"{prefix}media_uploads")

    exec(example)

    await until(partial(through, kafka, prefix, "media_uploads", 1), worker)
    assert await worker.stop() == 0
    assert "records since the start: 1 heard" in worker.said()
