"""`make bench`: what a row of artifacts costs, from Kafka to being served, against plain Faust writing row by row.

Both read the same chunks from the same Kafka, in turn; what counts is the ratio of the CPU time that their workers
took. Machines differ and are shared: seconds mean little, ratios much.
"""

import asyncio
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import aiohttp
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy import process
from deploy.__main__ import until_signal
from deploy.serve import console
from deploy.trial import TrialFailed, a_kafka, a_worker, own_folder
from streams.chunks import Artifacts, chunks
from streams.errors import ActivesetError
from streams.producer import Producer
from streams.settings import Settings
from streams.topics import declare

ROWS = 256  # of a chunk
CLASSES = 10
REPEAT = 3
GOAL = 25
PATIENCE_S = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Arm:
    """One of the two: a worker that runs, and how to know that it is done.

    chunks: how many it gets at a time.
    done: whether all is done, given the offset of the last chunk and the rows since the worker began.
    """

    name: str
    worker: process.Process
    settings: Settings
    chunks: int
    done: Callable[[str, int, int], Awaitable[bool]]
    rows: int = 0

    async def measure(self, project: str) -> tuple[float, float]:
        """Rows a second, and CPU microseconds of the worker for each row, of one more project."""
        rows = self.chunks * ROWS
        self.rows += rows
        began, cpu = time.monotonic(), cpu_s(self.worker.pid)
        last = await asyncio.to_thread(publish, self.settings, project, self.chunks)
        while not await self.done(project, last, self.rows):
            if self.worker.returncode is not None or time.monotonic() - began > PATIENCE_S:
                raise TrialFailed(f"{self.name} did not get through; the logs are in {self.settings.state_dir}")
            await asyncio.sleep(0.1)
        return rows / (time.monotonic() - began), (cpu_s(self.worker.pid) - cpu) / rows * 1e6


def cpu_s(pid: int) -> float:
    """The CPU time that a process and its threads have taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def publish(settings: Settings, project: str, count: int) -> int:
    """A batch in so many chunks, with probabilities as a trained classifier gives them; the offset of the last one."""
    media = [f"image-{n:07}" for n in range(count * ROWS)]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(CLASSES), len(media)).astype(np.float16)
    parts = [
        part
        for first in range(0, len(media), ROWS)
        for part in chunks(
            Artifacts(media=media[first : first + ROWS], probabilities=probabilities[first : first + ROWS])
        )
    ]
    batch = {"dataset_storage_id": "s", "task_id": "t", "model_id": "m", "batch_id": "b", "subset": "unseen"}
    with Producer(settings.broker, workspace_id="w", project_id=project, prefix=settings.topic_prefix) as producer:
        producer.project([{"task_id": "t", "task_type": "classification"}])
        told = producer.publish(
            "inference_artifacts",
            *({**batch, **part, "chunk": n, "last": n == count - 1} for n, part in enumerate(parts)),
        )
    return told["inference_artifacts"]


def activeset(settings: Settings, worker: process.Process, session: aiohttp.ClientSession) -> Arm:
    """Our worker."""

    async def done(project: str, last: int, _: int) -> bool:
        """Whether an answer of the service is made from all rows."""
        async with session.get(f"/v1/projects/{project}/active-set?limit=1") as answer:
            return answer.status == 200 and (await answer.json())["as_of"].get("inference_artifacts", -1) >= last

    return Arm("activeset", worker, settings, 40, done)


async def plain_faust(settings: Settings, stack: AsyncExitStack) -> Arm:
    """Faust's own way."""
    name = settings.name("bench-plain")
    folder = settings.state_dir / "plain"
    told = [settings.broker, name, settings.name("inference_artifacts"), str(folder)]
    with (settings.state_dir / "plain.log").open("wb") as log:
        worker = await process.start([sys.executable, "-m", "tests.bench.plain", *told], output=log)
    await stack.enter_async_context(process.running(worker, 20))
    consumer = await stack.enter_async_context(AIOKafkaConsumer(bootstrap_servers=settings.broker))
    changelog = TopicPartition(f"{name}-rows-changelog", 0)  # Faust's name for it

    async def done(_: str, __: int, rows: int) -> bool:
        """Whether Kafka has all rows."""
        return bool((await consumer.end_offsets([changelog]))[changelog] >= rows)

    return Arm("plain Faust", worker, settings, 10, done)


async def main(settings: Settings) -> int:
    """Run both in turn, and print and keep the medians; 0 when it was measured."""
    with own_folder(replace(settings, partitions=1), "bench") as trial:
        path = trial.state_dir / "results.json"
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(a_kafka(trial))
            plain = replace(ours, topic_prefix=f"{ours.topic_prefix}plain.")
            await declare(plain)
            worker, session = await stack.enter_async_context(a_worker(ours, ours.state_dir / "activeset.log"))
            arms = [activeset(ours, worker, session), await plain_faust(plain, stack)]
            for arm in arms:
                await arm.measure("warm-up")
            found: dict[str, list[tuple[float, float]]] = {arm.name: [] for arm in arms}
            for turn in range(REPEAT):
                for arm in arms:
                    found[arm.name].append(await arm.measure(f"project-{turn}"))
    tell(found, path)
    return 0


def tell(found: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Print the medians, with the least and the most, and what they make of each other."""
    libraries = {name: version(name) for name in ("faust-streaming", "aiokafka", "numpy", "rocksdict")}
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    console.print(f"{machine}, {', '.join(f'{name} {told}' for name, told in libraries.items())}, 1 BLAS thread")
    console.print(f"chunks of {ROWS} rows, {CLASSES} probabilities each, {REPEAT} times: median (least to most)")
    medians = {}
    for name, runs in found.items():
        speeds, costs = zip(*runs, strict=True)
        medians[name] = statistics.median(costs)
        console.print(
            f"  {name:<12} {statistics.median(costs):7.1f} us CPU/row ({min(costs):.1f} to {max(costs):.1f})  "
            f"{statistics.median(speeds):7.0f} rows/s ({min(speeds):.0f} to {max(speeds):.0f})"
        )
    ratio = medians["plain Faust"] / medians["activeset"]
    console.print(f"  a row costs plain Faust {ratio:.1f} times the CPU; at least {GOAL} is wanted (DESIGN.md, 10)")
    path.write_text(json.dumps({"machine": machine, "libraries": libraries, "runs": found, "ratio": ratio}, indent=2))
    console.print(f"  {path}")


if __name__ == "__main__":
    logging.getLogger("aiokafka").setLevel("CRITICAL")  # it warns of a topic that plain Faust has not made yet
    try:
        sys.exit(asyncio.run(until_signal(main(Settings.from_environ(os.environ)), stopped=1)))
    except ActivesetError as why:
        console.print(f"activeset: {why}")
        sys.exit(why.exit_status)
