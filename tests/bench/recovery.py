"""How fast a worker whose disk is empty has its rows back, against Faust's own recovery and a bare loop.

What it takes is what a start on an empty disk takes longer than one on a disk that has all.
"""

import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import NamedTuple

from deploy import process
from deploy.trial import TrialFailed
from streams.settings import Settings
from streams.topics import CHANGELOG
from tests.bench.arms import HOUSE, Arm, Ours, Plain, alone, apart, ours, plain_faust
from tests.bench.feed import Load
from tests.bench.machine import cpu_s
from tests.bench.progress import step
from tests.bench.report import Figure, Report, ratios

SIZES = (100_000, 1_000_000)
ROWS = 1000
BATCHES = 3
REPEAT = 3
PLAIN = Load(chunks=20, features=0)  # of plain Faust, three times


class Back(NamedTuple):
    """What it takes to have rows back, for each: seconds on the clock and of the CPU."""

    s: float
    cpu_s: float


async def recovery(settings: Settings, report: Report, *, full: bool) -> None:
    """Fill, and start on an empty disk."""
    size = SIZES[full]
    settings = replace(settings, log_level="info")
    count = await filled(settings, size)
    plain = apart(settings, "of-plain")
    count_plain = await filled_plain(plain)
    found: dict[str, list[Back]] = {"activeset": [], "plain Faust": [], "bare loop": []}
    for turn in range(REPEAT):
        step(f"recovery: activeset, {turn + 1} of {REPEAT}")
        found["activeset"].append(await ours_back(settings, count))
        step(f"recovery: a bare loop, {turn + 1} of {REPEAT}")
        found["bare loop"].append(await bare(settings, turn))
        step(f"recovery: plain Faust, {turn + 1} of {REPEAT}")
        found["plain Faust"].append(await plain_back(plain, count_plain))
    tell(report, found, f"{size:,} media, {count:,} rows")


def tell(report: Report, found: dict[str, list[Back]], what: str) -> None:
    """The speeds, and how they lie to each other."""
    speeds = {name: tuple(1 / each.s for each in backs) for name, backs in found.items()}
    costs = {name: tuple(each.cpu_s for each in backs) for name, backs in found.items()}
    mine, plain, loop = found
    report.add(
        *(Figure(f"recovery.rows.{name}", f"{what}: {name}", "rows/s", speeds[name]) for name in found),
        *(
            Figure(f"recovery.us.{name}", f"{name}", "us CPU/row", tuple(1e6 * each for each in costs[name]))
            for name in found
        ),
        Figure("recovery.faust", "rows/s, ours / plain Faust's own", "x", ratios(speeds[mine], speeds[plain])),
        Figure("recovery.bare", "rows/s, ours / the bare loop", "x", ratios(speeds[mine], speeds[loop])),
        Figure("recovery.faust-cpu", "CPU of plain Faust's own / ours", "x", ratios(costs[plain], costs[mine])),
        Figure("recovery.bare-cpu", "CPU of the bare loop / ours", "x", ratios(costs[loop], costs[mine])),
    )


async def filled(settings: Settings, size: int) -> int:
    """Give a worker batches over the same media; the rows that its changelog has then."""
    load = Load(chunks=size // ROWS, rows=ROWS, features=64)
    async with ours(settings) as worker:
        for batch in range(BATCHES):
            step(f"recovery: batch {batch + 1} of {BATCHES} over {size:,} media")
            events = await asyncio.to_thread(load.events, "project", f"batch-{batch}")
            await worker.measure(events, load.total)
        return await worker.end()


async def filled_plain(settings: Settings) -> int:
    """The same of plain Faust, fewer."""
    async with plain_faust(settings) as worker:
        for batch in range(BATCHES):
            await worker.measure(PLAIN.events("project", f"batch-{batch}"), PLAIN.total)
        return await worker.end()


async def started(start: Callable[[], AbstractAsyncContextManager[Arm]], up: Callable[[Arm], Awaitable[None]]) -> Back:
    """What a start takes until a worker is up."""
    began = time.monotonic()
    async with start() as worker:
        await up(worker)
        return Back(time.monotonic() - began, cpu_s(worker.worker.pid))


async def ours_back(settings: Settings, count: int) -> Back:
    """What it takes us, for each row; no rebalance may take the partition away meanwhile."""

    async def up(worker: Arm) -> None:
        assert isinstance(worker, Ours)
        await worker.end()  # it is ready; aiokafka's consumer cannot be stopped before it has begun

    whole = await started(lambda: ours(settings), up)
    shutil.rmtree(settings.worker_dir)
    empty = await started(lambda: ours(settings), up)
    told = (settings.state_dir / "activeset.log").read_text()
    if told.count("restored") != 1:
        raise TrialFailed(f"the worker was evicted while it restored, or restored nothing:\n{told}")
    return Back((empty.s - whole.s) / count, (empty.cpu_s - whole.cpu_s) / count)


async def plain_back(settings: Settings, count: int) -> Back:
    """What it takes plain Faust, for each row: until it goes on with what comes next."""
    load = replace(PLAIN, chunks=1)

    async def up(worker: Arm) -> None:
        assert isinstance(worker, Plain)
        worker.before = await worker.end()
        events = load.events("project", "next")
        await worker.done(events, await worker.feed.send("inference_artifacts", "project", events.unseen), load.total)

    whole = await started(lambda: plain_faust(settings), up)
    shutil.rmtree(settings.state_dir / "plain" / "rows")
    empty = await started(lambda: plain_faust(settings), up)
    return Back((empty.s - whole.s) / count, (empty.cpu_s - whole.cpu_s) / count)


async def bare(settings: Settings, turn: int) -> Back:
    """What it takes a bare loop, for each row."""
    folder = settings.state_dir / f"bare-{turn}"
    command = ["-m", "tests.bench.bare", settings.broker, settings.name(CHANGELOG.name), str(folder)]
    reading = await process.start([sys.executable, *command], said=True, environ=alone(), folder=HOUSE)
    async with process.running(reading, 10):
        said, _ = await reading.communicate()
    count, s, of_cpu = map(float, said.split())
    shutil.rmtree(folder)
    return Back(s / count, of_cpu / count)
