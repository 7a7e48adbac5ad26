"""What a row costs when there are more of them, and when partitions and workers share them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.kafka import free_ports
from deploy.trial import TrialFailed, a_worker, get
from streams.partition import partition_of
from streams.settings import Settings
from streams.topics import CHANGELOG, declare
from tests.bench.arms import PATIENCE_S, apart, ours
from tests.bench.feed import TASK, Feed, Load, a_feed
from tests.bench.machine import cpu_s
from tests.bench.progress import step
from tests.bench.report import Figure, Report, ratios

ROWS = 256
FEATURES = 64
SIZES = (10_240, 102_400)
MILLION = 1_024_000
REPEAT, REPEAT_FULL = 5, 3
SHARED = (1, 2, 4)  # partitions, and workers,
SHARES = 3  # times each
OF_EACH = 20_480  # rows of each partition's project


async def scaling(settings: Settings, report: Report, *, full: bool) -> None:
    """Measure batches of several sizes, then several workers."""
    sizes = (*SIZES, MILLION) if full else SIZES
    repeat = REPEAT_FULL if full else REPEAT
    costs: dict[int, list[float]] = {size: [] for size in sizes}
    async with ours(settings) as worker:
        for turn in range(-1, repeat):
            for size in sizes if turn >= 0 else sizes[:1]:
                step(f"scaling: {size:,} rows, {turn + 1} of {repeat}")
                load = Load(chunks=size // ROWS, rows=ROWS, features=FEATURES)
                events = await asyncio.to_thread(load.events, f"of-{size}-{turn}", "batch")
                took = await worker.measure(events, load.total)
                if turn >= 0:
                    costs[size].append(took.cost)
        step("scaling: the same media again")
        load = Load(chunks=sizes[0] // ROWS, rows=ROWS, features=FEATURES)
        project = f"of-{sizes[0]}-0"
        again = [await worker.measure(load.events(project, f"again-{n}"), load.total) for n in range(repeat)]
    report.add(
        Figure("scaling.again", f"{sizes[0]:,} media once more", "us CPU/row", tuple(each.cost for each in again)),
        *(Figure(f"scaling.{size}", f"{size:,} rows", "us CPU/row", tuple(each)) for size, each in costs.items()),
        Figure(
            "scaling.flat",
            f"a row of {sizes[-1]:,} / of {sizes[0]:,}, CPU",
            "x",
            ratios(costs[sizes[-1]], costs[sizes[0]]),
        ),
    )
    for count in SHARED:
        step(f"scaling: {count} workers")
        report.add(*await shared(replace(apart(settings, f"shared-{count}"), partitions=count), count))


@asynccontextmanager
async def workers(settings: Settings, count: int) -> AsyncIterator[tuple[Feed, list[int], str]]:
    """So many workers; a feed to them, their process ids, and the address of one."""
    async with AsyncExitStack() as stack:
        await declare(settings)
        pids, url = [], ""
        for number, port in enumerate(free_ports(count)):
            own = replace(settings, data_dir=settings.state_dir / f"worker-{number}", web_port=port)
            log = settings.state_dir / f"worker-{number}.log"
            worker, _ = await stack.enter_async_context(a_worker(own, log))
            pids.append(worker.pid)
            url = own.url
        yield await stack.enter_async_context(a_feed(settings)), pids, url


async def shared(settings: Settings, count: int) -> list[Figure]:
    """So many partitions, a project in each, and as many workers."""
    load = Load(chunks=OF_EACH // ROWS, rows=ROWS, features=FEATURES)
    costs, speeds = list[float](), list[float]()
    changelog = [TopicPartition(settings.name(CHANGELOG.name), number) for number in range(count)]
    async with (
        workers(settings, count) as (feed, pids, url),
        AIOKafkaConsumer(bootstrap_servers=settings.broker) as consumer,
    ):

        async def end() -> int:
            return sum((await consumer.end_offsets(changelog)).values())

        for turn in range(SHARES):
            projects = {partition_of(name.encode(), count): name for name in (f"{turn}-{n}" for n in range(100))}
            every = [load.events(project, "batch") for project in projects.values()]
            for events in every:
                for topic, values in events.first:
                    await feed.send(topic, events.project, values)
                await feed.send("inference_artifacts", events.project, events.seen)
            await asyncio.gather(*(served(url, events.project, 0) for events in every))
            before, rows = -1, count * load.total
            while (now := await end()) != before:
                before = now
                await asyncio.sleep(0.5)
            began, cpu = time.monotonic(), sum(map(cpu_s, pids))
            ends = await asyncio.gather(
                *(feed.send("inference_artifacts", events.project, events.unseen) for events in every)
            )
            while await end() < before + rows:
                await asyncio.sleep(0.02)
            await asyncio.gather(*(served(url, each.project, at) for each, at in zip(every, ends, strict=True)))
            speeds.append(rows / (time.monotonic() - began))
            costs.append((sum(map(cpu_s, pids)) - cpu) / rows * 1e6)
    what = f"{count} partition{'s' if count > 1 else ''} and worker{'s' if count > 1 else ''}"
    return [
        Figure(f"scaling.shared.{count}.us", what, "us CPU/row", tuple(costs)),
        Figure(f"scaling.shared.{count}.rows", what, "rows/s", tuple(speeds)),
    ]


async def served(url: str, project: str, offset: int) -> None:
    """Wait for an answer, of whichever worker has the project, that is made of all up to an offset."""
    give_up = time.monotonic() + PATIENCE_S
    async with aiohttp.ClientSession(url) as session:
        while time.monotonic() < give_up:
            status, body = await get(session, f"/v1/projects/{project}/active-set?task_id={TASK}&limit=10")
            if status == 200 and body["as_of"].get("inference_artifacts", -1) >= offset:
                return
            await asyncio.sleep(0.05)
    raise TrialFailed(f"{project} did not get through")
