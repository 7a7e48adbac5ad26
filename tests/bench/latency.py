"""How a worker answers while it ingests: leases, and the steps of its event loop, as a probe in it tells."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np

from deploy.trial import TrialFailed
from streams.settings import Settings
from tests.bench.arms import Ours, ours
from tests.bench.feed import Events, Load
from tests.bench.progress import step
from tests.bench.report import Figure, Report

BATCHES = 10
ASK_S = 0.01


def probed(settings: Settings) -> AbstractAsyncContextManager[Ours]:
    """Our worker with a probe in it."""
    return ours(settings, ("tests.bench.probe", str(probe_file(settings))))


def probe_file(settings: Settings) -> Path:
    """Where the probe of a worker writes."""
    return settings.state_dir / "probe.json"


def anew(worker: Ours) -> None:
    """Have the probe of a worker begin anew."""
    os.kill(worker.worker.pid, signal.SIGUSR1)


async def steps(worker: Ours, settings: Settings) -> dict[str, Any]:
    """What the probe of a worker has found since it began."""
    file = probe_file(settings)
    file.unlink(missing_ok=True)
    os.kill(worker.worker.pid, signal.SIGUSR2)
    async with asyncio.timeout(10):
        while not file.exists():
            worker.check()
            await asyncio.sleep(ASK_S)
    told: dict[str, Any] = json.loads(file.read_text())
    return told


async def timed(ask: Callable[[], Awaitable[None]], until: "asyncio.Task[Any]", pause_s: float = 0.0) -> list[float]:
    """Ask again and again until something is done, which ends with us; the milliseconds that each answer took."""
    found = []
    try:
        while not until.done():
            began = time.perf_counter()
            await ask()
            found.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(pause_s)
    finally:
        until.cancel()
    return found


async def under_ingest(settings: Settings, report: Report) -> None:
    """Lease from a project, one request after the other, while batches of it come as fast as they are taken."""
    load = Load()
    async with probed(settings) as worker:
        step("ingest: leases meanwhile")
        first = load.events("leased", "first")
        batches = [load.events("leased", f"batch-{n}") for n in range(BATCHES)]
        await worker.measure(first, load.total)
        anew(worker)
        leases = await _leases(worker, batches)
        told = await steps(worker, settings)
    report.add(
        Figure("ingest.lease.p50", "a lease asked for meanwhile, p50", "ms", (float(np.quantile(leases, 0.5)),)),
        Figure("ingest.lease.p99", f"the same, p99 of {len(leases)}", "ms", (float(np.quantile(leases, 0.99)),)),
        Figure("ingest.step.p999", f"{told['steps']:,} steps of the event loop, p99.9", "ms", (told["p999"],)),
        Figure("ingest.step.longest", f"the longest ({told['over_10_ms']} over 10 ms)", "ms", (told["longest"],)),
        Figure("ingest.step.cpu", "the most CPU time in one", "ms", (told["longest_cpu"],)),
    )
    report.note(*told["what"][:3])


async def _leases(worker: Ours, batches: list[Events]) -> list[float]:
    """Milliseconds of each lease while the batches come."""
    count = 0

    async def lease() -> None:
        nonlocal count
        count += 1
        told = {"user_id": f"user-{count % 5}", "limit": 10}
        async with worker.session.post("/v1/projects/leased/leases", json=told) as answer:
            body = await answer.json()
            if answer.status != 200 or len(body["lease"]["media"]) != 10:
                raise TrialFailed(f"no lease: {answer.status} {str(body)[:300]}")

    async def feed() -> None:
        for events in batches:
            chunks = [*events.seen, *events.unseen]
            offset = await worker.feed.send("inference_artifacts", events.project, chunks, events.form)
            await worker.served(events.project, {"inference_artifacts": offset})

    feeding = asyncio.create_task(feed())
    found = await timed(lease, feeding)
    await feeding
    return found
