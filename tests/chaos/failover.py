"""How long nobody answers: after the owner of many media was killed, and while workers are restarted one by one."""

import asyncio
import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console
from rich.table import Table

from streams.partition import partition_of
from streams.producer import Artifacts, Producer, Receipt
from tests.broker.load import homes
from tests.broker.pollers import NOBODY
from tests.broker.programs import ALL, starting
from tests.chaos.broker import Broker
from tests.chaos.fleet import Fleet, Place, asked, three

PREFIX = "failover."
SESSION_S = 10  # as it is by default
SURVIVOR_S = SESSION_S + 10.0
SELF_S = 10.0
ROLLING_S = 10.0
PATIENCE_S = 300.0
ASK_S = 0.05
LIMIT = 100
GONE = -1  # for a status: nobody listens there, and a request was not made


@dataclass
class Prober:
    """Who asks of every project again and again, of workers in turn, and notes how long there is no answer.

    told: answers by status. without_s: by project, seconds between an answer and the next, where none was between.
    """

    places: Callable[[], Sequence[Place]]
    projects: Sequence[str]
    told: Counter[int] = field(default_factory=Counter)
    without_s: dict[str, float] = field(default_factory=dict)

    async def probe(self, project: str) -> None:
        """Ask until it is cancelled."""
        turns, last, missed = itertools.count(), time.monotonic(), False
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                places = [place for place in self.places() if place.program]
                status = NOBODY
                if places:
                    status, _ = await ask(session, places[next(turns) % len(places)], project)
                    self.told[status] += status != GONE
                now = time.monotonic()
                if status == 200:
                    if missed:
                        self.without_s[project] = self.without_s.get(project, 0.0) + now - last
                    last, missed = now, False
                else:
                    missed = True
                await asyncio.sleep(ASK_S)


@asynccontextmanager
async def probing(places: Callable[[], Sequence[Place]], projects: Sequence[str]) -> AsyncIterator[Prober]:
    """Ask while the block runs."""
    prober = Prober(places, projects)
    asking = [asyncio.create_task(prober.probe(project)) for project in projects]
    try:
        yield prober
        await asyncio.sleep(1)  # for an answer after the last one that was missed
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def ask(session: aiohttp.ClientSession, place: Place, project: str) -> tuple[int, Any]:
    """Status and body of the active set of a project, from a worker; `NOBODY` if it breaks off or takes too long."""
    try:
        async with session.get(f"{place.url()}/v1/projects/{project}/active-set?limit={LIMIT}") as answer:
            return answer.status, await answer.json(content_type=None)
    except aiohttp.ClientConnectorError:
        return GONE, None
    except (aiohttp.ClientError, TimeoutError):
        return NOBODY, None


async def served(places: Sequence[Place], project: str, wanted: Any = None) -> float:
    """Wait until a worker answers about a project, and as it was answered before; when that was."""
    give_up = time.monotonic() + PATIENCE_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        for place in itertools.cycle(places):
            status, body = await ask(session, place, project)
            if status == 200 and wanted in (None, body):
                return time.monotonic()
            assert time.monotonic() < give_up, f"{project} was not served within {PATIENCE_S:.0f} s: {status}"
            await asyncio.sleep(ASK_S)
    raise AssertionError("a cycle that ends")


def tell(kafka: str, project: str, media: int) -> Receipt:
    """A project with so many images, all of which a model has scored."""
    images = [f"image-{n}" for n in range(media)]
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([1, 1, 1], size=media).astype(np.float32)
    features = random.normal(size=(media, 16)).astype(np.float32)
    with Producer(kafka, workspace_id="w", project_id=project, prefix=PREFIX) as producer:
        return {
            **producer.project([{"task_id": "t1"}]),
            **producer.upload(images),
            **producer.activate("t1", "m"),
            **producer.infer("t1", "m", unseen=Artifacts(media=images, probabilities=probabilities, features=features)),
        }


async def heard(place: Place, project: str, receipt: Receipt) -> Any:
    """Wait until all that was told is applied; the answer then."""
    give_up = time.monotonic() + PATIENCE_S
    async with aiohttp.ClientSession() as session:
        while True:
            status, body = await ask(session, place, project)
            reached = body["as_of"] if status == 200 and not body["lag"] else {}
            if all(reached.get(topic, -1) >= offset for topic, offset in receipt.items()):
                return body
            assert time.monotonic() < give_up, f"what was told was not applied within {PATIENCE_S:.0f} s: {status}"
            await asyncio.sleep(0.2)


@dataclass
class Figures:
    """What was measured, in seconds, and what it must be."""

    found: dict[str, tuple[float, float]] = field(default_factory=dict)
    told: Counter[int] = field(default_factory=Counter)

    def note(self, what: str, took_s: float, at_most_s: float) -> None:
        """Write down a figure."""
        self.found[what] = (round(took_s, 2), at_most_s)

    def failed(self) -> Iterator[str]:
        """What is not as it must be."""
        for what, (took_s, at_most_s) in self.found.items():
            if took_s > at_most_s:
                yield f"{what}: {took_s:.1f} s, and it must be at most {at_most_s:.0f} s"
        if strange := {status for status, count in self.told.items() if count} - {200, 503}:
            yield f"answers while workers were restarted: {dict(self.told)}; {strange} must not be among them"


