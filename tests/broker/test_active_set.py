import asyncio
import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka import Producer as Librdkafka

from streams.errors import KafkaUnavailable, MalformedEvent
from streams.partition import partition_of
from streams.producer import Artifacts, Producer, Receipt
from streams.tensors import Tensor
from tests.broker.conftest import Program, Start, until
from tests.broker.test_worker import WORKER, holds, read

README = Path(__file__).parents[2] / "README.md"
SAFE = "/v1/projects/p1/active-set"
MARKS = "/api/v1/organizations/o/workspaces/w1/projects/p1/datasets/active"
IMAGES = [f"m{n}" for n in range(40)]


async def heard(worker: Program, receipt: Receipt) -> bool:
    status, answer = await worker.get(f"{SAFE}?limit=1")
    return status == 200 and all(answer["as_of"].get(topic, -1) >= offset for topic, offset in receipt.items())


async def images(worker: Program, path: str = SAFE) -> list[str]:
    status, answer = await worker.get(path)
    assert status == 200, answer
    return [item["id"] for item in answer["active_set"]]


def inference(kafka: str, prefix: str) -> Receipt:
    """A project whose images were inferred by its active model; the higher an image's number, the less certain."""
    with Producer(kafka, workspace_id="w1", project_id="p1", prefix=prefix) as producer:
        margin = np.linspace(0, 1, len(IMAGES))
        features = np.random.default_rng(0).normal(size=(len(IMAGES), 8))
        return {
            **producer.project([{"task_id": "t1"}]),
            **producer.upload(IMAGES),
            **producer.activate("t1", "model-1"),
            **producer.infer(
                "t1",
                "model-1",
                seen=Artifacts(media=["s1", "s2", "s3"], features=features[:3], labels=["a", "a", "b"]),
                unseen=Artifacts(
                    media=IMAGES,
                    probabilities=np.stack([1 - margin / 2, margin / 2], axis=1),
                    features=features.astype(np.float16),
                ),
                classes=["a", "b"],
            ),
            **producer.annotate(["m39"], {"t1": "annotated"}),
        }


async def test_what_was_inferred_is_served_and_survives_kills_empty_disks_and_other_workers(
    kafka: str, prefix: str, start: Start
) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    receipt = await asyncio.to_thread(inference, kafka, prefix)
    await until(partial(heard, worker, receipt), worker)

    assert await images(worker) == IMAGES[-2::-1]
    marked = await images(worker, f"{MARKS}?limit=3") + await images(worker, f"{MARKS}?limit=2&task_id=t1")
    left = [each for each in IMAGES[-2::-1] if each not in marked]
    assert len(left) == len(IMAGES) - 1 - 5
    assert await images(worker) == left
    before = await worker.get(SAFE)

    worker.process.send_signal(signal.SIGKILL)
    again = await start(*WORKER, broker=kafka, topic_prefix=prefix, data_dir=worker.state / "worker")
    await until(again.partitions, again)
    assert await again.get(SAFE) == before

    other = await start(*WORKER, broker=kafka, topic_prefix=prefix)  # with an empty disk
    await until(other.partitions, other)
    assert await again.stop() == 0
    await until(partial(owns_all, other), other)
    assert await other.get(SAFE) == before
    assert await images(other, f"{MARKS}?limit={len(left)}") == left
    assert await other.stop() == 0


async def test_a_worker_whose_folder_was_used_with_other_topics_knows_only_its_own(
    kafka: str, prefix: str, start: Start
) -> None:
    first = await start(*WORKER, broker=kafka, topic_prefix=f"{prefix}first.")
    await until(first.partitions, first)
    receipt = await asyncio.to_thread(inference, kafka, f"{prefix}first.")
    await until(partial(heard, first, receipt), first)
    assert await first.stop() == 0

    second = await start(
        *WORKER, broker=kafka, topic_prefix=f"{prefix}second.", data_dir=first.state / "worker", partitions=8
    )
    await until(second.partitions, second)

    assert (await second.get(SAFE))[0] == 404
    await asyncio.to_thread(inference, kafka, f"{prefix}second.")
    await until(partial(heard, second, receipt), second)
    assert await images(second) == IMAGES[-2::-1]
    assert "Traceback" not in second.said()


async def owns_all(worker: Program) -> bool:
    return len(await worker.partitions()) == 8


