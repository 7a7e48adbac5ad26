"""What a ranking costs: memory, how it is built, made anew and read; each function measures one thing, at a size that
it is told, on real rows in a real RocksDB. Ratios count: seconds are of this machine, now.

    python -m tests.bench.ranking [MEDIA]
"""

import asyncio
import gc
import json
import multiprocessing
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self
from unittest.mock import patch

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer
from rocksdict import Options, Rdict

from agents.pulse import Pulse
from streams.app import new_app
from streams.media import Image
from streams.partition import partition_of
from streams.settings import Settings
from tables.partition import Partition
from tables.ranking import Ranking
from tables.rows import (
    FOREVER,
    GRANT,
    STATE,
    STATES,
    ActivationRow,
    BatchRow,
    Change,
    Kind,
    UploadRow,
    hashed,
    medium_bytes,
    number_of,
    pack_int,
    prefix_of,
)
from tables.slots import EMPTY, SLOTS, slot_values
from tables.state import State
from tables.store import Store
from tests.worker.conftest import GENERATION, HOME, App, Disk, House, ListChangelog, Served, a_member, no_ends
from web import views
from web.door import Door

NOW = 1_767_225_600_000
PROJECT, TASK, WORKSPACE, STORAGE = "project-1", "task-1", "workspace", "storage"
LABELS = [f"label-{n}" for n in range(10)]
MODELS = ("model-1", "model-2")
PART = 10_000  # rows that are written at once
ASKED = 100  # media of a set


def project_row(preset: str = "balanced") -> Change:
    """The row of the project, whose sets are put together in some way."""
    about = {"workspace_id": WORKSPACE, "project_id": PROJECT, "timestamp": NOW, "dataset_storage_id": STORAGE}
    tasks = [{"task_id": TASK, "task_type": "classification"}]
    told = {**about, "tasks": tasks, "active_learning": {"preset": preset}}
    return prefix_of(PROJECT, Kind.PROJECT), pack_int(NOW) + json.dumps(told).encode()


def rows_of(media: int, annotated: float = 0.0, suggested: float = 0.0) -> Iterator[list[Change]]:
    """The rows of a project with one task: uploads, the scores of one batch or of two, with sketches, and what is done.

    annotated, suggested: the share of media that somebody has annotated, or been given.
    """
    random = np.random.default_rng(0)
    active = prefix_of(PROJECT, Kind.ACTIVATION) + hashed(TASK), ActivationRow(NOW, MODELS[1]).pack()
    small: list[Change] = [project_row(), active]
    small += [(prefix_of(PROJECT, Kind.NAME) + hashed(name), name.encode()) for name in (*LABELS, *MODELS, TASK)]
    for model in MODELS:
        key = prefix_of(PROJECT, Kind.BATCH) + hashed(TASK) + hashed(model) + hashed(f"batch of {model}")
        small.append((key, BatchRow(NOW, 1, 1, 64).pack()))
    yield small
    ids = [f"{number:024x}" for number in range(media)]
    for first in range(0, media, PART):
        part = ids[first : first + PART]
        keys = [medium_bytes(Image(each)) for each in part]
        upload = prefix_of(PROJECT, Kind.UPLOAD)
        told = [{"dataset_storage_id": STORAGE, "media_type": "image", "media_id": each, "name": each} for each in part]
        yield [
            (upload + key[:8], UploadRow(NOW, 0, 1, number_of(STORAGE), json.dumps(each).encode()).pack())
            for key, each in zip(keys, told, strict=True)
        ]
        score = prefix_of(PROJECT, Kind.SCORE) + hashed(TASK)
        yield [(score + key, row) for key, row in zip(keys, scores(len(part), random), strict=True)]
        done = np.array((NOW, STATES.index("annotated"), number_of("somebody")), STATE).tobytes()
        given = np.array((0, NOW, True, FOREVER, number_of("request")), GRANT).tobytes()
        dice = random.random(len(part))
        state, grant = prefix_of(PROJECT, Kind.STATE) + hashed(TASK), prefix_of(PROJECT, Kind.GRANT)
        yield [(state + key, done) for key, one in zip(keys, dice, strict=True) if one < annotated]
        yield [(grant + key, given) for key, one in zip(keys, dice, strict=True) if 1 - one < suggested]


