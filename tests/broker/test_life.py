"""How a worker lives and ends: in time, with a status that tells whether all is in order."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Producer as Librdkafka

from deploy.kafka import LocalKafka, local_kafka
from streams.producer import Producer
from tests.broker.conftest import Program, Start, local_settings, until
from tests.broker.test_active_set import IMAGES, SAFE, heard, images, inference
from tests.broker.test_worker import WORKER

END_S = 15.0  # what SIGTERM may take, whatever else is going on


@pytest.fixture
async def own_kafka(tmp_path: Path) -> AsyncIterator[LocalKafka]:
    """A Kafka that a test may freeze or kill."""
    async with local_kafka(local_settings(tmp_path / "own-kafka")) as broker:
        yield broker


async def ended(worker: Program) -> tuple[int, float]:
    """SIGTERM: the exit status, and how long it took."""
    began = time.monotonic()
    status = await worker.stop()
    return status, time.monotonic() - began


async def test_sigterm_while_a_worker_starts_joins_restores_or_moves_ends_it_in_order(
    kafka: str, prefix: str, start: Start
) -> None:
    first = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(first.partitions, first)
    await asyncio.to_thread(inference, kafka, prefix)

    for delay_s in (0.6, 1.2, 1.8, 2.4, 3.0):  # from before it joins until after it has taken partitions over
        worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
        await asyncio.sleep(delay_s)
        assert await until_ended(worker) == 0

    status, took_s = await ended(first)
    assert (status, took_s < END_S) == (0, True)


async def until_ended(worker: Program) -> int:
    status, took_s = await ended(worker)
    assert took_s < END_S, worker.said()
    # A signal before Python has its handlers is no worker's yet.
    return 0 if status == -signal.SIGTERM and not worker.said() else status


async def test_sigterm_with_the_broker_gone_ends_a_worker_with_1_in_time(start: Start, tmp_path: Path) -> None:
    async def without(gone: signal.Signals) -> tuple[int, float, str]:
        async with local_kafka(local_settings(tmp_path / gone.name)) as kafka:
            worker = await start(*WORKER, broker=kafka.address)
            await until(worker.partitions, worker)
            receipt = await asyncio.to_thread(inference, kafka.address, "")
            await until(partial(heard, worker, receipt), worker)
            os.kill(kafka.process.pid, gone)
            try:
                return *await ended(worker), worker.said()
            finally:
                with suppress(ProcessLookupError):
                    os.kill(kafka.process.pid, signal.SIGCONT)

    for status, took_s, said in await asyncio.gather(without(signal.SIGSTOP), without(signal.SIGKILL)):
        assert (status, took_s < END_S) == (1, True), said


async def test_a_worker_that_cannot_heal_says_so_on_livez_and_ends(own_kafka: LocalKafka, start: Start) -> None:
    worker = await start(*WORKER, broker=own_kafka.address, stall_s=10)
    await until(worker.partitions, worker)
    os.kill(own_kafka.process.pid, signal.SIGSTOP)
    try:

        async def not_live() -> bool:
            return (await worker.get("/livez"))[0] == 503

        async def not_ready() -> bool:
            return (await worker.get("/readyz"))[0] == 503

        await until(not_ready, worker)
        assert (await worker.get("/livez"))[0] == 200  # it may heal
        assert (await worker.get(SAFE))[0] == 503
        await until(not_live, worker)
        assert await worker.ends() == 1
    finally:
        os.kill(own_kafka.process.pid, signal.SIGCONT)

    assert "there is something to do" in worker.said()


async def test_a_worker_outlives_a_broker_that_is_away_for_a_while(own_kafka: LocalKafka, start: Start) -> None:
    worker = await start(*WORKER, broker=own_kafka.address)
    await until(worker.partitions, worker)
    receipt = await asyncio.to_thread(inference, own_kafka.address, "")
    await until(partial(heard, worker, receipt), worker)
    os.kill(own_kafka.process.pid, signal.SIGSTOP)
    await asyncio.sleep(8)  # longer than the session
    os.kill(own_kafka.process.pid, signal.SIGCONT)

    def more() -> dict[str, int]:
        with Producer(own_kafka.address, workspace_id="w1", project_id="p1") as producer:
            return producer.annotate(["m38"], {"t1": "annotated"})

    await until(partial(heard, worker, await asyncio.to_thread(more)), worker)

    assert await images(worker) == IMAGES[-3::-1]
    assert (await ended(worker))[0] == 0


@pytest.mark.parametrize("damage", ["truncated", "gone", "no database", "unknown"])
async def test_a_damaged_store_is_set_aside_and_restored(kafka: str, prefix: str, start: Start, damage: str) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    receipt = await asyncio.to_thread(inference, kafka, prefix)
    await until(partial(heard, worker, receipt), worker)
    before = await worker.get(SAFE)
    assert await worker.stop() == 0
    folder = worker.state / "worker"
    files = [file for file in folder.rglob("*.sst") if file.stat().st_size > 2000]
    assert files
    for file in files:
        match damage:
            case "truncated":
                os.truncate(file, file.stat().st_size // 2)
            case "gone":
                file.unlink()
            case "unknown":  # to a manifest that was cut short, which RocksDB opens without an error
                for manifest in file.parent.glob("MANIFEST-*"):
                    os.truncate(manifest, manifest.stat().st_size // 2)
            case _:
                file.parent.joinpath("CURRENT").write_text("garbage")

    again = await start(*WORKER, broker=kafka, topic_prefix=prefix, data_dir=folder)
    await until(again.partitions, again)

    assert await again.get(SAFE) == before
    assert "its rows are damaged" in again.said()
    assert [*folder.rglob("*.aside")]
    assert await again.stop() == 0


async def test_records_that_kafka_does_not_have_are_passed_over_once_they_were_asked_for_again(
    kafka: str, prefix: str, start: Start
) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    # Each transaction leaves a marker, which has an offset and is no record.
    producer = Librdkafka(
        {"bootstrap.servers": kafka, "transactional.id": f"{prefix}other", "partitioner": "murmur2_random"}
    )
    producer.init_transactions(20)
    for n in range(3):
        producer.begin_transaction()
        told = f'{{"workspace_id": "w1", "project_id": "p1", "timestamp": 1, "dataset_storage_id": "s"{EXTRA[n]}}}'
        producer.produce(f"{prefix}{('project_updates', 'media_uploads', 'media_uploads')[n]}", told, "p1")
        producer.commit_transaction(20)

    async def both() -> bool:
        status, answer = await worker.get(SAFE)
        return status == 200 and {item["id"] for item in answer["active_set"]} == {"m1", "m2"}

    await until(both, worker)
    # A marker at the end of a topic keeps nobody from being ready.
    other = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(other.partitions, other)
    await until(both, worker)

    assert await worker.stop() == 0
    assert "1 gaps" in worker.said()


EXTRA = (
    ', "tasks": [{"task_id": "t1"}]',
    ', "media_type": "image", "media_id": "m1"',
    ', "media_type": "image", "media_id": "m2"',
)