async def test_everything_counts_once_however_far_the_group_has_committed(
    kafka: str, prefix: str, start: Start
) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    assert await worker.stop() == 0
    receipt = await asyncio.to_thread(inference, kafka, prefix)
    commit_everything(kafka, prefix, receipt)

    after = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(partial(heard, after, receipt), after)

    assert await images(after) == IMAGES[-2::-1]


def commit_everything(kafka: str, prefix: str, receipt: Receipt) -> None:
    """Commit as if a worker without tables had read everything."""
    home = partition_of(b"p1", 8)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{prefix}activeset"})
    offsets = [TopicPartition(prefix + topic, home, offset + 1) for topic, offset in receipt.items()]
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()


async def test_images_that_other_kafka_clients_tell_of_are_served_whatever_their_compression_and_partition(
    kafka: str, prefix: str, start: Start
) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    about = {"workspace_id": "w1", "project_id": "p1", "timestamp": 1, "dataset_storage_id": "s"}
    codecs = ("none", "gzip", "snappy", "lz4", "zstd")
    for codec in codecs:
        for partitioner in ("consistent_random", "murmur2_random"):
            producer = Librdkafka(
                {"bootstrap.servers": kafka, "compression.type": codec, "linger.ms": 50, "partitioner": partitioner}
            )
            await until(worker.partitions, worker)
            medium = {"media_type": "image", "media_id": f"{codec}-{partitioner}"}
            for n in range(20):  # compressed together
                producer.produce(f"{prefix}media_uploads", json.dumps({**about, **medium, "n": n}), "p1")
            producer.produce(f"{prefix}project_updates", json.dumps({**about, "tasks": [{"task_id": "t1"}]}), "p1")
            assert producer.flush(20) == 0

    async def all_there() -> bool:
        status, answer = await worker.get(SAFE)
        return status == 200 and len(answer["active_set"]) == 2 * len(codecs)

    await until(all_there, worker)


ABOUT = {"workspace_id": "w1", "project_id": "p1", "timestamp": 1, "dataset_storage_id": "s"}
ARTIFACTS = {
    **ABOUT,
    "task_id": "t1",
    "model_id": "m1",
    "batch_id": "b1",
    "subset": "unseen",
    "chunk": 0,
    "last": True,
    "media": [{"media_type": "image", "media_id": each} for each in ("m1", "m2")],
    "probabilities": [[0.5, 0.5], [0.9, 0.1]],
}
UNFIT = Tensor(dtype="<f4", shape=[2, 2], data=bytes(15))
MSGPACK = {"content-type": "application/msgpack"}
# Topic, value, headers, and what the reason must say.
BAD: list[tuple[str, Any, dict[str, str], str]] = [
    ("media_uploads", b'{"workspace_id": ', {}, "value is no event of media_uploads in application/json"),
    ("media_uploads", b"\xc1", MSGPACK, "value is no event of media_uploads in application/msgpack"),
    ("media_uploads", {**ABOUT, "media": [{"media_type": "image", "media_id": 7}]}, {}, "media[0]"),
    ("project_updates", {**ABOUT, "tasks": {}}, {}, "$.tasks"),
    ("annotation_updates", {**ABOUT, "media_id": "m1", "states": {"t1": "done"}}, {}, "$.states"),
    ("model_activations", {**ABOUT, "task_id": "t1"}, {}, "model_id"),
    ("inference_artifacts", {**ARTIFACTS, "labels": ["a"]}, {}, "labels must have as many rows as media, 2, not 1"),
    ("inference_artifacts", {**ARTIFACTS, "features": UNFIT}, {}, "features.data must have 16 bytes"),
    ("inference_artifacts", {**ARTIFACTS, "project_id": "p2"}, {}, "project_id must be the record's key, 'p1'"),
    ("inference_artifacts", {**ARTIFACTS, "x": " " * 4_200_000}, {}, "record must be at most 4128768 bytes"),
]