def scores(count: int, random: np.random.Generator) -> list[bytes]:
    """Score rows of one slot or two, by chance, as probabilities and features make them."""
    slots = np.full((count, SLOTS), EMPTY)
    for place, model in enumerate(MODELS[::-1]):
        told = slots[:, place]
        told["model"], told["batch"] = number_of(model), number_of(f"batch of {model}")
        told["label"] = random.choice([number_of(label) for label in LABELS], count)
        told["at"] = NOW - place
        for name in ("margin", "least_confidence", "entropy"):
            told[name] = random.random(count)
        told["scale"], told["sketch"] = 0.1, random.integers(-127, 128, told["sketch"].shape)
    slots[random.random(count) < 0.5, 1] = EMPTY
    return [value or b"" for value in slot_values(slots)]


@contextmanager
def database(folder: Path) -> Iterator[Rdict]:
    """A RocksDB in a folder, as a partition has it."""
    opened: Any = Rdict(str(folder), Options(raw_mode=True))
    try:
        yield opened
    finally:
        opened.close()


def written(folder: Path, media: int, **shares: float) -> None:
    """A project in a folder, in files as they are after a while."""
    with database(folder) as opened:
        store = Store(opened)
        store.origin = ListChangelog().origin
        for part in rows_of(media, **shares):
            store.write(part, 0)
        opened.flush()
        opened.compact_range(None, None)


@contextmanager
def partition(folder: Path) -> Iterator[Partition]:
    """A partition over the rows in a folder, without Kafka."""
    with database(folder) as opened:
        writer: Any = None
        yield Partition(partition_of(PROJECT.encode(), 8), 1, Store(opened), writer)


def rss() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def built(told: Partition) -> Ranking:
    """The ranking of the project, with its order."""
    ranking = await told.ranking(PROJECT)
    await ranking.made(TASK, NOW)
    return ranking


def _memory(folder: str) -> int:
    """How much more memory there is when there is a ranking; in a process of its own."""
    with partition(Path(folder)) as told:
        for _ in told.store.scan(b""):  # what RocksDB keeps of it is there before
            pass
        gc.collect()
        before = rss()
        ranking = asyncio.run(built(told))
        gc.collect()
        grown = rss() - before
        del ranking
        return grown


