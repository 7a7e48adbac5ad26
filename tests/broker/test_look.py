import asyncio
import json
from functools import partial
from typing import Any

from confluent_kafka import Producer as Librdkafka

from streams.producer import Producer, Receipt
from tests.broker.conftest import Program, Start, until
from tests.broker.test_active_set import heard
from tests.broker.test_worker import WORKER


async def printed(start: Start, kafka: str, prefix: str, *command: str) -> tuple[int, str]:
    """Exit status and output of an operator's command."""
    program = await start("agents", *command, broker=kafka, topic_prefix=prefix)
    return await program.ends(), program.said()


def published(kafka: str, prefix: str) -> Receipt:
    """A project with an image, and something that is no event."""
    librdkafka = Librdkafka({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
    librdkafka.produce(f"{prefix}media_uploads", b"{", b"p1")
    assert librdkafka.flush(20) == 0
    with Producer(kafka, workspace_id="w1", project_id="p1", prefix=prefix) as producer:
        return {**producer.project([{"task_id": "t1"}], name="Cats"), **producer.upload(["m 1"])}


async def test_an_operator_sees_projects_media_and_what_was_rejected(kafka: str, prefix: str, start: Start) -> None:
    assert await printed(start, kafka, prefix, "projects") == (0, "none\n")
    worker: Program = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    receipt = await asyncio.to_thread(published, kafka, prefix)
    await until(partial(heard, worker, receipt), worker)

    _, projects = await printed(start, kafka, prefix, "projects", "--json")
    _, rejected = await printed(start, kafka, prefix, "rejected", "--json")
    status, project = await printed(start, kafka, prefix, "project", "p1", "--url", worker.url)
    _, medium = await printed(start, kafka, prefix, "medium", "p1", "image:m 1", "--json", "--url", worker.url)
    unknown, why = await printed(start, kafka, prefix, "medium", "p1", "image:m9", "--url", worker.url)

    told: list[dict[str, Any]] = json.loads(projects)
    assert [(each["project_id"], each["name"], each["tasks"]) for each in told] == [("p1", "Cats", ["t1"])]
    [bad] = json.loads(rejected)
    assert (bad["topic"], bad["key"]) == (f"{prefix}media_uploads", "p1")
    assert "value is no event of media_uploads" in bad["error"]
    assert status == 0
    assert "  total: 1\n" in project
    assert json.loads(medium)["rank"] == 1
    assert (unknown, why) == (1, "activeset: 404 media_not_found: project 'p1' has no medium 'image:m9'\n")
