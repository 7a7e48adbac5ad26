"""`make bench`: what a row of artifacts costs, from Kafka to being served, against plain Faust writing row by row.

Both read the same chunks from the same Kafka, in turn; what counts is the ratio of the CPU time that their workers
took. Machines differ and are shared: seconds mean little, ratios much.
"""

import asyncio
import json
import os
import platform
import shutil
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
from rich.console import Console

from deploy import process
from deploy.kafka import free_ports, local_kafka
from streams.producer import Artifacts, Producer
from streams.settings import Settings
from streams.topics import declare

ROWS = 256  # of a chunk
CLASSES = 10
REPEAT = 3
PATIENCE_S = 120.0
TICKS = os.sysconf("SC_CLK_TCK")

console = Console(stderr=True, highlight=False, soft_wrap=True)


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
                raise SystemExit(f"{self.name} did not get through; the logs are in {self.settings.state_dir}")
            await asyncio.sleep(0.1)
        return rows / (time.monotonic() - began), (cpu_s(self.worker.pid) - cpu) / rows * 1e6


def cpu_s(pid: int) -> float:
    """The CPU time that a process and its threads have taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def publish(settings: Settings, project: str, chunks: int) -> int:
    """Chunks with probabilities, as a trained classifier gives them; the offset of the last one."""
    media = [f"image-{n:07}" for n in range(chunks * ROWS)]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(CLASSES), len(media)).astype(np.float16)
    last = -1
    with Producer(settings.broker, workspace_id="w", project_id=project, prefix=settings.topic_prefix) as producer:
        producer.project([{"task_id": "t", "task_type": "classification"}])
        for first in range(0, len(media), ROWS):
            rows = slice(first, first + ROWS)
            unseen = Artifacts(media=media[rows], probabilities=probabilities[rows])
            last = producer.infer("t", "m", unseen=unseen)["inference_artifacts"]
    return last


async def activeset(settings: Settings, session: aiohttp.ClientSession, stack: AsyncExitStack) -> Arm:
    """Our worker."""
    environ = {
        **os.environ,
        "ACTIVESET_BROKER": settings.broker,
        "ACTIVESET_TOPIC_PREFIX": settings.topic_prefix,
        "ACTIVESET_STATE_DIR": str(settings.state_dir),
        "ACTIVESET_PARTITIONS": str(settings.partitions),
        "ACTIVESET_WEB_PORT": str(settings.web_port),
    }
    worker = await started("activeset", ["-m", "agents", "worker"], environ, settings, stack)

    async def done(project: str, last: int, _: int) -> bool:
        """Whether an answer of the service is made from all rows."""
        try:
            async with session.get(f"/v1/projects/{project}/active-set?limit=1") as answer:
                return answer.status == 200 and (await answer.json())["as_of"].get("inference_artifacts", -1) >= last
        except aiohttp.ClientError:
            return False

    return Arm("activeset", worker, settings, 40, done)


async def plain_faust(settings: Settings, stack: AsyncExitStack) -> Arm:
    """Faust's own way."""
    told = [settings.broker, settings.name("inference_artifacts"), str(settings.state_dir / "plain")]
    worker = await started("plain", ["-m", "tests.bench.plain", *told], dict(os.environ), settings, stack)
    consumer = await stack.enter_async_context(AIOKafkaConsumer(bootstrap_servers=settings.broker))
    changelog = TopicPartition("bench-plain-rows-changelog", 0)  # Faust's name for it

    async def done(_: str, __: int, rows: int) -> bool:
        """Whether Kafka has all rows."""
        return bool((await consumer.end_offsets([changelog]))[changelog] >= rows)

    return Arm("plain Faust", worker, settings, 10, done)


async def started(
    name: str, command: list[str], environ: dict[str, str], settings: Settings, stack: AsyncExitStack
) -> process.Process:
    """A program of ours, ended with the stack."""
    with (settings.state_dir / f"{name}.log").open("wb") as log:
        worker = await process.start([sys.executable, *command], output=log, environ=environ)
    return await stack.enter_async_context(process.running(worker, 20))


async def main(settings: Settings) -> None:
    """Run both in turn, and print and keep the medians."""
    folder = settings.state_dir.absolute() / "bench"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    async with AsyncExitStack() as stack:
        settings = replace(settings, state_dir=folder, data_dir=None, partitions=1, web_port=free_ports(1)[0])
        if not settings.broker:
            settings = replace(settings, broker=(await stack.enter_async_context(local_kafka(settings))).address)
        ours = replace(settings, topic_prefix=f"bench-{os.getpid()}.")
        plain = replace(settings, topic_prefix=f"bench-plain-{os.getpid()}.")
        for each in (ours, plain):
            await declare(each)
        session = await stack.enter_async_context(aiohttp.ClientSession(ours.url))
        arms = [await activeset(ours, session, stack), await plain_faust(plain, stack)]
        for arm in arms:
            await arm.measure("warm-up")
        found: dict[str, list[tuple[float, float]]] = {arm.name: [] for arm in arms}
        for turn in range(REPEAT):
            for arm in arms:
                found[arm.name].append(await arm.measure(f"project-{turn}"))
    tell(found, folder / "results.json")


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
    console.print(f"  a row costs plain Faust {ratio:.1f} times the CPU")
    path.write_text(json.dumps({"machine": machine, "libraries": libraries, "runs": found, "ratio": ratio}, indent=2))
    console.print(f"  {path}")


if __name__ == "__main__":
    asyncio.run(main(Settings.from_environ(os.environ)))
