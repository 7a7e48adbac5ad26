"""Three workers on one Kafka: joined, stopped, killed, frozen, and started again where they ended by themselves."""

import asyncio
import pickle
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.partition import partition_of
from streams.topics import SOURCES
from tests.broker import oracle
from tests.broker.load import Load
from tests.broker.programs import ALL, PATIENCE_S, WORKER, Program, Start

ANSWER_S = 5.0
LOOK_S = 0.1
BACK_S = (1.0, 2.0, 4.0, 8.0)  # until a worker that ended by itself is started again: the first time, the second, ...
FAULTS = "tests.faults"  # the program that runs a worker with something wrong in it


@dataclass
class Place:
    """Where a worker runs: on a disk of its own, started again and again.

    excuse: why it may end by itself; empty, if it has no reason to.
    tampered: partitions on whose rows somebody laid hands, and which no worker has been ready for since.
    wounded: whether somebody laid hands on files, which may show late.
    busy: held by who does something to it.
    """

    name: str
    folder: Path
    program: Program | None = None
    frozen: bool = False
    excuse: str = ""
    tampered: set[int] = field(default_factory=set)
    wounded: bool = False
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    fallen: int = 0  # how often it ended by itself, one time after the other

    def url(self) -> str | None:
        """Where it answers; none if it does not run."""
        return self.program.url if self.program else None


class Disk(NamedTuple):
    """A partition on a disk as it was found: whose, up to where, and a file with all of it (`oracle.Kept`, pickled)."""

    whose: str
    partition: int
    offset: int
    path: Path


