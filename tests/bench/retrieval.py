"""How long a safe GET of 100 media takes, of 10,000 and of many, against a static view of the same bytes.

The static view is in the same worker (`tests/bench/probe.py`), behind the same middlewares, and is asked in turn with
ours, by the same client, over the same connection.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from streams.settings import Settings
from tests.bench.arms import Ours
from tests.bench.asking import Asking, asking, quantile
from tests.bench.feed import TASK, Events, Load, name
from tests.bench.latency import probe_file, probed
from tests.bench.progress import step
from tests.bench.report import Figure, Report
from web.active_set import KEPT

SIZES = (10_000, 100_000)
MILLION = 1_000_000
ROWS = 1000  # of a chunk
FEATURES = 64
ASKED = 1800
ANEW = range(81, 121)  # limits, about 100: more of them than answers are kept for
DIVERSE = range(41, 60)  # about 50
ANNOTATED = 0.99
MARKED = 40
PACED = 5  # turns of half a batch each, under which is asked
ROUNDS = 3


class Times(NamedTuple):
    """Milliseconds of ours and of the static view, each a list of rounds."""

    ours: list[list[float]]
    static: list[list[float]]

    def ratios(self, share: float) -> tuple[float, ...]:
        """How a quantile of ours lies to the same of the static view, in each round."""
        return tuple(
            quantile(one, share) / quantile(other, share) for one, other in zip(self.ours, self.static, strict=True)
        )

    def told(self, share: float) -> tuple[float, ...]:
        """A quantile of ours, in each round."""
        return tuple(quantile(each, share) for each in self.ours)


def path_of(project: str, limit: int) -> str:
    """A safe GET."""
    return f"/v1/projects/{project}/active-set?task_id={TASK}&limit={limit}"


class OfSize(NamedTuple):
    """A project of so many media, how fast its rows came, and how it answers."""

    project: str
    size: int
    speed: float
    kept: Times
    anew: Times


async def retrieval(settings: Settings, report: Report, *, full: bool) -> None:
    """Fill projects and ask."""
    sizes = (*SIZES, MILLION) if full else SIZES
    async with probed(settings) as worker, asking(settings.url) as client:
        body = probe_file(settings).with_suffix(".body")
        found = [await of_size(worker, client, report, body, size) for size in sizes]
        few, many = found[0], found[-1]
        p99s = zip(many.kept.told(0.99), few.kept.told(0.99), strict=True)
        report.add(
            Figure("retrieval.kept", f"100 of {many.size:,}, ours / static, p99", "x", many.kept.ratios(0.99)),
            Figure("retrieval.anew", "rendered anew, ours / static, p99", "x", many.anew.ratios(0.99)),
            Figure(
                "retrieval.size",
                f"100 of {many.size:,} / of {few.size:,}, p99",
                "x",
                tuple(one / other for one, other in p99s),
            ),
            *await asyncio.to_thread(beside, many.size),
        )
        await while_ingesting(worker, client, report, many)
        await other_sets(worker, client, report, many)


async def of_size(worker: Ours, client: Asking, report: Report, body: Path, size: int) -> OfSize:
    """Fill a project with media, uploaded and scored, and ask for sets. body: what the static view answers."""
    step(f"retrieval: {size:,} media come")
    project = f"of-{size}"
    load = Load(chunks=size // ROWS, rows=ROWS, features=FEATURES, preset="uncertainty")
    took = await worker.measure(await asyncio.to_thread(load.events, project, "batch"), load.total)
    body.write_bytes(await client.get(path_of(project, 100)))
    kept = await in_turn(client, project, [100])
    report.add(*told(f"{size}.kept", f"100 of {size:,}, nothing changing", kept))
    anew = await in_turn(client, project, ANEW)
    report.add(*told(f"{size}.anew", f"100 of {size:,}, rendered anew", anew))
    return OfSize(project, size, took.speed, kept, anew)


async def in_turn(client: Asking, project: str, limits: Sequence[int], asked: int = ASKED, pause_s: float = 0) -> Times:
    """Ask for sets of some sizes, and for the same bytes of the static view, in turn.

    Of several sizes no answer is kept: others were asked for before, as many as are kept.
    """
    times = Times([], [])
    for limit in limits if len(limits) == 1 else range(1, KEPT + 1):
        await client.get(path_of(project, limit))
    for turn in range(ROUNDS):
        step(f"retrieval: {project}, {turn + 1} of {ROUNDS}")
        ours, static = [], []
        for n in range(asked // ROUNDS):
            ours.append(await client.ms(path_of(project, limits[n % len(limits)])))
            static.append(await client.ms("/bench/static"))
            if pause_s:
                await asyncio.sleep(pause_s)
        times.ours.append(ours)
        times.static.append(static)
    return times


def told(key: str, what: str, times: Times) -> list[Figure]:
    """The times of a set, and how they lie to those of the static view."""
    return [
        Figure(f"retrieval.{key}.p50", f"{what}: p50", "ms", times.told(0.5)),
        Figure(f"retrieval.{key}.p99", f"{what}: p99", "ms", times.told(0.99)),
        Figure(f"retrieval.{key}.p50-ratio", f"{what}: p50, ours / static", "x", times.ratios(0.5)),
        Figure(f"retrieval.{key}.p99-ratio", f"{what}: p99, ours / static", "x", times.ratios(0.99)),
    ]


async def while_ingesting(worker: Ours, client: Asking, report: Report, of_many: OfSize) -> None:
    """Ask while another batch comes at half of what the worker can take: of another project, and of this one."""
    project, size, speed, *_ = of_many
    for of, key, what in (("other", "other", "another project's"), (project, "ingest", "the project's own")):
        load = Load(chunks=100, rows=ROWS // 4, features=FEATURES, preset="uncertainty")
        events = await asyncio.to_thread(load.events, of, f"later-{key}")
        feeding = asyncio.create_task(paced(worker, events, load.rows / (speed / 2)))
        ours, static = list[float](), list[float]()
        while not feeding.done():
            step(f"retrieval: while rows of {of} come")
            more = await in_turn(client, project, [100], 30, 0.002)
            ours += chain.from_iterable(more.ours)
            static += chain.from_iterable(more.static)
        await feeding
        times = Times([ours], [static])
        report.add(
            *told(f"{size}.{key}", f"100 of {size:,}, while {what} rows come", times),
            Figure(f"retrieval.{key}", f"while {what} rows come, ours / static, p99", "x", times.ratios(0.99)),
        )


async def paced(worker: Ours, events: Events, pause_s: float) -> None:
    """Send chunks one by one. pause_s: from one to the next."""
    began = time.monotonic()
    for n, chunk in enumerate([*events.seen, *events.unseen]):
        await asyncio.sleep(max(0.0, began + n * pause_s - time.monotonic()))
        await worker.feed.send("inference_artifacts", events.project, [chunk], events.form)


async def other_sets(worker: Ours, client: Asking, report: Report, of_many: OfSize) -> None:
    """Sets that are spread over the features, sets that are marked, and sets of a project that is nearly done."""
    project, size, *_ = of_many
    plain = await in_turn(client, project, DIVERSE, 120)
    load = Load(chunks=0, features=FEATURES, preset="balanced")
    [(topic, values), *_] = load.events(project, "none").first
    before = await worker.feed.send(topic, project, values)
    await worker.served(project, {topic: before})
    diverse = await in_turn(client, project, DIVERSE, 120)
    added = zip(diverse.told(0.5), plain.told(0.5), strict=True)
    report.add(
        *told(f"{size}.diverse", f"50 of {size:,}, diversified", diverse),
        Figure(
            "retrieval.diverse.added",
            f"50 of {size:,}, diversified, less the same by score, p50",
            "ms",
            tuple(one - other for one, other in added),
        ),
    )

    geti = f"/api/v1/organizations/o/workspaces/w/projects/{project}/datasets/active?task_id={TASK}&limit=10"
    marked = [await client.ms(geti) for _ in range(MARKED)]
    report.add(
        Figure("retrieval.marked", f"10 of {size:,}, marked as suggested, p50", "ms", (quantile(marked, 0.5),)),
        Figure(f"retrieval.{size}.marked.p99", f"the same, p99 of {MARKED}", "ms", (quantile(marked, 0.99),)),
    )
    step(f"retrieval: {ANNOTATED:.0%} are annotated")
    few = f"of-{SIZES[0]}"
    about = {"workspace_id": "w", "project_id": few, "timestamp": time.time_ns() // 1_000_000}
    done = [
        load.encoded({**about, **name("image", n), "states": {TASK: "annotated"}})
        for n in range(int(SIZES[0] * ANNOTATED))
    ]
    offset = await worker.feed.send("annotation_updates", few, done)
    await worker.served(few, {"annotation_updates": offset})
    report.add(*told("annotated", f"100 of {SIZES[0]:,}, {ANNOTATED:.0%} annotated", await in_turn(client, few, ANEW)))


def beside(size: int) -> list[Figure]:
    """What the best 100 of so many cost where nothing else is done."""
    scores = np.random.default_rng(0).random(size)
    table = {f"image-{n}": score for n, score in enumerate(scores.tolist())}

    def ms(work: Callable[[], Any]) -> tuple[float, ...]:
        took = []
        for _ in range(5):
            began = time.perf_counter()
            work()
            took.append((time.perf_counter() - began) * 1000)
        return tuple(took)

    return [
        Figure(
            "retrieval.heapq",
            f"beside it: heapq.nsmallest of a dict of {size:,}",
            "ms",
            ms(lambda: heapq.nsmallest(100, table, key=table.__getitem__)),
        ),
        Figure(
            "retrieval.argpartition",
            f"beside it: numpy's argpartition of {size:,}",
            "ms",
            ms(lambda: np.argpartition(scores, 100)[:100]),
        ),
    ]
