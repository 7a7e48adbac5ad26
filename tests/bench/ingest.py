"""What a row of artifacts costs, from Kafka to being served: against plain Faust, and its own parts in a loop."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

from deploy.kafka import free_ports
from streams.settings import Settings
from tests.bench.arms import GROUPED, Arm, Took, apart, ours, plain_faust, plain_loop
from tests.bench.feed import Load
from tests.bench.latency import under_ingest
from tests.bench.progress import step
from tests.bench.report import Figure, Report, ratios

REPEAT = 5
# A second or two of each: what begins and ends them counts little.
LOADS = {"features": Load(chunks=80, features=256), "probabilities": Load(chunks=160, features=0)}


async def ingest(settings: Settings, report: Report, *, full: bool) -> None:
    """Measure both loads, all arms in turn."""
    async with AsyncExitStack() as stack:
        arms: list[Arm] = [
            await stack.enter_async_context(ours(settings)),
            await stack.enter_async_context(plain_faust(settings)),
            await stack.enter_async_context(plain_loop(settings, GROUPED)),
            await stack.enter_async_context(plain_loop(settings, 1)),
        ]
        for name, load in LOADS.items():
            report.add(*figures(name, load, await in_turn(arms, load, name)))
    busy = apart(settings, "busy")
    await under_ingest(replace(busy, web_port=free_ports(1)[0]), report)


async def in_turn(arms: list[Arm], load: Load, name: str, repeat: int = REPEAT) -> dict[str, list[Took]]:
    """What each arm took, each time with another project, after one that is not counted."""
    found: dict[str, list[Took]] = {arm.name: [] for arm in arms}
    for turn in range(-1, repeat):
        for arm in arms:
            step(f"ingest, {name}: {arm.name}, {turn + 1} of {repeat}")
            part = replace(load, chunks=load.chunks // arm.slow)
            events = await asyncio.to_thread(part.events, f"{name}-{turn}", f"batch-{turn}")
            took = await arm.measure(events, part.total)
            if turn >= 0:
                found[arm.name].append(took)
    return found


def figures(name: str, load: Load, found: dict[str, list[Took]]) -> list[Figure]:
    """What the arms took, and how they lie to each other."""
    told = f"{load.features} features" if load.features else "probabilities only"
    costs = {arm: [each.cost for each in took] for arm, took in found.items()}
    speeds = {arm: [each.speed for each in took] for arm, took in found.items()}
    of_arms = [
        Figure(f"ingest.{name}.{what}.{arm}", f"{told}: {arm}", unit, tuple(values))
        for arm in found
        for what, unit, values in (("us", "us CPU/row", costs[arm]), ("rows", "rows/s", speeds[arm]))
    ]
    mine, plain, loop, single = found
    return [
        *of_arms,
        Figure(f"ingest.{name}.most", f"{told}: CPU of plain Faust / the loop", "x", ratios(costs[plain], costs[loop])),
        Figure(f"ingest.{name}.cpu", f"{told}: CPU of plain Faust / ours", "x", ratios(costs[plain], costs[mine])),
        Figure(f"ingest.{name}.loop", f"{told}: rows/s, ours / plain loop", "x", ratios(speeds[mine], speeds[loop])),
        Figure(f"ingest.{name}.loop-cpu", f"{told}: CPU of plain loop / ours", "x", ratios(costs[loop], costs[mine])),
        Figure(f"ingest.{name}.single", f"{told}: rows/s, ours / {single}", "x", ratios(speeds[mine], speeds[single])),
    ]
