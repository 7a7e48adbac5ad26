"""A real worker under load, as Prometheus sees it."""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from streams.partition import partition_of
from tests.broker.conftest import Program, Start, until
from tests.broker.test_worker import ALL, WORKER

PROJECTS = [f"p{n}" for n in range(20)]
SECRET = "hush-hush"
ABOUT = {"workspace_id": "w", "timestamp": 1_767_225_600_000}
Scraped = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(worker: Program) -> Scraped:
    """All series of a worker; none if nobody answers."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{worker.url}/metrics") as answer:
            assert answer.status == 200
            text = await answer.text()
    except aiohttp.ClientError:
        return {}
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def value(found: Scraped, name: str, **labels: str) -> float:
    """The value of a series."""
    return found[f"activeset_{name}", frozenset(labels.items())]


def lag(found: Scraped) -> float:
    """Of all topics and partitions together."""
    return sum(value for (name, _), value in found.items() if name == "activeset_lag_records")


def produced(kafka: str, prefix: str) -> Counter[tuple[str, str]]:
    """Publish a load; what must become of its records, by topic and outcome."""
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5})
    wanted = Counter[tuple[str, str]]()

    def sends(topic: str, project: str, event: dict[str, Any], *outcomes: str, off: int = 0, **more: Any) -> None:
        body = {**ABOUT, "project_id": project, **event}
        key, partition = project.encode(), (partition_of(project.encode(), 8) + off) % 8
        producer.produce(f"{prefix}{topic}", json.dumps(body).encode(), key, partition=partition, **more)
        wanted.update((topic, outcome) for outcome in outcomes)

    for number, project in enumerate(PROJECTS):
        sends("project_updates", project, {"dataset_storage_id": "s", "tasks": [{"task_id": "t"}]}, "heard")
        for image in range(30):
            upload = {"dataset_storage_id": "s", "media_type": "image", "media_id": f"m{image}", "name": SECRET}
            sends("media_uploads", project, upload, "heard")
        if number % 2:  # in a wrong partition: moved, and heard in its own
            sends("model_activations", project, {"task_id": "t", "model_id": SECRET}, "moved", "heard", off=3)
        sends("model_activations", project, {"task_id": 5, "model_id": SECRET}, "rejected")
        sends("media_uploads", project, {SECRET: SECRET}, "rejected", headers=[("content-type", SECRET.encode())])
        media = [{"media_type": "image", "media_id": f"m{image}"} for image in range(30)]
        batch = {"dataset_storage_id": "s", "task_id": "t", "model_id": "m", "batch_id": "b", "subset": "unseen"}
        chunk = {**batch, "chunk": 0, "last": True, "media": media, "probabilities": [[0.75, 0.25]] * 30}
        sends("inference_artifacts", project, chunk, "heard")
    assert producer.flush(30) == 0
    return wanted


async def test_a_worker_tells_what_became_of_all_that_was_sent(
    kafka: str, prefix: str, start: Start, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"broker": kafka, "topic_prefix": prefix, "log_format": "json", "log_level": "debug"}
    worker = await start(*WORKER, **settings)
    await until(partial(scraped, worker), worker)  # also before it is ready
    assert await until(worker.partitions, worker) == ALL
    wanted = produced(kafka, prefix)

    async def done() -> Scraped | None:
        found = await scraped(worker)
        counts = {each: value(found, "records_total", topic=each[0], outcome=each[1]) for each in wanted}
        return found if counts == wanted and lag(found) == 0 and value(found, "ready") else None

    found: Scraped = await until(done, worker)
    status, _ = await worker.get(f"/v1/projects/{PROJECTS[0]}/active-set?limit=5&secret={SECRET}")
    assert status == 400
    assert await until(partial(worker.get, f"/v1/projects/{PROJECTS[0]}/active-set?limit=5"), worker)
    await worker.get(f"/v1/projects/{PROJECTS[1]}/active-set?limit=5")

    assert [value(found, "partitions", state=state) for state in ("owned", "restored", "ready")] == [8, 8, 8]
    assert value(found, "rejected_records_total", reason="schema") == len(PROJECTS)
    assert value(found, "rejected_records_total", reason="encoding") == len(PROJECTS)
    # Each record has rows at least for its progress; an upload one more, a project too, a chunk one for each medium.
    assert value(found, "rows_written_total") >= len(PROJECTS) * (1 + 30 + 30)
    assert 0 < value(found, "transactions_total") <= wanted.total()
    assert value(found, "scoring_seconds_count") == len(PROJECTS)
    assert value(found, "kafka_read_records_total", topic="project_updates") == len(PROJECTS)
    assert value(found, "kafka_event_seconds_count") >= wanted.total()
    assert value(found, "kafka_rebalances_total") >= 1
    assert value(found, "kafka_rebalance_seconds_count") >= 1
    after = await scraped(worker)
    assert value(after, "active_sets_total", marks="no", status="400") == 1
    assert value(after, "active_sets_total", marks="no", status="200") == 2
    assert value(after, "order_age_seconds_count", current="yes") >= 2
    assert value(after, "kafka_commit_seconds_count") >= 1
    assert not any(any(name in PROJECTS for _, name in labels) for _, labels in after)
    assert await worker.stop() == 0
    told = [json.loads(line) for line in worker.said().splitlines()]
    assert {line["level"] for line in told} >= {"info", "warning"}
    assert SECRET not in worker.said()

    killed = await start(*WORKER, data_dir=worker.state / "worker", **settings)
    await until(killed.partitions, killed)
    killed.process.kill()
    await killed.ends()
    last = await start(*WORKER, data_dir=worker.state / "worker", **settings)
    await until(last.partitions, last)
    ends = await scraped(last)
    assert [value(ends, "ends_total", reason=reason) for reason in ("told", "killed", "bug")] == [1, 1, 0]
    assert lag(ends) == 0
    assert await last.stop() == 0