async def measured(folder: Path, media: int, console: Console) -> Figures:
    """Kill the owner of so many media, twice; then restart three workers one by one."""
    figures = Figures()
    many, *others = homes("project", len(ALL))
    async with Broker(folder) as broker, starting(folder) as start:

        async def with_session(*command: str, **more: Any) -> Any:
            return await start(*command, session_timeout_s=SESSION_S, **more)

        more = {"patience_s": PATIENCE_S, "tell": lambda line: console.print(line, markup=False)}
        async with three(with_session, broker.address, PREFIX, folder, **more) as fleet:
            for place in fleet.places:
                await fleet.join(place)
            await fleet.eventually(fleet.shared)
            receipts = {each: await asyncio.to_thread(tell, broker.address, each, 100) for each in others}
            receipts[many] = await asyncio.to_thread(tell, broker.address, many, media)
            answers = {each: await heard(fleet.places[0], each, receipt) for each, receipt in receipts.items()}
            before = answers[many]
            await killed(fleet, many, before, figures)
            await restarted(fleet, many, before, figures)
            await rolled(fleet, [many, *others], figures)
    return figures


async def killed(fleet: Fleet, project: str, before: Any, figures: Figures) -> None:
    """The owner is killed, and others take over, who have nothing of it on their disks."""
    owner = await owner_of(fleet, project)
    survivors = [place for place in fleet.places if place is not owner]
    assert owner.program
    began = time.monotonic()
    owner.program.process.kill()
    took_s = await served(survivors, project, before) - began
    figures.note("killed, until a survivor serves it", took_s, SURVIVOR_S)
    await fleet.kill(owner)
    await fleet.join(owner)
    await fleet.eventually(fleet.shared)


async def restarted(fleet: Fleet, project: str, before: Any, figures: Figures) -> None:
    """The owner, alone now, is killed and started again on its disk."""
    owner = await owner_of(fleet, project)
    for place in fleet.places:
        if place is not owner:
            await fleet.leave(place)
    await fleet.eventually(fleet.shared)
    await served([owner], project, before)
    await fleet.kill(owner)
    await asyncio.sleep(SESSION_S + 1)  # Kafka has noticed: what is measured is the worker
    program = await fleet.join(owner)
    while not await up(owner):
        await asyncio.sleep(ASK_S)
    began = time.monotonic()
    took_s = await served([owner], project, before) - began
    figures.note("restarted on its disk, from when it is up until it serves it", took_s, SELF_S)
    assert program.process.returncode is None
    for place in fleet.places:
        if place is not owner:
            await fleet.join(place)
    await fleet.eventually(fleet.shared)


async def up(place: Place) -> bool:
    """Whether a worker's process answers at all."""
    return place.program is not None and (await asked(place.program, "/livez"))[0] == 200


async def rolled(fleet: Fleet, projects: Sequence[str], figures: Figures) -> None:
    """One worker after the other is stopped in order and started again, when all is well."""
    for place in fleet.places:
        async with probing(lambda: fleet.running, projects) as prober:
            await fleet.leave(place)
            await fleet.join(place)
            await fleet.eventually(fleet.shared)
        longest = max(prober.without_s.values(), default=0.0)
        figures.note(f"{place.name} restarted, none answers of a project", longest, ROLLING_S)
        figures.told += prober.told


async def owner_of(fleet: Fleet, project: str) -> Place:
    """Whose a project is."""
    for place in fleet.running:
        if place.program and partition_of(project.encode(), len(ALL)) in await place.program.partitions():
            return place
    raise AssertionError(f"nobody owns {project}")


def main(media: int, report: Path) -> int:
    """Measure, and print what came of it; the answer is the exit status."""
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="failover-", ignore_cleanup_errors=True) as folder:
        figures = asyncio.run(measured(Path(folder), media, console))
    table = Table(title=f"failover, {media} media", title_justify="left")
    for name in ("what", "took, s", "at most, s"):
        table.add_column(name)
    for what, (took_s, at_most_s) in figures.found.items():
        table.add_row(what, f"{took_s:.1f}", f"{at_most_s:.0f}")
    console.print(table)
    told = {str(status or "none"): count for status, count in figures.told.items() if count}
    console.print(f"answers while workers were restarted: {told}", markup=False)
    failed = list(figures.failed())
    for each in failed:
        console.print(f"- {each}", markup=False)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(
        json.dumps({"media": media, "figures": figures.found, "answers": told, "found": failed}, indent=1)
    )
    console.print(f"Report: {report}", markup=False)
    return int(bool(failed))