@dataclass
class Fleet:
    """Three workers, and what was done to them.

    kept: a folder for what was found on their disks.
    patience_s: for what takes seconds on an idle machine.
    without: a cure that all of them lack (tests/faults); none, if it is not for the sake of seeing that it is missed.
    excuse, excused_until: why all may end by themselves, now and until a time of the monotonic clock.
    stray: ends that nothing excuses, and exit statuses that no end has.
    """

    start: Start
    kafka: str
    prefix: str
    places: list[Place]
    kept: Path
    patience_s: float = PATIENCE_S
    without: str = ""
    excuse: str = ""
    excused_until: float = 0.0
    tell: Callable[[str], object] = lambda _: None
    began: float = field(default_factory=time.monotonic)
    done: list[str] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    stray: list[str] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Write down what was done, and when."""
        self.done.append(f"{time.monotonic() - self.began:6.1f} s  {what}")
        self.tell(self.done[-1])

    async def join(self, place: Place, *how: str, wrapper: tuple[str, ...] = (), kafka: str = "") -> Program:
        """Start a worker on its disk.

        how: what is wrong with it, in the words of tests/faults; nothing, as a rule.
        wrapper: a program that runs it, with its arguments. kafka: where it asks for Kafka, if not where all do.
        """
        self.note(f"{place.name} joins{' with ' if how or wrapper else ''}{' '.join([*wrapper[:1], *how])}")
        place.excuse = ""
        wrong = (*(("without", self.without) if self.without else ()), *how)
        command = (FAULTS, *wrong, "worker") if wrong else WORKER
        place.program = await self.start(
            *command, wrapper=wrapper, broker=kafka or self.kafka, topic_prefix=self.prefix, data_dir=place.folder
        )
        self.programs.append(place.program)
        return place.program

    async def leave(self, place: Place) -> None:
        """Stop a worker in order."""
        assert place.program
        program, place.program = place.program, None
        self.note(f"{place.name} leaves")
        with suppress(ProcessLookupError):  # it may have ended by itself; so everywhere here
            program.process.terminate()
        status = await program.ends()
        if status == -signal.SIGTERM and not program.said():  # Python had not begun to listen to signals
            status = 0
        self._ended(place, program, status)

    async def kill(self, place: Place) -> None:
        """Kill a worker."""
        assert place.program
        program, place.program = place.program, None
        self.note(f"{place.name} is killed")
        with suppress(ProcessLookupError):
            program.process.kill()
        await program.ends()
        await self.find(place, "when it was killed")

    async def find(self, place: Place, when: str) -> None:
        """Look at a worker's disk while nobody uses it; what somebody laid hands on is left out."""
        whose = f"{place.name}'s disk {when}, {time.monotonic() - self.began:.1f} s"
        await asyncio.to_thread(self._look, place, whose)

    def _look(self, place: Place, whose: str) -> None:
        for number, database in oracle.databases(place.folder):
            if number in place.tampered:
                continue
            try:
                found = oracle.rows_of(database)
            except Exception as why:  # noqa: BLE001 - rocksdict has no class of its own
                self.note(f"partition {number} of {whose} cannot be read: {why}")
                if not place.wounded:
                    self.stray.append(self.done[-1])
            else:
                path = self.kept / f"disk-{len(self.disks)}"
                path.write_bytes(pickle.dumps(found))
                self.disks.append(Disk(whose, number, found.offset, path))

    def empty(self, place: Place) -> None:
        """Take a worker's disk away."""
        self.note(f"{place.name} gets an empty disk")
        shutil.rmtree(place.folder, ignore_errors=True)
        place.tampered.clear()

    async def freeze(self, place: Place, how_long_s: float) -> None:
        """Stop the clock of a worker, for longer than Kafka waits for it."""
        assert place.program
        self.note(f"{place.name} freezes for {how_long_s:.1f} s")
        place.frozen = True
        with suppress(ProcessLookupError):
            place.program.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(how_long_s)
            self.note(f"{place.name} wakes")
            place.program.process.send_signal(signal.SIGCONT)
        place.frozen, place.excuse = False, "it was frozen"

    async def supervise(self, place: Place) -> None:
        """Start a worker again that ended by itself, as whoever runs it does."""
        program = place.program
        if program is None or program.process.returncode is None:
            return
        place.program = None
        self._ended(place, program, program.process.returncode, by_itself=True)
        if place.fallen:
            await asyncio.sleep(BACK_S[min(place.fallen, len(BACK_S)) - 1])
        place.fallen += 1
        await self.join(place)

    def _ended(self, place: Place, program: Program, status: int, *, by_itself: bool = False) -> None:
        self.statuses[status] += 1
        excuse = self.excused(place)
        why = (f": {excuse}" if excuse else ", BY ITSELF") if by_itself else ""
        self.note(f"{place.name} ended with {status}{why}")
        last = [line for line in program.said().splitlines() if " CRITICAL " in line or " ERROR " in line][-1:]
        if last:
            self.note(f"    {last[0][:300]}")
        if (by_itself and not excuse) or status not in ((1,) if by_itself else (0, 1)):
            self.stray.append(f"{self.done[-1]}: {program.said()[-3000:]}")

    def excused(self, place: Place) -> str:
        """Why a worker may end by itself; empty, if it has no reason to."""
        shaken = time.monotonic() < self.excused_until
        wounded = "its disk was damaged" if place.wounded else ""
        return place.excuse or self.excuse or ("Kafka was away a while ago" if shaken else wounded)

    @property
    def running(self) -> list[Place]:
        """The workers that run."""
        return [place for place in self.places if place.program]

    async def shared(self) -> bool:
        """Whether the running workers have all partitions between them."""
        running = self.running
        for place in running:
            if not place.busy.locked():
                await self.supervise(place)
        owned = await asyncio.gather(*(asked_partitions(place) for place in running))
        for place, partitions in zip(running, owned, strict=True):
            place.tampered -= {*partitions}
            place.fallen = 0 if partitions else place.fallen
        return all(owned) and sorted(chain.from_iterable(owned)) == ALL

    async def eventually(self, true: Callable[[], Awaitable[bool]], what: str = "it") -> None:
        """Wait until something is true of workers that may end meanwhile; fail with what they said if it does not.

        Raises:
            AssertionError: it does not come true within patience.
        """
        give_up = time.monotonic() + self.patience_s
        while not await true():
            if time.monotonic() > give_up:
                told = [f"{place.name}: {place.program.said()[-3000:]}" for place in self.running if place.program]
                raise AssertionError(f"{what} did not come true in {self.patience_s:.0f} s\n" + "\n".join(told))
            await asyncio.sleep(LOOK_S)

    async def settled(self, load: Load) -> None:
        """Have three workers run, share the partitions, and apply everything."""
        for place in self.places:
            if not place.program:
                await self.join(place)
        await self.eventually(self.shared, "that three workers share the partitions")
        self.note("all partitions are shared")
        await self.eventually(lambda: consumed(self, load.projects), "that all is applied")
        self.note("all is applied")

    async def all_leave(self) -> None:
        """Stop all workers in order, and look at their disks."""
        await asyncio.gather(*(self.leave(place) for place in self.running))
        for place in self.places:
            await self.find(place, "in the end")