async def test_bad_input_is_rejected_by_name_and_the_next_good_event_is_served(
    kafka: str, prefix: str, start: Start
) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    compressed = {"compression.type": "zstd", "message.max.bytes": 9_000_000, "partitioner": "murmur2_random"}
    producer = Librdkafka({"bootstrap.servers": kafka, **compressed})

    producer.produce(f"{prefix}project_updates", json.dumps({**ABOUT, "tasks": [{"task_id": "t1"}]}), b"p1")
    for n, (topic, bad, headers, _) in enumerate(BAD):
        raw = bad if isinstance(bad, bytes) else msgspec.json.encode(bad)
        producer.produce(f"{prefix}{topic}", raw, b"p1", headers=[*headers.items()])
        for image in (f"after-{n}", f"annotated-{n}"):
            medium = {"media_type": "image", "media_id": image}
            producer.produce(f"{prefix}media_uploads", json.dumps({**ABOUT, **medium}), b"p1")
        annotation = {**ABOUT, "media_id": f"annotated-{n}", "states": {"t1": "annotated"}}
        producer.produce(f"{prefix}annotation_updates", json.dumps(annotation), b"p1")
        scored = {**ARTIFACTS, "media": [{"media_type": "image", "media_id": f"after-{n}"}], "chunk": n}
        scored |= {"probabilities": [[0.5, 0.5]], "last": n == len(BAD) - 1}
        producer.produce(f"{prefix}inference_artifacts", json.dumps(scored), b"p1")
    assert producer.flush(20) == 0

    ends = {"media_uploads": 3 + 2 * len(BAD) - 1, "annotation_updates": len(BAD), "inference_artifacts": 3 + len(BAD)}
    await until(partial(heard, worker, ends), worker)
    rejected = await read(kafka, f"{prefix}rejected_events")
    told = [(headers["topic"].decode(), headers["error"].decode()) for _, _, headers in rejected]
    for topic, _, _, reason in BAD:
        assert [each for each in told if each[0] == f"{prefix}{topic}" and reason in each[1]], (reason, told)
    assert len(told) == len(BAD)
    _, answer = await worker.get(SAFE)
    tiers = {item["id"]: item["active_learning"]["tier"] for item in answer["active_set"]}
    assert tiers == {f"after-{n}": "earlier_model" for n in range(len(BAD))}
    assert await worker.stop() == 0
    assert f"{len(BAD)} rejected" in worker.said()


async def test_the_readmes_example_of_a_producer_is_served(kafka: str, prefix: str, start: Start) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    example = README.read_text().partition("```python")[2].partition("```")[0]
    assert "127.0.0.1:43333" in example
    example = example.replace('"127.0.0.1:43333"', f'"{kafka}", prefix="{prefix}"')

    await asyncio.to_thread(exec, example, {})

    async def served() -> bool:
        status, answer = await worker.get(f"{SAFE}?task_id=t1&limit=1000")
        if status != 200 or not answer["active_set"]:
            return False
        return bool(answer["active_set"][0]["active_learning"]["tier"] == "active_model")

    await until(served, worker)


async def test_a_producer_says_when_kafka_is_not_there_or_refuses(kafka: str, prefix: str) -> None:
    def talk(broker: str) -> None:
        with Producer(broker, workspace_id="w1", project_id="p1", prefix=prefix) as producer:
            producer.activate("t1", "m1")

    with pytest.raises(KafkaUnavailable, match="127.0.0.1:1"):
        await asyncio.to_thread(talk, "127.0.0.1:1")


async def test_a_producer_sends_nothing_of_what_is_malformed(kafka: str, prefix: str, start: Start) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)

    def talk() -> None:
        with Producer(kafka, workspace_id="w1", project_id="p1", prefix=prefix) as producer:
            with pytest.raises(MalformedEvent, match="states"):
                producer.annotate(["m1"], {"t1": "done"})
            with pytest.raises(MalformedEvent, match="probabilities must sum to 1"):
                producer.infer("t1", "m1", unseen=Artifacts(media=["m1"], probabilities=[[0.3, 0.4]]))
            with pytest.raises(MalformedEvent, match="features must have as many rows"):
                producer.infer("t1", "m1", unseen=Artifacts(media=["m1"], features=np.ones((2, 3))))
            with pytest.raises(MalformedEvent, match="topic must be one of"):
                producer.publish("nope", {})
        with pytest.raises(RuntimeError, match="with Producer"):
            producer.activate("t1", "m1")

    await asyncio.to_thread(talk)

    assert await holds(kafka, f"{prefix}annotation_updates", 0)
    assert await holds(kafka, f"{prefix}inference_artifacts", 0)
