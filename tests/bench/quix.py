"""By hand: `python -m tests.bench quix`, rows a second against Quix Streams' stateful path, a row at a time.

Quix Streams is no dependency of ours: it has a virtual environment of its own, which the first run makes.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy import process
from deploy.serve import STOP_S, console
from deploy.trial import TrialFailed
from streams.settings import Settings
from streams.topics import declare
from tests.bench.arms import HOUSE, Plain, alone, apart, ours
from tests.bench.feed import Load, a_feed
from tests.bench.ingest import in_turn
from tests.bench.report import Figure, Report, ratios

# What our own functions import, besides.
NEEDS = (
    "quixstreams==3.28.1",
    "faust-streaming==0.15.3",
    "aiokafka",
    "aiohttp",
    "cramjam",
    "msgspec",
    "numpy",
    "orjson",
)
LOAD = Load(chunks=120)
REPEAT = 3


async def environment(cache: Path) -> Path:
    """The Python of the environment, made if it is not there."""
    folder = cache.expanduser() / "quixstreams"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        console.print(f"  Quix Streams is fetched into {folder}, once")
        commands: list[list[str | Path]] = [
            [sys.executable, "-m", "venv", "--clear", folder],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *NEEDS],
        ]
        for command in commands:
            making = await process.start(command)
            async with process.running(making, STOP_S):
                if await making.wait():
                    raise TrialFailed(f"Quix Streams could not be fetched into {folder}")
        (folder / ".ready").touch()
    return python


@asynccontextmanager
async def quix_streams(settings: Settings) -> AsyncIterator[Plain]:
    """Quix Streams, on topics of its own."""
    python = await environment(settings.cache_dir)
    settings = apart(settings, "quix")
    group, topic = settings.name("bench"), settings.name("inference_artifacts")
    log = settings.state_dir / "quix.log"
    async with AsyncExitStack() as stack:
        await declare(settings)
        with log.open("wb") as output:
            command: list[str | Path] = [
                python,
                "-m",
                "tests.bench.quix_worker",
                settings.broker,
                group,
                topic,
                settings.state_dir / "rows",
            ]
            worker = await process.start(command, output=output, environ=alone(), folder=HOUSE)
        await stack.enter_async_context(process.running(worker, STOP_S))
        feed = await stack.enter_async_context(a_feed(settings))
        consumer = await stack.enter_async_context(AIOKafkaConsumer(bootstrap_servers=settings.broker))
        changelog = TopicPartition(f"changelog__{group}--{topic}--default", 0)  # Quix Streams' name for it
        while changelog.topic not in await consumer.topics():
            if worker.returncode is not None:
                raise TrialFailed(f"Quix Streams ended; its log is {log}")
            await asyncio.sleep(0.2)
        yield Plain("Quix Streams", worker, feed, log, consumer, changelog)


async def quix(settings: Settings, report: Report, *, full: bool) -> None:
    """Both in turn."""
    async with AsyncExitStack() as stack:
        arms = [
            await stack.enter_async_context(ours(settings)),
            await stack.enter_async_context(quix_streams(replace(settings))),
        ]
        mine, theirs = (await in_turn([*arms], LOAD, "quix", REPEAT)).values()
    report.add(
        Figure("quix.ours.rows", "activeset", "rows/s", tuple(each.speed for each in mine)),
        Figure("quix.theirs.rows", "Quix Streams", "rows/s", tuple(each.speed for each in theirs)),
        Figure(
            "quix.features",
            "rows/s, ours / Quix Streams",
            "x",
            ratios([each.speed for each in mine], [each.speed for each in theirs]),
        ),
        Figure(
            "quix.cpu",
            "CPU of Quix Streams / ours",
            "x",
            ratios([each.cost for each in theirs], [each.cost for each in mine]),
        ),
    )