@asynccontextmanager
async def three(start: Start, kafka: str, prefix: str, folder: Path, **more: Any) -> AsyncIterator[Fleet]:
    """Three workers, not started; none is left when the block ends."""
    kept = folder / "found"
    kept.mkdir()
    fleet = Fleet(start, kafka, prefix, [Place(name, folder / f"disk-{name}") for name in "ABC"], kept, **more)
    try:
        yield fleet
    finally:
        for program in fleet.programs:  # also those that are frozen, which hear nothing else
            if program.process.returncode is None:
                program.process.kill()
                await program.process.wait()


async def asked_partitions(place: Place) -> list[int]:
    """The partitions that a worker says it is ready for; none if it does not answer."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await place.program.partitions() if place.program else []
    except TimeoutError:
        return []


async def ends(kafka: str, prefix: str) -> dict[tuple[str, int], int]:
    """Where the partitions of the source topics end, those that have records."""
    partitions = [TopicPartition(prefix + topic.name, number) for topic in SOURCES for number in ALL]
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        told = await consumer.end_offsets(partitions)
    return {(at.topic.removeprefix(prefix), at.partition): end for at, end in told.items() if end}


async def consumed(fleet: Fleet, projects: list[str]) -> bool:
    """Whether everything there is has been applied: answers are true up to the ends of the source topics.

    projects: some in each partition.
    """
    for place in fleet.running:
        await fleet.supervise(place)
    wanted = await ends(fleet.kafka, fleet.prefix)
    for number in ALL:
        project = next(each for each in projects if partition_of(each.encode(), len(ALL)) == number)
        as_of = await reached(fleet.running, project)
        if any(as_of.get(topic, -1) < end - 1 for (topic, home), end in wanted.items() if home == number):
            return False
    return wanted == await ends(fleet.kafka, fleet.prefix)  # nothing was moved meanwhile


async def reached(places: list[Place], project: str) -> dict[str, int]:
    """Up to where answers about a project are true, whichever worker gives them; nowhere if none does."""
    for place in places:
        if place.program:
            status, body = await asked(place.program, f"/v1/projects/{project}/active-set?limit=1")
            if status == 200:
                told: dict[str, int] = body["as_of"]
                return told
    return {}


async def asked(worker: Program, path: str) -> tuple[int, Any]:
    """Status and body of a GET; status 0 if nobody answers, as a frozen worker does not."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await worker.get(path)
    except TimeoutError:
        return 0, None


def outcomes(program: Program) -> Counter[str]:
    """What a worker that was stopped says became of its records."""
    lines: list[str] = re.findall(r"records since the start: (.*)", program.said())
    pairs = re.findall(r"(\d+) (\w+)", lines[-1]) if lines else []
    return Counter({name: int(count) for count, name in pairs})
