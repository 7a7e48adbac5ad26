"""A worker without Kafka: agents, state and active sets on a list for a changelog and a RocksDB of the test's own."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from faust.types.tuples import Message
from jsonschema import Draft202012Validator
from rocksdict import Options, Rdict

from agents.curate import Curator, Outcome
from agents.pulse import Pulse
from streams.app import new_app
from streams.offsets import Place
from streams.overrides import OurApp
from streams.partition import partition_of
from streams.record import Record
from streams.settings import Settings
from tables.batch import Changelog, Ends, Member, Slice, Writer
from tables.rows import Change
from tables.state import State
from tables.store import Store
from web import views
from web.active_set import ActiveSets
from web.door import Door
from web.metrics import Metrics
from web.openapi import openapi
from web.query import Query
from web.routes import ROUTES
from web.server import Runner

CONTRACT = openapi(ROUTES)
PATHS = [
    (re.compile(re.sub(r"{\w+}", "[^/]+", path)), {method.upper(): told for method, told in methods.items()})
    for path, methods in CONTRACT["paths"].items()
]
NOW = 1_767_225_600_000
GENERATION = 7
PROJECT, TASK, WORKSPACE = "project-1", "t1", "w"
HOME = 6  # partition of project-1, of eight


class Client(TestClient[web.Request, web.Application]):
    """A client that holds every answer to the contract of the routes."""

    async def _request(self, method: str, path: Any, **more: Any) -> Any:
        answer = await super()._request(method, path, **more)
        for known, methods in PATHS:
            told = methods.get(method)
            if told is not None and known.fullmatch(answer.url.raw_path):
                hold(told["responses"][str(answer.status)], await answer.read(), answer.content_type)
        return answer


def hold(told: Mapping[str, Any], body: bytes, media_type: str) -> None:
    """See that an answer is as the contract says."""
    for known, content in told.get("content", {}).items():
        assert media_type == known
        said = json.loads(body) if media_type.endswith("json") else body.decode()
        Draft202012Validator({**content["schema"], "components": CONTRACT["components"]}).validate(said)


class Served(TestServer):
    """The server of a worker, on an application without one."""

    async def _make_runner(self, **more: Any) -> Runner:
        return Runner(self.app, **{**more, "access_log": None})  # as a worker's own


class ListWriter(Writer):
    """A writer to a list; fenced by one that started after it."""

    def __init__(self, changelog: "ListChangelog", partition: int) -> None:
        self.changelog, self.partition, self.used_at = changelog, partition, 0.0

    async def start(self, member: Member) -> None:
        await member()
        self.changelog.owner[self.partition] = self

    async def stop(self) -> None:
        self.changelog.stopped.append(self.partition)

    async def append(self, changes: Sequence[Change]) -> int:
        if self.changelog.broken or self.changelog.owner[self.partition] is not self:
            raise OSError("Kafka did not say whether it has it")
        self.changelog.rows[self.partition] += changes
        return len(self.changelog.rows[self.partition]) - 1


class ListChangelog(Changelog):
    """A changelog that is a list for each partition."""

    def __init__(self) -> None:
        self.rows: dict[int, list[Change]] = {partition: [] for partition in range(8)}
        self.owner: dict[int, ListWriter] = {}
        self.stopped: list[int] = []
        self.broken = False
        self.origin = "kafka/changelog"
        self.begins: dict[int, int] = {}
        self.forgotten_ms: int | None = None

    def writer(self, partition: int) -> Writer:
        return ListWriter(self, partition)

    async def ends(self, partitions: Sequence[int]) -> Ends:
        ends = {partition: len(self.rows[partition]) for partition in partitions}
        return Ends(self.origin, ends, self.begins, self.forgotten_ms)

    async def settle(self, writers: Mapping[int, Writer], ends: Mapping[int, int]) -> None:
        """All can be read."""

    async def read(self, positions: Mapping[int, int], ends: Mapping[int, int]) -> AsyncIterator[Slice]:
        for partition, position in positions.items():
            rows = self.rows[partition][: ends[partition]]
            for first in range(position, len(rows), 3):
                part = rows[first : first + 3]
                yield Slice(partition, part, first + len(part) - 1)


@dataclass
class Disk:
    """RocksDBs in a folder."""

    folder: Path
    opened: dict[int, Rdict] = field(default_factory=dict)
    condemn: Callable[[int], object] = lambda _: None

    def open(self, partition: int) -> Store:
        if partition not in self.opened:
            self.opened[partition] = Rdict(str(self.folder / str(partition)), Options(raw_mode=True))
        return Store(self.opened[partition], lambda: self.condemn(partition))

    def set_aside(self, partition: int) -> Path:
        self.opened.pop(partition).close()
        return (self.folder / str(partition)).rename(self.folder / f"{partition}.aside")


@dataclass
class House:
    """A worker that owns all partitions, and the topics as lists."""

    settings: Settings
    state: State
    changelog: ListChangelog
    disk: Disk
    published: list[Record] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    metrics: Metrics = field(default_factory=Metrics)
    deaf: bool = False  # what the views publish reaches nobody
    asked_again: list[tuple[str, int, int]] = field(default_factory=list)
    finished: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.curator = Curator(
            self.settings,
            self.state,
            self.send,
            self.read_again,
            self.finished.append,
            self.fatal,
            self.count,
            self.metrics,
        )
        self.state.wrote = self.metrics.wrote
        self.sets = ActiveSets(self.settings, self.state, self.publish, lambda: NOW, self.metrics.served)

    async def publish(self, record: Record) -> int:
        """Publish a record; what goes to a source of ours is heard at once."""
        self.published.append(record)
        if record.topic == self.settings.name("active_set_events") and not self.deaf:
            await self.hear(record, "active_set_events")
            return self.ends["active_set_events"] - 1
        return 0

    async def send(self, record: Record) -> "asyncio.Future[int]":
        """Hand a record to Kafka, which has it at once."""
        self.published.append(record)
        sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        sent.set_result(0)
        return sent

    def read_again(self, topic: str, partition: int, offset: int) -> None:
        """Kafka is asked to read a topic once more."""
        self.asked_again.append((topic, partition, offset))

    def fatal(self, why: BaseException) -> None:
        raise AssertionError("the worker would end") from why

    def count(self, what: str, times: int) -> None:
        self.counts[what] += times

    async def says(self, topic: str, **event: Any) -> Outcome:
        """Somebody publishes an event of the project; the answer is what became of it."""
        whole = {"workspace_id": WORKSPACE, "project_id": PROJECT, "timestamp": NOW, **event}
        key = whole["project_id"].encode()
        return await self.hear(Record(topic, partition_of(key, 8), key, json.dumps(whole).encode(), []), topic)

    async def hear(self, record: Record, topic: str, offset: int | None = None) -> Outcome:
        """The agent of a topic gets a record, the next one or the one at an offset."""
        if offset is None:
            offset = self.ends[topic]
            self.ends[topic] += 1
        return await (await self.curator.hear(message(record, offset), topic))

    async def tells(self, *media: str, tasks: Sequence[str] = (TASK,), **more: Any) -> None:
        """A project with tasks and images."""
        told = [{"task_id": task, "task_type": "classification"} for task in tasks]
        await self.says("project_updates", dataset_storage_id="s", tasks=told, **more)
        if media:
            images = [{"media_type": "image", "media_id": each} for each in media]
            await self.says("media_uploads", dataset_storage_id="s", media=images)

    async def infers(self, margins: Mapping[str, float], model: str = "model-1", **more: Any) -> Outcome:
        """A batch of one chunk, in which each image has a margin; all are predicted as the same label."""
        return await self.says("inference_artifacts", **artifacts(margins, model, **more))

    async def settle(self) -> None:
        """Wait until nothing is left to sweep."""
        for each in self.state.partitions:
            await each.sweeper.over()

    async def shown(self, task: str | None = TASK, limit: int = 100) -> list[str]:
        """The images of the safe active set."""
        answer = await self.sets.shown(PROJECT, Query(task, limit))
        return [item["id"] for item in answer["active_set"]]

    async def suggested(self, task: str | None = TASK, limit: int = 100) -> list[str]:
        """The images of the active set that marks."""
        answer = await self.sets.suggested(PROJECT, Query(task, limit), WORKSPACE)
        return [item["id"] for item in answer["active_set"]]


def artifacts(margins: Mapping[str, float], model: str = "model-1", **more: Any) -> dict[str, Any]:
    """An unseen chunk, the only one of its batch; margin 1 is a draw of two classes."""
    return {
        "dataset_storage_id": "s",
        "task_id": TASK,
        "model_id": model,
        "batch_id": f"batch of {model}",
        "subset": "unseen",
        "chunk": 0,
        "last": True,
        "media": [{"media_type": "image", "media_id": each} for each in margins],
        "labels": ["a"] * len(margins),
        "probabilities": [[1 - each / 2, each / 2] for each in margins.values()],
        **more,
    }


def message(record: Record, offset: int = 0, generation: int | None = GENERATION) -> Message:
    """A record as Faust hands it to an agent."""
    told: Any = record.headers
    return Message(
        record.topic,
        record.partition,
        offset,
        record.timestamp_s,  # type: ignore[arg-type] # none in the oldest format
        0,
        told,
        record.key,
        record.value,
        None,
        generation_id=generation,
    )


async def a_member() -> None:
    """Kafka takes the worker for a member."""


async def no_ends(places: Sequence[Place]) -> dict[Place, int]:
    """Topics in which there is nothing."""
    return dict.fromkeys(places, 0)


@pytest.fixture
def acknowledge(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Kafka acknowledges nothing until this is called."""
    go_on, append = asyncio.Event(), ListWriter.append

    async def late(writer: ListWriter, changes: Sequence[Change]) -> int:
        offset = await append(writer, changes)
        await go_on.wait()
        return offset

    monkeypatch.setattr(ListWriter, "append", late)
    return go_on.set


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A worker without Kafka."""
    disk, changelog = Disk(tmp_path), ListChangelog()
    settings = Settings(topic_prefix="staging.")
    state = State(settings, disk, changelog, no_ends)
    await state.take(range(8), GENERATION, a_member)
    yield House(settings, state, changelog, disk)
    await state.leave()


class App(OurApp):
    """An application that looks as if it had joined, and owned all partitions or those it is told."""

    unheard = 0.0
    others: dict[int, str]
    joined = True
    reached: dict[tuple[str, int], int]

    def settled(self) -> bool:
        return self.joined and super().settled()

    def unheard_s(self) -> float:
        return self.unheard

    def owner(self, partition: int) -> str | None:
        return self.others.get(partition, str(self.conf.canonical_url))

    def owned(self) -> list[int]:
        return [number for number in range(8) if number not in self.others]

    def through(self, topic: str, partition: int, applied: int) -> int:
        return max(applied + 1, self.reached.get((topic, partition), 0))


@pytest.fixture
def settings() -> Settings:
    """Of the application."""
    return Settings(broker="127.0.0.1:1")


@pytest.fixture
async def app(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setattr("streams.app.OurApp", App)
    app: Any = new_app(settings)
    app.tables.recovery.completed.set()
    app.tables.recovery.restored = app.rebalancing_count
    app.rebalancing, app.others, app.reached = False, {}, {}
    assert isinstance(app, App)
    return app


@pytest.fixture
async def door(app: App, house: House) -> AsyncIterator[Door]:
    for each in house.state.partitions:
        each.caught_up = True
    door = Door(app, house.settings, house.state, Pulse(60), house.fatal)
    yield door
    await door.close()


@pytest.fixture
async def client(app: App, door: Door, house: House) -> AsyncIterator[Client]:
    views.declare(door, house.sets, house.metrics)
    app.web.init_server()
    served: Any = app.web
    async with Client(Served(served.web_app)) as client:
        yield client
