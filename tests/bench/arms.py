"""The arms: programs that are fed the same batches in turn, and what each of them took."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy import process
from deploy.serve import STOP_S
from deploy.trial import TrialFailed, a_worker
from streams.settings import Settings
from streams.topics import CHANGELOG, declare
from tests.bench.feed import TASK, Events, Feed, a_feed
from tests.bench.machine import ONE_THREAD, cpu_s

PATIENCE_S = 180.0
ASK_S = 0.01
SET = f"active-set?task_id={TASK}&limit=10"
GROUPED = 16  # chunks in a write of the plain loop: more than in one of a worker, whose rows are fewer
SLOW = 4  # plain Faust is given a quarter of the chunks
HOUSE = Path(__file__).parents[2]


class Took(NamedTuple):
    """What an arm took for a batch: rows a second, and microseconds of CPU for each row."""

    speed: float
    cost: float


@dataclass
class Arm:
    """A program that is fed chunks of artifacts.

    slow: it is given one of so many chunks, or nobody would wait for it.
    ready: waits until what was sent first is applied, given the events and the offset of the last chunk.
    done: the same of the chunks that are measured, given how many rows they have.
    """

    name: str
    worker: process.Process
    feed: Feed
    log: Path
    slow: int = field(default=1, kw_only=True)

    async def ready(self, events: Events, offset: int) -> None:
        """Wait until the chunks up to an offset are written."""
        raise NotImplementedError

    async def done(self, events: Events, offset: int, rows: int) -> None:
        """Wait until all rows of the chunks up to an offset are written, and served if the arm serves."""
        raise NotImplementedError

    async def told_first(self, events: Events) -> None:
        """Send what comes before the chunks that are measured, and wait until it is applied."""
        offset = -1
        for topic, values in events.first:
            await self.feed.send(topic, events.project, values, events.form)
        if events.seen:
            offset = await self.feed.send("inference_artifacts", events.project, events.seen, events.form)
        await self.ready(events, offset)

    async def measure(self, events: Events, rows: int) -> Took:
        """What the arm takes for the unseen chunks, after what comes before them."""
        await self.told_first(events)
        began, cpu = time.monotonic(), cpu_s(self.worker.pid)
        offset = await self.feed.send("inference_artifacts", events.project, events.unseen, events.form)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.done(events, offset, rows)
        except TimeoutError as why:
            raise TrialFailed(f"{self.name} did not get through; its log is {self.log}") from why
        took = time.monotonic() - began
        return Took(rows / took, (cpu_s(self.worker.pid) - cpu) / rows * 1e6)

    def check(self) -> None:
        """See that the program runs."""
        if self.worker.returncode is not None:
            raise TrialFailed(f"{self.name} ended (exit status {self.worker.returncode}); its log is {self.log}")


@dataclass
class OfChangelog(Arm):
    """An arm that is looked at by the end of its changelog, which costs it nothing.

    over: rows of the changelog that were there before.
    """

    consumer: AIOKafkaConsumer
    changelog: TopicPartition
    before: int = 0

    async def end(self) -> int:
        """Where the changelog ends."""
        try:
            return int((await self.consumer.end_offsets([self.changelog]))[self.changelog])
        except KeyError:  # it is made when the first row is written
            return 0

    async def grown(self, rows: int) -> None:
        """Wait until the changelog has so many rows more than when it was settled."""
        while await self.end() < self.before + rows:
            self.check()
            await asyncio.sleep(ASK_S)

    async def settled(self) -> None:
        """Wait until the changelog does not grow any more."""
        last = -1
        while (now := await self.end()) != last:
            self.check()
            last = now
            await asyncio.sleep(0.5)
        self.before = last


@dataclass
class Ours(OfChangelog):
    """Our worker."""

    session: aiohttp.ClientSession = field(kw_only=True)

    async def served(
        self, project: str, told: dict[str, int], path: str = f"active-set?task_id={TASK}&limit=10"
    ) -> Any:
        """Wait for an answer that is made of all events up to some offsets; the answer."""
        while True:
            self.check()
            async with self.session.get(f"/v1/projects/{project}/{path}") as answer:
                if answer.status == 200:
                    body = await answer.json()
                    if all(body["as_of"].get(topic, -1) >= offset for topic, offset in told.items()):
                        return body
            await asyncio.sleep(ASK_S)

    async def ready(self, events: Events, offset: int) -> None:
        """Wait until what was sent is served."""
        told = {"inference_artifacts": offset} if offset >= 0 else {}
        await self.served(events.project, told)
        await self.settled()

    async def done(self, events: Events, offset: int, rows: int) -> None:
        """Wait until Kafka has all rows, and then until an answer is made of them."""
        await self.grown(rows)
        answer = await self.served(events.project, {"inference_artifacts": offset})
        reasons = answer["active_set"][0]["active_learning"]["reasons"]
        if reasons[0]["model_id"] is None:
            raise TrialFailed(f"what was inferred is not in the answer: {answer['active_set'][0]}")


@dataclass
class Plain(OfChangelog):
    """Plain Faust."""

    async def ready(self, events: Events, offset: int) -> None:
        """Wait until the references are written."""
        await self.settled()

    async def done(self, events: Events, offset: int, rows: int) -> None:
        """Wait until Kafka has all rows."""
        await self.grown(rows)


@dataclass
class Loop(Arm):
    """The plain loop, which says how far it is."""

    async def ready(self, events: Events, offset: int) -> None:
        """Wait until a chunk is written."""
        assert self.worker.stdout is not None
        at = -1
        while at < offset:
            line = await self.worker.stdout.readline()
            if not line:
                await self.worker.wait()
                self.check()
            at = int(line)

    async def done(self, events: Events, offset: int, rows: int) -> None:
        """Wait until a chunk is written."""
        await self.ready(events, offset)


@asynccontextmanager
async def ours(settings: Settings, program: Sequence[str] = ("agents",)) -> AsyncIterator[Ours]:
    """Our worker, run by a module, on topics of its own."""
    log = settings.state_dir / "activeset.log"
    async with AsyncExitStack() as stack:
        await declare(settings)
        worker, session = await stack.enter_async_context(a_worker(settings, log, program))
        feed = await stack.enter_async_context(a_feed(settings))
        consumer = await stack.enter_async_context(AIOKafkaConsumer(bootstrap_servers=settings.broker))
        changelog = TopicPartition(settings.name(CHANGELOG.name), 0)
        yield Ours("activeset", worker, feed, log, consumer, changelog, session=session)


@asynccontextmanager
async def plain_faust(settings: Settings) -> AsyncIterator[Plain]:
    """Faust's own way, on topics of its own."""
    settings = apart(settings, "plain")
    name = settings.name("bench")
    told = [settings.broker, name, settings.name("inference_artifacts"), str(settings.state_dir / "rows")]
    log = settings.state_dir / "plain.log"
    async with AsyncExitStack() as stack:
        await declare(settings)
        with log.open("wb") as output:
            command = [sys.executable, "-m", "tests.bench.plain", *told]
            worker = await process.start(command, output=output, environ=alone(), folder=HOUSE)
        await stack.enter_async_context(process.running(worker, STOP_S))
        feed = await stack.enter_async_context(a_feed(settings))
        consumer = await stack.enter_async_context(AIOKafkaConsumer(bootstrap_servers=settings.broker))
        changelog = TopicPartition(f"{name}-rows-changelog", 0)  # Faust's name for it
        yield Plain("plain Faust", worker, feed, log, consumer, changelog, slow=SLOW)


@asynccontextmanager
async def plain_loop(settings: Settings, group: int) -> AsyncIterator[Loop]:
    """The parts of an ingest in a loop, on topics of its own."""
    settings = apart(settings, f"loop-{group}")
    topics = [settings.name("inference_artifacts"), settings.name(CHANGELOG.name)]
    command = ["-m", "tests.bench.loop", settings.broker, *topics, str(settings.state_dir / "rows"), str(group)]
    async with AsyncExitStack() as stack:
        await declare(settings)
        worker = await process.start([sys.executable, *command], said=True, environ=alone(), folder=HOUSE)
        await stack.enter_async_context(process.running(worker, STOP_S))
        feed = await stack.enter_async_context(a_feed(settings))
        yield Loop("plain loop" if group > 1 else "plain loop, one by one", worker, feed, settings.state_dir)


def apart(settings: Settings, name: str) -> Settings:
    """Settings with topics and a folder of its own."""
    folder = settings.state_dir / name
    folder.mkdir(exist_ok=True)
    return replace(settings, topic_prefix=f"{settings.topic_prefix}{name}.", state_dir=folder)


def alone() -> dict[str, str]:
    """The environment of a program that is no worker of ours."""
    return {**os.environ, **ONE_THREAD}
