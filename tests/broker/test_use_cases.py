"""The two use cases through a real Kafka, as the Intel Geti platform has them."""

import asyncio
from functools import partial
from typing import Any

import numpy as np
import pytest

from streams.producer import Artifacts, Producer, Receipt
from tables.rows import Kind, prefix_of
from tests.broker import oracle
from tests.broker.conftest import Program, Start, until
from tests.broker.test_active_set import MARKS, SAFE, heard
from tests.broker.test_worker import WORKER

UNSEEN = ["m0", "m1", "m2", "m3", "m4"]
CLASSIFICATION = {"task_id": "t1", "task_type": "classification"}
DETECTION = {"task_id": "t1", "task_type": "detection"}


async def scores(worker: Program) -> dict[str, float]:
    status, answer = await worker.get(f"{SAFE}?task_id=t1")
    assert status == 200, answer
    return {item["id"]: item["active_learning"]["score"] for item in answer["active_set"]}


@pytest.mark.parametrize(
    ("task", "seen", "labels", "unseen", "predicted", "wanted"),
    [
        (DETECTION, [[-5, 0], [0, 0.1], [5, 0]], "AAA", [[-4, 2], [-2, 4], [1, 5], [2, 3], [4, 1]], "AAAAA",
         [0.6, 0.2, 0.0, 0.4, 0.8]),
        (CLASSIFICATION, [[-5, 0], [0, 0.1], [5, 0], [0, -5], [0.1, 0], [0, 5]], "AAABBB",
         [[1, 4], [2, 3], [3, 2], [4, 1]], "ABAB", [0.0, 0.5, 0.5, 0.0]),
    ],
    ids=["class-agnostic", "by label"],
)  # fmt: skip
async def test_geti_scores_are_those_of_the_worked_examples(
    kafka: str,
    prefix: str,
    start: Start,
    task: dict[str, Any],
    seen: list[list[float]],
    labels: str,
    unseen: list[list[float]],
    predicted: str,
    wanted: list[float],
) -> None:
    def tell() -> Receipt:
        with Producer(kafka, workspace_id="w1", project_id="p1", prefix=prefix) as producer:
            return {
                **producer.project([task], preset="geti"),
                **producer.upload(UNSEEN[: len(unseen)]),
                **producer.infer(
                    "t1",
                    "model-1",
                    seen=Artifacts(media=[f"s{n}" for n in range(len(seen))], features=seen, labels=[*labels]),
                    unseen=Artifacts(
                        media=UNSEEN[: len(unseen)],
                        # As a model emits them: a batch of one, and spatial axes.
                        features=np.tile(np.array(unseen)[:, None, :, None, None], (1, 1, 1, 2, 3)),
                        labels=[*predicted],
                    ),
                ),
            }

    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    receipt = await asyncio.to_thread(tell)
    await until(partial(heard, worker, receipt), worker)

    assert await scores(worker) == dict(zip(UNSEEN, wanted, strict=False))


async def test_what_is_deleted_is_not_served_again_and_its_rows_go_from_kafka_and_from_the_disk(
    kafka: str, prefix: str, start: Start
) -> None:
    def tell(producer: Producer) -> Receipt:
        own = {"doubt": [0.1, 0.5, 0.9, 0.3, 0.7]}
        return {
            **producer.project(
                [CLASSIFICATION], active_learning={"tasks": {"t1": {"extractors": {"external:doubt": 1}}}}
            ),
            **producer.upload([*UNSEEN, {"media_type": "video", "media_id": "v", "frame_count": 900_000}]),
            **producer.infer("t1", "model-1", unseen=Artifacts(media=UNSEEN, utilities=own, labels=["a"] * 5)),
            **producer.delete(["m0"]),
        }

    with_kafka = Producer(kafka, workspace_id="w1", project_id="p1", prefix=prefix)
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    producer = await asyncio.to_thread(with_kafka.__enter__)
    try:
        receipt = await asyncio.to_thread(tell, producer)
        await until(partial(heard, worker, receipt), worker)
        assert [*(await scores(worker))][:4] == ["m2", "m4", "m1", "m3"]
        assert (await worker.get(f"{MARKS}?limit=2"))[0] == 200

        receipt = await asyncio.to_thread(producer.delete_project)
        await until(partial(is_gone, worker), worker)
        await asyncio.to_thread(producer.upload, ["m5"])
        assert (await worker.get(SAFE))[0] == 404
        await until(partial(is_swept, kafka, prefix), worker)
        assert await worker.stop() == 0
    finally:
        await asyncio.to_thread(with_kafka.__exit__)

    assert not oracle.differences(oracle.changelog(kafka, prefix).rows, oracle.folded(kafka, prefix).rows)
    disks = {partition: kept.rows for partition, kept in oracle.rows(worker.state).items()}
    assert not oracle.differences(disks, oracle.changelog(kafka, prefix).rows)


async def is_gone(worker: Program) -> bool:
    return (await worker.get(SAFE))[0] == 404


async def is_swept(kafka: str, prefix: str) -> bool:
    """Whether the changelog has no score of the project, and no upload but the one that came after it was deleted."""
    rows = (await asyncio.to_thread(oracle.changelog, kafka, prefix)).rows
    found = [key for each in rows.values() for key in each]
    count = {kind: sum(key.startswith(prefix_of("p1", kind)) for key in found) for kind in (Kind.SCORE, Kind.UPLOAD)}
    return count == {Kind.SCORE: 0, Kind.UPLOAD: 1}
