"""Three workers on one Kafka, joined, stopped, killed and frozen at random under load: each event counts once.

Annotators lease from them meanwhile: nothing that they were told is taken back, and no medium is two's at once.
What must have come of it is found out without them (tests/broker/oracle.py). Where a seed is told, what was chosen can
be had again: SEED=<number>. When the processes were how far cannot.
"""

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import confluent_kafka.admin
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Producer

from streams.partition import partition_of
from streams.topics import CHANGELOG, SOURCES
from tests.broker import oracle
from tests.broker.annotators import CHANGES, Lease, annotating, unlike_rows
from tests.broker.conftest import PATIENCE_S, Program, Start, until
from tests.broker.load import BEGINNING, Load, medium
from tests.broker.pollers import Watch, polling
from tests.broker.test_active_set import owns_all
from tests.broker.test_worker import ALL, WORKER

log = logging.getLogger("three workers")  # shown where a test fails

RATE = 60.0  # events a second
FROZEN_S = (7.0, 12.0)  # longer than the session timeout, 6 s: some until others have taken over and answer
COMPACTED_S = 40.0
ANSWER_S = 5.0


@dataclass
class Place:
    """Where a worker runs: on a disk of its own, started again and again."""

    name: str
    folder: Path
    program: Program | None = None
    frozen: bool = False
    woken: bool = False  # it was frozen once, and may end when it finds itself replaced


def url_of(place: Place) -> str | None:
    """Where a worker answers; none if it does not run."""
    return place.program.url if place.program else None


@dataclass
class Fleet:
    """Three workers, and what was done to them."""

    start: Start
    kafka: str
    prefix: str
    places: list[Place]
    began: float = field(default_factory=time.monotonic)
    done: list[str] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    disks: list[tuple[str, dict[int, oracle.Kept]]] = field(default_factory=list)  # as they were found

    def note(self, what: str) -> None:
        """Write down what was done, and when."""
        self.done.append(f"{time.monotonic() - self.began:6.1f} s  {what}")

    async def join(self, place: Place) -> None:
        """Start a worker on its disk."""
        self.note(f"{place.name} joins")
        place.woken = False
        place.program = await self.start(*WORKER, broker=self.kafka, topic_prefix=self.prefix, data_dir=place.folder)
        self.programs.append(place.program)

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
        self.statuses[status] += 1
        self.note(f"{place.name} ended with {status}")

    async def kill(self, place: Place) -> None:
        """Kill a worker."""
        assert place.program
        program, place.program = place.program, None
        self.note(f"{place.name} is killed")
        with suppress(ProcessLookupError):
            program.process.kill()
        await program.ends()
        self.find(place, "when it was killed")

    def find(self, place: Place, when: str) -> None:
        """Look at a worker's disk while nobody uses it."""
        self.disks.append((f"{place.name}'s disk {when}", oracle.rows(place.folder)))

    def empty(self, place: Place) -> None:
        """Take a worker's disk away."""
        self.note(f"{place.name} gets an empty disk")
        shutil.rmtree(place.folder)

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
        place.frozen, place.woken = False, True

    async def supervise(self, place: Place) -> None:
        """Start a worker again that ended by itself, as whoever runs it does."""
        program = place.program
        if program is None or program.process.returncode is None:
            return
        place.program = None
        self.statuses[program.process.returncode] += 1
        self.note(f"{place.name} ended with {program.process.returncode}, {'woken' if place.woken else 'BY ITSELF'}")
        log.warning("%s", program.said()[-1000:])
        await self.join(place)

    @property
    def running(self) -> list[Place]:
        """The workers that run."""
        return [place for place in self.places if place.program]

    async def shared(self) -> bool:
        """Whether the running workers have all partitions between them."""
        for place in self.running:
            await self.supervise(place)
        owned = await asyncio.gather(*(place.program.partitions() for place in self.running if place.program))
        return all(owned) and sorted(chain.from_iterable(owned)) == ALL