def memory(folder: Path, media: int) -> dict[str, float]:
    """Bytes for each medium and task, of a ranking and its order."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return {"bytes_per_medium": pool.apply(_memory, (str(folder),)) / media}


def building(folder: Path, media: int, repeat: int = 3) -> dict[str, float]:
    """How fast a ranking is built, against a bare scan of the same rows; by CPU time, in turn."""
    ours, bare, stalls = list[float](), list[float](), list[float]()
    with partition(folder) as told:
        for _ in range(repeat):
            began = time.process_time()
            for _ in told.store._database.items():
                pass
            bare.append(time.process_time() - began)
            told.rankings.clear()
            began = time.process_time()
            stalls += asyncio.run(stalled(partial(told.ranking, PROJECT)))
            ours.append(time.process_time() - began)
    least, scan = min(ours), min(bare)
    return {"media": media, "built_s": least, "scan_s": scan, "ratio": scan / least, **tell(stalls)}


def reranking(folder: Path, media: int, repeat: int = 5) -> dict[str, float]:
    """CPU seconds of an order that is made anew after a change, and what the event loop stands still for meanwhile."""
    took, stalls = list[float](), list[float]()

    async def run(told: Partition) -> None:
        ranking = await built(told)
        for turn in range(repeat):
            state = np.array((NOW + turn, turn % 2 * 2, 0), STATE).tobytes()
            key = prefix_of(PROJECT, Kind.STATE) + hashed(TASK) + medium_bytes(Image(f"{turn:024x}"))
            ranking.update([(key, state)])
            began = time.process_time()
            stalls.extend(await stalled(partial(ranking.made, TASK, NOW, await ranking.made(TASK, NOW))))
            took.append(time.process_time() - began)

    with partition(folder) as told:
        asyncio.run(run(told))
    return {"media": media, "cpu_s": min(took), "median_cpu_s": statistics.median(took), **tell(stalls)}


async def stalled(work: Callable[[], Awaitable[object]]) -> list[float]:
    """How long the event loop stood still, each time that it had a millisecond to sleep, while something is done.

    Less what it waited for a processor, which others have, too.
    """
    late: list[float] = []

    async def probe() -> None:
        while True:
            waited, began = waited_s(), time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(max(0.0, time.perf_counter() - began - 0.001 - (waited_s() - waited)))

    probing = asyncio.create_task(probe())
    await work()
    probing.cancel()
    return late


def waited_s() -> float:
    """How long this thread was ready to run, and did not."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def tell(stalls: list[float]) -> dict[str, float]:
    """The worst of stalls, in milliseconds."""
    return {"stall_p99_ms": float(np.percentile(stalls, 99)) * 1e3, "stall_max_ms": max(stalls) * 1e3}


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[State, TestServer]]:
    """A worker without Kafka that has the rows of a folder, and its web server."""
    settings, changelog = Settings(broker="127.0.0.1:1"), ListChangelog()
    with TemporaryDirectory() as disk, patch("streams.app.OurApp", App):
        (Path(disk) / str(HOME)).symlink_to(folder.resolve())
        with database(folder) as opened:  # the offset of the rows is in it
            changelog.rows[HOME] += [(b"", None)] * (Store(opened).offset + 1)
        app: Any = new_app(settings)
        app.tables.recovery.completed.set()
        app.tables.recovery.restored = app.rebalancing_count
        app.rebalancing, app.others, app.reached = False, {}, {}
        state = State(settings, Disk(Path(disk)), changelog, no_ends)
        await state.take(range(8), GENERATION, a_member)
        for each in state.partitions:
            each.caught_up = True
        house = House(settings, state, changelog, Disk(Path(disk)))
        door = Door(app, settings, state, Pulse(60), house.fatal)
        views.declare(door, house.sets, house.metrics)
        app.web.init_server()
        server = Served(app.web.web_app)
        try:
            await server.start_server()
            yield state, server
        finally:
            await server.close()
            await door.close()
            await state.leave()


class Asking:
    """A client of few words, on one connection."""

    @classmethod
    async def of(cls, server: TestServer) -> Self:
        """One that is connected."""
        asking = cls()
        asking.reader, asking.writer = await asyncio.open_connection(server.host, server.port)
        return asking

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def get(self, path: str) -> bytes:
        """The body of an answer."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return await self.reader.readexactly(int(length.split(b":")[1]))


async def static(body: bytes) -> TestServer:
    """A bare aiohttp server that answers everything with the same bytes."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/", answer)
    server = TestServer(app)
    await server.start_server()
    return server


