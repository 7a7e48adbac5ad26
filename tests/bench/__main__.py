"""`make bench`: what Activeset costs, as ratios to what runs beside it on the same machine and the same Kafka.

python -m tests.bench                   all parts, about ten minutes
python -m tests.bench ingest scoring    some of them
python -m tests.bench --full            larger ones as well
"""

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.machine import ONE_THREAD, step_ns

os.environ.update(ONE_THREAD)  # before anything imports numpy

from deploy.__main__ import until_signal
from deploy.kafka import free_ports
from deploy.serve import console
from deploy.trial import a_kafka, own_folder
from streams.errors import ActivesetError
from streams.settings import Settings
from tests.bench import ingest, postgres, quix, ranked, recovery, retrieval, scaling, scoring, table
from tests.bench.arms import apart
from tests.bench.report import COMMITTED, Figure, Report, read
from tests.bench.short import twice

Part = Callable[..., Awaitable[None]]
PARTS: dict[str, Part] = {
    "ingest": ingest.ingest,
    "scoring": scoring.scoring,
    "retrieval": retrieval.retrieval,
    "ranking": ranked.ranked,
    "recovery": recovery.recovery,
    "scaling": scaling.scaling,
    "table": table.table,
}
BY_HAND: dict[str, Part] = {"quix": quix.quix, "postgres": postgres.postgres}


async def main(settings: Settings, parts: list[str], keep: Path | None, *, full: bool, short: bool) -> int:
    """Measure some parts on one Kafka; 0 when they were measured, and in a short run are as CI wants them."""
    report, began, below, last = Report(), time.monotonic(), list[Figure](), read(COMMITTED)
    console.print(report.head())
    with own_folder(replace(settings, partitions=1, log_level="warning"), "bench") as trial:
        path = trial.state_dir / "results.json"
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(a_kafka(trial))
            for name in ["short"] if short else parts:
                console.print(f"[bold]{name}[/]")
                if short:
                    below = await twice(ours, report)
                else:
                    own = replace(apart(ours, name), web_port=free_ports(1)[0])
                    await {**PARTS, **BY_HAND}[name](own, report, full=full)
                for each in {path, keep or path}:
                    report.write(each)
    tell(report, last)
    console.print(f"{time.monotonic() - began:.0f} s; {keep or path}; a step of a loop takes {step_ns():.0f} ns now")
    for figure in below:
        console.print(f"[bold]less than CI allows[/], twice: {figure.what}: {figure.told()}")
    return int(bool(below))


def tell(report: Report, last: dict[str, Any]) -> None:
    """Print all that was found, and how it lies to what was found the last time."""
    console.print(f"\n{report.markdown()}\n", markup=False)
    for line in report.compare(last):
        console.print(f"differs from the last time: {line}")
    for each in report.missed():
        limit = each.limit
        assert limit is not None
        console.print(f"missed: {each.what}: {each.told()}, {limit.told()}{f' ({limit.why})' if limit.why else ''}")


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What Activeset costs, as ratios.")
    by_hand = f"; by hand: {', '.join(BY_HAND)}" if BY_HAND else ""
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which: {', '.join(PARTS)} (all){by_hand}")
    parser.add_argument("--full", action="store_true", help="also what takes long: a million media, all tables")
    parser.add_argument("--short", action="store_true", help="ratios of CPU time only, as CI looks at them; 1 if less")
    parser.add_argument("--keep", type=Path, nargs="?", const=COMMITTED, help=f"write the results ({COMMITTED.name})")
    given = parser.parse_args()
    for each in given.parts:
        if each not in {**PARTS, **BY_HAND}:
            parser.error(f"PART must be one of {', '.join({**PARTS, **BY_HAND})}, not {each}")
    given.parts = given.parts or [*PARTS]
    return given


if __name__ == "__main__":
    asked = arguments()
    logging.getLogger("aiokafka").setLevel("CRITICAL")  # it warns of topics that plain Faust has not made yet
    try:
        work = main(Settings.from_environ(os.environ), asked.parts, asked.keep, full=asked.full, short=asked.short)
        sys.exit(asyncio.run(until_signal(work, stopped=1)))
    except ActivesetError as why:
        console.print(f"activeset: {why}")
        sys.exit(why.exit_status)