@pytest.fixture
async def fleet(kafka: str, prefix: str, start: Start, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Three workers, not started; none is left when the test ends."""
    fleet = Fleet(start, kafka, prefix, [Place(name, tmp_path / f"disk-{name}") for name in "ABC"])
    yield fleet
    log.warning("what was done:\n%s", "\n".join(fleet.done))
    for program in fleet.programs:  # also those that are frozen, which hear nothing else
        if program.process.returncode is None:
            program.process.kill()
            await program.process.wait()


@pytest.fixture
def seed() -> int:
    """What the load and the schedule are made of; told where a test fails."""
    seed = int(os.environ.get("SEED") or time.time_ns() % 1_000_000)
    log.warning("SEED=%d", seed)
    return seed


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


async def settled(fleet: Fleet, load: Load) -> None:
    """Have three workers run, share the partitions, apply everything, and leave."""
    for place in fleet.places:
        if not place.program:
            await fleet.join(place)
    await eventually(fleet, fleet.shared)
    fleet.note("all partitions are shared")
    await eventually(fleet, lambda: consumed(fleet, load.projects))
    fleet.note("all is applied")
    await asyncio.gather(*(fleet.leave(place) for place in fleet.running))
    for place in fleet.places:
        fleet.find(place, "in the end")


async def eventually(fleet: Fleet, true: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is true of workers that may end meanwhile; fail with what they said if it does not."""
    give_up = time.monotonic() + PATIENCE_S
    while not await true():
        if time.monotonic() > give_up:
            told = [f"{place.name}: {place.program.said()[-2000:]}" for place in fleet.running if place.program]
            pytest.fail("it did not come true\n" + "\n".join(told))
        await asyncio.sleep(0.1)


def findings(fleet: Fleet, watch: Watch, leases: list[Lease], wanted: oracle.Folded) -> list[str]:
    """What is not as it must be: in the changelog, on the disks, in what clients were answered."""
    changelog = oracle.changelog(fleet.kafka, fleet.prefix)
    log.warning("%d leases: %s", len(leases), dict(sum((each.changes for each in leases), Counter[str]())))
    log.warning("%d records, %d of them moved again; answers: %s", wanted.records, wanted.repeated, dict(watch.counts))
    found = [*changelog.violations, *watch.violations, *watch.unfounded(wanted.grants), *watch.disputed()]
    found += unlike_rows(leases, wanted.rows, wanted.grants)
    if wanted.resets:
        found.append(f"suggestions began anew {wanted.resets} times, though media were left")
    found.append(unlike("the fold", wanted.rows, "the changelog", changelog.rows))
    topics = {topic.name for topic in SOURCES}
    for number in ALL:
        progress = {name: at for name, at in changelog.kept(number).progress.items() if name in topics}
        if progress != wanted.last.get(number, {}):
            found.append(f"partition {number}: applied up to {progress}, and there is {wanted.last.get(number)}")
    furthest = dict.fromkeys(ALL, -1)
    for whose, disks in fleet.disks:
        for number, disk in disks.items():
            furthest[number] = max(furthest[number], disk.offset)
            there = changelog.kept(number, disk.offset)
            where = f"{whose}, which is at {disk.offset}"
            found.append(unlike(where, {number: disk.rows}, "the changelog there", {number: there.rows}))
            if disk.progress != there.progress:
                found.append(f"partition {number}: {where} has applied {disk.progress}, the changelog {there.progress}")
            if disk.offset > changelog.end(number):
                found.append(f"partition {number}: {where} is ahead of the changelog, {changelog.end(number)}")
    for number, offset in furthest.items():
        if offset != changelog.end(number):
            found.append(f"partition {number}: no disk has all of it, {changelog.end(number)}, but {offset}")
    return [each for each in found if each]


def unlike(here: str, ours: oracle.Tables, there: str, theirs: oracle.Tables) -> str:
    """The differences between two places, with their names; empty if there are none."""
    differences = oracle.differences(ours, theirs)
    return f"here {here}, there {there}:\n{differences}" if differences else ""


def outcomes(program: Program) -> Counter[str]:
    """What a worker that was stopped says became of its records."""
    lines: list[str] = re.findall(r"records since the start: (.*)", program.said())
    pairs = re.findall(r"(\d+) (\w+)", lines[-1]) if lines else []
    return Counter({name: int(count) for count, name in pairs})


@pytest.mark.timeout(150)
async def test_joins_and_leaves_of_three_workers_under_load_apply_every_event_once(fleet: Fleet, seed: int) -> None:
    random, load = Random(seed), Load(fleet.kafka, fleet.prefix, seed)
    for place in fleet.places:
        await fleet.join(place)
    await eventually(fleet, fleet.shared)
    await asyncio.to_thread(load.begin)

    urls = [partial(url_of, place) for place in fleet.places]
    async with polling(load.projects, urls) as watch, annotating(watch, urls, seed) as leases:
        with load.running(RATE, count=int(25 * RATE)) as sending:
            while sending.is_alive():
                place = random.choice(fleet.places)
                if not place.program:
                    await fleet.join(place)
                elif len(fleet.running) > 1:
                    await fleet.leave(place)
                await asyncio.sleep(random.uniform(0, 4))
    await settled(fleet, load)

    assert fleet.statuses.keys() == {0}
    wanted = oracle.folded(fleet.kafka, fleet.prefix)
    found = findings(fleet, watch, leases, wanted)
    assert not found, "\n".join(found)
    told = sum((outcomes(program) for program in fleet.programs), Counter[str]())
    log.warning("outcomes: %s", dict(told))
    counted, records = told["heard"] + told["moved"] + told["rejected"], wanted.records - wanted.repeated
    assert counted == records
    assert watch.handed
    assert {change for each in leases for change in each.changes} == CHANGES


@pytest.mark.timeout(200)
async def test_kills_and_freezes_of_three_workers_under_load_lose_nothing(fleet: Fleet, seed: int) -> None:
    load = Load(fleet.kafka, fleet.prefix, seed)
    for place in fleet.places:
        await fleet.join(place)
    await eventually(fleet, fleet.shared)
    await asyncio.to_thread(load.begin)

    urls = [partial(url_of, place) for place in fleet.places]
    async with polling(load.projects, urls) as watch, annotating(watch, urls, seed) as leases:
        with load.running(RATE, count=int(45 * RATE)) as sending:
            await suffer(fleet, Random(seed), sending.is_alive)
    await settled(fleet, load)

    assert fleet.statuses.keys() <= {0, 1}
    assert not [each for each in fleet.done if "BY ITSELF" in each]  # who was not frozen has no reason to end
    found = findings(fleet, watch, leases, oracle.folded(fleet.kafka, fleet.prefix))
    assert not found, "\n".join(found)
    assert watch.handed
    assert {change for each in leases for change in each.changes} == CHANGES


async def suffer(fleet: Fleet, fate: Random, goes_on: Callable[[], bool]) -> None:
    """What befalls workers as long as there is load, one thing after the other, at times before all is well again."""
    async with asyncio.TaskGroup() as waking:
        while goes_on():
            for what in fate.sample(FATES, len(FATES)):
                await asyncio.sleep(fate.uniform(0.5, 3))
                if fate.random() < 0.5:
                    await well(fleet, goes_on)
                awake = [place for place in fleet.running if not place.frozen]
                if goes_on() and awake:
                    await befall(fleet, fate.choice(awake), what, fate, waking)


FATES = ("kill", "kill", "empty", "freeze", "freeze", "leave")


async def befall(fleet: Fleet, place: Place, what: str, fate: Random, waking: asyncio.TaskGroup) -> None:
    """One thing happens to a worker; but where it freezes, it is back when this ends, or soon."""
    await fleet.supervise(place)
    match what:
        case "freeze":
            waking.create_task(fleet.freeze(place, fate.uniform(*FROZEN_S)))
            return
        case "leave":
            await fleet.leave(place)
        case _:
            await fleet.kill(place)
            if what == "empty":
                fleet.empty(place)
    await asyncio.sleep(fate.choice((0, 0, fate.uniform(1, 7))))  # before Kafka has noticed, or after
    await fleet.join(place)


async def well(fleet: Fleet, goes_on: Callable[[], bool]) -> None:
    """Wait until all that run share the partitions, or the load ends."""
    while goes_on() and (any(place.frozen for place in fleet.places) or not await fleet.shared()):
        await asyncio.sleep(0.1)


PROJECT = "project-1"
HOME = 6  # its partition


class Voice:
    """Tells of one project, event by event."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "log_level": 2})
        self._prefix = prefix
        self._clock = BEGINNING

    def tell(self, topic: str, **event: Any) -> int:
        """Publish an event; its offset."""
        self._clock += 1
        about = {"workspace_id": "w", "project_id": PROJECT, "timestamp": self._clock, "dataset_storage_id": "s"}
        offsets: list[int] = []
        self._producer.produce(
            self._prefix + topic,
            json.dumps({**about, **event}).encode(),
            PROJECT.encode(),
            on_delivery=lambda _, record: offsets.append(record.offset() or 0),
        )
        assert self._producer.flush(20) == 0
        return offsets[0]

    def annotate(self, state: str) -> int:
        """The same image again and again: the row of an event is what the next one replaces."""
        return self.tell("annotation_updates", **medium("m1"), states={"t1": state})


async def applied(worker: Program, topic: str, offset: int) -> bool:
    """Whether a worker's answers are true up to a record."""
    status, body = await asked(worker, f"/v1/projects/{PROJECT}/active-set?limit=1")
    return bool(status == 200 and body["as_of"].get(topic, -1) >= offset)


@pytest.mark.timeout(200)
async def test_a_worker_frozen_between_reading_and_sending_changes_nothing_when_it_wakes(
    kafka: str, prefix: str, start: Start, fleet: Fleet
) -> None:
    about = {"broker": kafka, "topic_prefix": prefix}
    frozen = await start("tests.faults", "send", "5", "freeze", "worker", **about)
    fleet.programs.append(frozen)  # which ends it also where it is frozen
    await until(frozen.partitions, frozen)
    voice = Voice(kafka, prefix)
    voice.tell("project_updates", tasks=[{"task_id": "t1"}])
    await until(partial(applied, frozen, "media_uploads", voice.tell("media_uploads", **medium("m1"))), frozen)
    while FROZEN not in frozen.said():
        await until(partial(applied_or_frozen, frozen, voice.annotate("partially_annotated")), frozen)
    successor = await start(*WORKER, **about)
    await until(partial(owns_all, successor), successor)
    last = [voice.annotate(state) for state in ("annotated", "to_revisit") * 5][-1]
    await until(partial(applied, successor, "annotation_updates", last), successor)
    before = await asyncio.to_thread(oracle.changelog, kafka, prefix)
    asking = [asyncio.create_task(asked(frozen, f"/v1/projects/{PROJECT}/active-set?limit=1")) for _ in range(10)]
    await asyncio.sleep(0.3)  # what is asked waits in its socket

    frozen.process.send_signal(signal.SIGCONT)
    await until(partial(woken, frozen, successor), successor)

    answers = [body["as_of"] for status, body in await asyncio.gather(*asking) if status == 200]
    assert all(as_of["annotation_updates"] >= last for as_of in answers)
    log.warning("woken, it ended with %s: %s", frozen.process.returncode, frozen.said()[-300:])
    after = await asyncio.to_thread(oracle.changelog, kafka, prefix)
    assert not after.violations
    assert after.records == before.records
    if frozen.process.returncode is None:
        assert await frozen.stop() == 0
        await until(partial(owns_all, successor), successor)
    await compact(kafka, prefix, voice, successor)
    assert await successor.stop() == 0
    third = await start(*WORKER, **about)
    await until(partial(owns_all, third), third)
    assert await third.stop() == 0
    rebuilt = {partition: disk.rows for partition, disk in oracle.rows(third.state).items()}
    wanted = await asyncio.to_thread(oracle.folded, kafka, prefix)
    assert not oracle.differences(rebuilt, wanted.rows)
    assert wanted.rows[HOME]


async def test_a_worker_frozen_while_it_takes_over_shuts_nobody_out_when_it_wakes(
    kafka: str, prefix: str, start: Start, fleet: Fleet, seed: int
) -> None:
    load = Load(kafka, prefix, seed)
    healthy = fleet.places[:2]
    for place in healthy:
        await fleet.join(place)
    await eventually(fleet, fleet.shared)
    await asyncio.to_thread(load.begin)

    with load.running(2 * RATE, count=int(44 * RATE)) as sending:  # who was shut out finds out when it writes
        frozen = await start("tests.faults", "take", "1", "freeze", "worker", broker=kafka, topic_prefix=prefix)
        fleet.programs.append(frozen)  # which ends it also where it is frozen
        await frozen.says("fault: freeze at take")
        await eventually(fleet, fleet.shared)
        frozen.process.send_signal(signal.SIGCONT)
        await until(lambda: not sending.is_alive(), frozen)

    assert await frozen.stop() == 0
    await eventually(fleet, fleet.shared)
    assert not [each for each in fleet.done if "BY ITSELF" in each]


FROZEN = "fault: freeze at send"


async def applied_or_frozen(worker: Program, offset: int) -> bool:
    """Whether a worker has applied an annotation, or is frozen and never will."""
    return FROZEN in worker.said() or await applied(worker, "annotation_updates", offset)


async def woken(frozen: Program, successor: Program) -> bool:
    """Whether a worker that was frozen has found out that it was replaced: it has ended, or joined anew."""
    if frozen.process.returncode is not None:
        return True
    owned = [await frozen.partitions(), await successor.partitions()]
    return all(owned) and sorted(chain.from_iterable(owned)) == ALL


async def compact(kafka: str, prefix: str, voice: Voice, worker: Program) -> None:
    """Have Kafka remove from the changelog what was replaced; where it takes too long, say so and go on without.

    It leaves the segment that is written to as it is, and begins a new one only when something is appended.
    """
    topic = prefix + CHANGELOG.name
    wanted = {
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.001",
        "min.compaction.lag.ms": "0",
        "max.compaction.lag.ms": "1000",
    }
    admin: Any = confluent_kafka.admin  # which types half of its names
    entries = [admin.ConfigEntry(*each, incremental_operation=admin.AlterConfigOpType.SET) for each in wanted.items()]
    resource = admin.ConfigResource(admin.ResourceType.TOPIC, topic, incremental_configs=entries)
    client = admin.AdminClient({"bootstrap.servers": kafka})
    for answer in client.incremental_alter_configs([resource]).values():
        answer.result()
    there = (await asyncio.to_thread(oracle.changelog, kafka, prefix)).records[HOME]
    began = time.monotonic()
    while time.monotonic() < began + COMPACTED_S:
        await until(partial(applied, worker, "annotation_updates", voice.annotate("annotated")), worker)
        now = {offset for offset, _, _ in (await asyncio.to_thread(oracle.changelog, kafka, prefix)).records[HOME]}
        if not now.issuperset(offset for offset, _, _ in there):
            log.warning("compacted after %.1f s", time.monotonic() - began)
            return
        await asyncio.sleep(0.5)
    log.warning("NOT compacted within %.0f s: the changelog is rebuilt from as it was appended", COMPACTED_S)
