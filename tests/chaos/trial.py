"""A run: three workers under load, clients of all of them, a schedule of faults, and a verdict."""

import asyncio
import json
import pickle
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from tests.broker.annotators import Lease, annotating
from tests.broker.load import IMAGES, Load
from tests.broker.pollers import Watch, now_ms, polling
from tests.broker.programs import HOUSE, starting
from tests.chaos.broker import Broker
from tests.chaos.changelog import Archive
from tests.chaos.faults import DEEDS, FAULTS, Ring
from tests.chaos.fleet import ANSWER_S, Fleet, outcomes, three
from tests.chaos.judge import Answer, Evidence, questions
from tests.chaos.report import Report, by_partition
from tests.chaos.schedule import Step

PREFIX = "chaos."
PATIENCE_S = 240.0  # until all is well again, on a machine that is slow
LONG_S = 900.0  # the same where faults that take minutes are asked for
RATE = 60.0  # events a second
LOOK_S = 0.3
MORE_IMAGES = 250  # of each project, for each minute: that none runs out of what may be suggested
QUIET_S = 1.0


@dataclass
class Trial:
    """A run, and what comes of it.

    minutes: after which no fault begins any more; none, if all that are scheduled do.
    again: the command that repeats it.
    befell: what did.
    """

    seed: int
    schedule: Sequence[Step]
    folder: Path
    minutes: float | None = None
    rate: float = RATE
    without: str = ""
    again: str = ""
    tell: Callable[[str], object] = lambda _: None
    found: list[str] = field(default_factory=list)
    befell: list[dict[str, Any]] = field(default_factory=list)
    watch: Watch = field(default_factory=lambda: Watch(()))
    leases: list[Lease] = field(default_factory=list)

    @property
    def patience_s(self) -> float:
        """How long it is waited, at most, for what takes seconds on an idle machine."""
        return LONG_S if any(not FAULTS[step.fault].weight for step in self.schedule) else PATIENCE_S

    async def run(self) -> Report:
        """Run it, and have it judged."""
        began = time.monotonic()
        async with Broker(self.folder) as broker, starting(self.folder) as start:
            more = {"patience_s": self.patience_s, "without": self.without, "tell": self.tell}
            async with three(start, broker.address, PREFIX, self.folder, **more) as fleet:
                try:
                    verdict = await self._run(Ring(fleet, broker, Random(f"luck {self.seed}")))
                except Exception as why:  # noqa: BLE001 - also what is wrong with the chaos itself is told in the report
                    self.found.append(str(why) if isinstance(why, AssertionError) else traceback.format_exc())
                    verdict = {}
                self.found += fleet.stray
        return self._report(fleet, verdict, time.monotonic() - began)

    async def _run(self, ring: Ring) -> dict[str, Any]:
        fleet = ring.fleet
        images = IMAGES + int(MORE_IMAGES * (self.minutes or len(self.schedule) / 2))
        load = Load(fleet.kafka, fleet.prefix, self.seed, images=images)
        for place in fleet.places:
            await fleet.join(place)
        await fleet.eventually(fleet.shared, "that three workers share the partitions")
        await asyncio.to_thread(load.begin)
        urls = [place.url for place in fleet.places]
        with Archive(fleet.kafka, fleet.prefix) as archive:
            async with (
                polling(load.projects, urls) as watch,
                annotating(watch, urls, self.seed, self.patience_s) as leases,
            ):
                self.watch = ring.watch = watch
                self.leases = leases
                with load.running(self.rate) as sending:
                    await self._befall(ring)
                    assert sending.is_alive(), "the load ended before it was told to"
            answers = await self._settle(fleet, load, archive)
            await fleet.all_leave()
            return await self._judge(fleet, archive, answers)

    async def _befall(self, ring: Ring) -> None:
        """One fault after the other, some while others go on."""
        give_up = time.monotonic() + 60 * self.minutes if self.minutes else float("inf")
        self._well = asyncio.Event()
        keeping = asyncio.create_task(self._keep(ring))
        try:
            async with asyncio.TaskGroup() as going:
                for step in self.schedule:
                    await self._pause(step.pause_s, keeping)
                    if step.well:
                        await self._all_well(ring.fleet, keeping)
                    if time.monotonic() > give_up:
                        break
                    one = going.create_task(self._one(ring, step))
                    if not step.aside:
                        await one
            await self._all_well(ring.fleet, keeping)
        except BaseExceptionGroup as why:
            raise why.exceptions[0] from why
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    async def _one(self, ring: Ring, step: Step) -> None:
        fleet = ring.fleet
        place = next((each for each in fleet.places if each.name == step.place), None)
        began = time.monotonic()
        if place is None:
            fleet.note(str(step))
            await DEEDS[step.fault](ring, step, fleet.places[0])
        else:
            async with place.busy:
                while not place.program:  # it ended by itself, and is not back yet
                    place.busy.release()
                    await asyncio.sleep(LOOK_S)
                    await place.busy.acquire()
                fleet.note(str(step))
                await DEEDS[step.fault](ring, step, place)
        times = {"began_s": round(began - fleet.began, 1), "over_s": round(time.monotonic() - fleet.began, 1)}
        self.befell.append({"number": step.number, "fault": step.fault, "place": step.place, **times})
        self._well.clear()

    async def _keep(self, ring: Ring) -> None:
        """Start workers again that ended by themselves, and note when all is well."""
        fleet = ring.fleet
        while True:
            quiet = not ring.broker.away and not any(place.frozen or place.busy.locked() for place in fleet.places)
            for place in fleet.places:
                if not place.busy.locked():
                    await fleet.supervise(place)
            if await fleet.shared() and quiet and len(fleet.running) == len(fleet.places):
                self._well.set()
            else:
                self._well.clear()
            await asyncio.sleep(LOOK_S)

    async def _pause(self, how_long_s: float, keeping: "asyncio.Task[None]") -> None:
        await asyncio.wait([keeping], timeout=how_long_s)
        if keeping.done():
            keeping.result()

    async def _all_well(self, fleet: Fleet, keeping: "asyncio.Task[None]") -> None:
        """Wait until all is well; a fault that is going on meanwhile has its time besides.

        Raises:
            AssertionError: it does not come.
        """
        waiting, waited_s = asyncio.create_task(self._well.wait()), 0.0
        try:
            while not waiting.done():
                await asyncio.wait([waiting, keeping], timeout=1, return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    keeping.result()
                waited_s += not any(place.busy.locked() for place in fleet.places)
                if waited_s > fleet.patience_s:
                    told = [f"{each.name}: {each.program.said()[-3000:]}" for each in fleet.running if each.program]
                    raise AssertionError(f"all was not well again after {waited_s:.0f} s\n" + "\n".join(told))
        finally:
            waiting.cancel()

    async def _settle(self, fleet: Fleet, load: Load, archive: Archive) -> list[Answer]:
        """Have everything applied, and ask each worker about every project; what is damaged shows by then."""
        give_up = time.monotonic() + fleet.patience_s
        while True:
            await fleet.settled(load)
            await fleet.eventually(lambda: asyncio.sleep(0, archive.swept), "that what is gone is swept")
            answers = await ask_all(fleet, load.projects)
            if all(each.status == 200 for each in answers) and archive.swept:
                return answers
            assert time.monotonic() < give_up, (
                f"not all is answered: {[each for each in answers if each.status != 200][:3]}"
            )

    async def _judge(self, fleet: Fleet, archive: Archive, answers: list[Answer]) -> dict[str, Any]:
        """The verdict of a process that knows nothing of this one."""
        path = self.folder / "evidence"
        evidence = Evidence(fleet.kafka, fleet.prefix, self.watch, self.leases, fleet.disks, answers, archive.records)
        path.write_bytes(pickle.dumps(evidence))
        fleet.note("judging")
        judging = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.judge", str(path), stdout=asyncio.subprocess.PIPE, cwd=HOUSE
        )
        told, _ = await judging.communicate()
        assert judging.returncode == 0, f"the judge ended with {judging.returncode}"
        verdict: dict[str, Any] = json.loads(told)
        self.found += verdict["found"]
        if not (self.watch.handed and self.leases):
            self.found.append("nothing was suggested or leased: the run says nothing")
        return verdict

    def _report(self, fleet: Fleet, verdict: dict[str, Any], took_s: float) -> Report:
        gaps = {project: round(gap, 2) for project, gap in sorted(self.watch.gaps.items())}
        told = sum((outcomes(each) for each in fleet.programs), Counter[str]())
        return Report(
            again=self.again,
            seed=self.seed,
            took_s=round(took_s, 1),
            found=self.found,
            events=verdict.get("records", 0),
            moved_again=verdict.get("repeated", 0),
            rows=verdict.get("rows", 0),
            answers_that_agree=verdict.get("agreed", 0),
            leases=len(self.leases),
            lease_changes=verdict.get("changes", {}),
            outcomes=dict(told),
            statuses={str(status or "none"): count for status, count in sorted(self.watch.counts.items())},
            exits={str(status): count for status, count in sorted(fleet.statuses.items())},
            faults=self.befell,
            not_begun=len(self.schedule) - len(self.befell),
            unavailable_s=gaps,
            by_partition_s=by_partition(gaps),
            done=fleet.done,
        )


async def ask_all(fleet: Fleet, projects: Sequence[str]) -> list[Answer]:
    """What each worker answers about every project."""
    timeout = aiohttp.ClientTimeout(total=4 * ANSWER_S)
    answers = []
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for place in fleet.running:
            for project in projects:
                for task, whole in questions():
                    answer = Answer(place.name, project, task, whole, now_ms(), 0, 0, b"")
                    with suppress(aiohttp.ClientError, TimeoutError):
                        async with session.get(f"{place.url()}{answer.path()}") as told:
                            answer = answer._replace(status=told.status, body=await told.read())
                    answers.append(answer._replace(ended_ms=now_ms()))
    return answers