async def _retrieval(folder: Path, limit: int, preset: str, *, anew: bool, repeat: int) -> dict[str, float]:
    path = f"/v1/projects/{PROJECT}/active-set?task_id={TASK}&limit={limit}"
    async with served(folder) as (state, server):
        ranking = await state.owned(HOME).ranking(PROJECT)
        ranking.update([project_row(preset)])
        ours = await Asking.of(server)
        plain = await static(await ours.get(path))
        bare = await Asking.of(plain)
        took: dict[str, list[float]] = {"ours": [], "static": []}
        cpu = dict.fromkeys(took, 0.0)
        made = await ranking.made(TASK, NOW)
        for _ in range(repeat):
            if anew:
                made.answers.clear()
            for name, asking, asked in (("ours", ours, path), ("static", bare, "/")):
                began, used = time.perf_counter(), time.process_time()
                await asking.get(asked)
                took[name].append(time.perf_counter() - began)
                cpu[name] += time.process_time() - used
        await plain.close()
    of = {name: np.percentile(each, [50, 99]) * 1e3 for name, each in took.items()}
    return {
        "p50_ms": float(of["ours"][0]),
        "p99_ms": float(of["ours"][1]),
        "static_p50_ms": float(of["static"][0]),
        "static_p99_ms": float(of["static"][1]),
        "p50_ratio": float(of["ours"][0] / of["static"][0]),
        "p99_ratio": float(of["ours"][1] / of["static"][1]),
        "cpu_ratio": cpu["ours"] / cpu["static"],
    }


def retrieval(
    folder: Path, limit: int = ASKED, preset: str = "uncertainty", *, anew: bool = False, repeat: int = 1000
) -> dict[str, float]:
    """A GET of the safe active set, in turn with that of a static view of the same bytes.

    anew: whether the answer is put together each time, instead of being kept while nothing changes.
    """
    return asyncio.run(_retrieval(folder, limit, preset, anew=anew, repeat=repeat))


async def _marking(folder: Path, limit: int, repeat: int) -> dict[str, float]:
    path = f"/api/v1/organizations/o/workspaces/{WORKSPACE}/projects/{PROJECT}/datasets/active"
    took: list[float] = []

    async def run(asking: Asking) -> None:
        for _ in range(repeat):
            began = time.perf_counter()
            await asking.get(f"{path}?task_id={TASK}&limit={limit}")
            took.append(time.perf_counter() - began)

    async with served(folder) as (state, server):
        await built(state.owned(HOME))
        asking = await Asking.of(server)
        used = time.process_time()
        stalls = await stalled(partial(run, asking))
        cpu_ms = (time.process_time() - used) / repeat * 1e3
    return {
        "cpu_ms": cpu_ms,
        "p50_ms": float(np.median(took)) * 1e3,
        "p99_ms": float(np.percentile(took, 99)) * 1e3,
        **tell(stalls),
    }


def marking(folder: Path, limit: int = ASKED, repeat: int = 50) -> dict[str, float]:
    """A GET that suggests media and marks them, one after the other, without what Kafka takes of it.

    It is done to a copy of the folder.
    """
    with TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        return asyncio.run(_marking(Path(copy), limit, repeat))


def main(media: int) -> None:
    """Measure all, at a size, and tell it."""
    with TemporaryDirectory() as folder:
        whole, done, small = (Path(folder) / name for name in ("whole", "done", "small"))
        written(whole, media)
        written(done, media, annotated=0.99)
        written(small, media // 100)
        told: dict[str, Callable[[], dict[str, float]]] = {
            "memory": partial(memory, whole, media),
            "memory, 99 % annotated": partial(memory, done, media),
            "building": partial(building, whole, media),
            "making an order anew": partial(reranking, whole, media),
            "the same, 99 % annotated": partial(reranking, done, media),
            f"GET of {ASKED}, nothing changing": partial(retrieval, whole),
            "the same of a hundredth of the media": partial(retrieval, small),
            "GET, put together anew": partial(retrieval, whole, anew=True, repeat=300),
            "GET of 50, put together anew": partial(retrieval, whole, 50, anew=True, repeat=300),
            "the same, spread over features": partial(retrieval, whole, 50, "balanced", anew=True, repeat=100),
            "GET that marks 10": partial(marking, whole, 10),
            f"GET that marks {ASKED}": partial(marking, whole),
        }
        for name, measure in told.items():
            print(name, {what: round(number, 3) for what, number in measure().items()}, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
