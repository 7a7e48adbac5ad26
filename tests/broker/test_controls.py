"""With a cure taken out the judge finds what comes of it; with the cure, in the same story, nothing.

For who was frozen, tests/broker/test_three_workers.py tells the story with the cure.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rocksdict import Options, Rdict

from streams import topics
from streams.media import Image
from streams.settings import Settings
from tables.rows import HASH_BYTES, Kind, prefix_of, whole_bytes
from tests.broker import oracle
from tests.broker.conftest import Start, until
from tests.broker.load import TASKS, medium
from tests.broker.pollers import TIMEOUT_S, Watch
from tests.broker.programs import Program
from tests.broker.test_active_set import owns_all
from tests.broker.voice import HOME, PROJECT, Voice, applied
from tests.chaos.faults import advance
from tests.chaos.fleet import Fleet, Place, ends, three
from tests.chaos.judge import Evidence, judge
from tests.chaos.trial import ask_all

BEHIND = 2000  # events that a worker finds when it comes
SAFE = f"/v1/projects/{PROJECT}/active-set?limit=1"


@pytest.fixture
async def fleet(kafka: str, prefix: str, start: Start, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Three workers, not started; none is left when the test ends."""
    async with three(start, kafka, prefix, tmp_path) as fleet:
        yield fleet


@pytest.fixture
def voice(kafka: str, prefix: str) -> Voice:
    return Voice(kafka, prefix)


async def joined(fleet: Fleet, place: Place, *how: str) -> Program:
    """A worker that has all partitions."""
    worker = await fleet.join(place, *how)
    await until(partial(owns_all, worker), worker)
    return worker


async def begun(fleet: Fleet, place: Place, voice: Voice, *how: str) -> Program:
    """A worker that has heard of a project with an image."""
    worker = await joined(fleet, place, *how)
    voice.tell("project_updates", tasks=[{"task_id": task} for task in TASKS])
    await until(partial(applied, worker, "media_uploads", voice.tell("media_uploads", **medium("m1"))), worker)
    return worker


async def judged(fleet: Fleet, watch: Watch | None = None, *, asking: bool = False) -> list[str]:
    """What is found when all workers have been stopped, and were asked before that."""
    answers = await ask_all(fleet, [PROJECT]) if asking else []
    await asyncio.gather(*(fleet.leave(place) for place in fleet.running))
    for place in fleet.places:
        await fleet.find(place, "in the end")
    evidence = Evidence(fleet.kafka, fleet.prefix, watch or Watch([PROJECT]), [], fleet.disks, answers)
    return (await asyncio.to_thread(judge, evidence)).found


def lacking(cure: str, *, cured: bool) -> tuple[str, ...]:
    """What a worker is told to lack; nothing, if it is cured."""
    return () if cured else ("without", cure)


both = pytest.mark.parametrize("cured", [True, False], ids=["cured", "without"])


@both
async def test_what_is_applied_twice_is_found(fleet: Fleet, voice: Voice, cured: bool) -> None:
    place = fleet.places[0]
    await begun(fleet, place, voice, *lacking("guard", cured=cured))
    await fleet.kill(place)
    worker = await fleet.join(place, *lacking("guard", cured=cured))

    last = voice.tell("media_uploads", **medium("m2"))  # what comes again of its topic comes before it
    await until(partial(applied, worker, "media_uploads", last), worker)

    found = await judged(fleet)
    assert (not found) == cured
    assert cured or "is told again" in "\n".join(found)


@both
async def test_rows_that_only_rocksdb_has_are_found(fleet: Fleet, voice: Voice, cured: bool) -> None:
    place = fleet.places[0]
    how = (*lacking("order", cured=cured), "send", "8", "kill")
    dying = await begun(fleet, place, voice, *how)
    while dying.process.returncode is None:
        voice.annotate("annotated")
        await asyncio.sleep(0.05)
    await fleet.kill(place)
    worker = await joined(fleet, place)
    await until(partial(applied, worker, "annotation_updates", voice.annotate("annotated")), worker)

    found = await judged(fleet)
    assert (not found) == cured
    assert cured or "when it was killed" in "\n".join(found)


@both
async def test_events_that_are_folded_on_old_rows_are_found(fleet: Fleet, voice: Voice, cured: bool) -> None:
    await topics.declare(Settings(broker=fleet.kafka, topic_prefix=fleet.prefix))
    for n in range(40):  # the first is the latest
        voice.tell("annotation_updates", **medium("m1"), states={"t1": "annotated"}, timestamp=1_767_225_700_000 - n)
    worker = await begun(fleet, fleet.places[0], voice, *lacking("pending", cured=cured))
    await until(partial(applied, worker, "annotation_updates", 39), worker)

    found = await judged(fleet)
    assert (not found) == cured
    assert cured or "not the same: STATE of project-1" in "\n".join(found)


@both
async def test_answers_of_what_is_no_more_so_are_found(fleet: Fleet, voice: Voice, cured: bool) -> None:
    worker = await begun(fleet, fleet.places[0], voice, *lacking("told", cured=cured))
    await until(partial(applied, worker, "annotation_updates", voice.annotate("annotated")), worker)

    found = await judged(fleet, asking=True)
    assert (not found) == cured
    assert cured or f"A answered {SAFE.replace('=1', '=1000')} with 200" in "\n".join(found)


@both
async def test_rows_of_a_transaction_that_was_not_committed_are_found(fleet: Fleet, voice: Voice, cured: bool) -> None:
    place = fleet.places[0]
    dying = await begun(fleet, place, voice, "commit", "8", "kill")
    number = 1
    while dying.process.returncode is None:
        number += 1
        voice.tell("media_uploads", **medium(f"m{number}"))
        await asyncio.sleep(0.05)
    await fleet.kill(place)
    worker = await joined(fleet, place, *lacking("committed", cured=cured))
    await until(partial(applied, worker, "media_uploads", voice.tell("media_uploads", **medium("last"))), worker)

    found = await judged(fleet)
    assert (not found) == cured
    assert cured or "only here: UPLOAD of project-1" in "\n".join(found)


@both
async def test_rows_that_the_changelog_never_had_are_found(fleet: Fleet, voice: Voice, cured: bool) -> None:
    place = fleet.places[0]
    await begun(fleet, place, voice)
    await fleet.leave(place)
    [database] = [path for number, path in oracle.databases(place.folder) if number == HOME]
    upload = prefix_of(PROJECT, Kind.UPLOAD)
    opened: Any = Rdict(str(database), Options(raw_mode=True))
    opened.put(upload + bytes(HASH_BYTES), opened.get(upload + whole_bytes(Image("m1"))))
    opened.close()
    advance(database)
    worker = await joined(fleet, place, *lacking("aside", cured=cured))
    await until(partial(applied, worker, "annotation_updates", voice.annotate("none")), worker)

    found = await judged(fleet)
    assert (not found) == cured
    assert cured or "only here: UPLOAD of project-1" in "\n".join(found)


@both
async def test_answers_of_who_does_not_know_all_yet_are_found(fleet: Fleet, voice: Voice, cured: bool) -> None:
    place, watch = fleet.places[0], Watch([PROJECT])
    await begun(fleet, place, voice)
    await fleet.leave(place)
    last = voice.annotate("annotated", BEHIND)
    watch.nobody_works(await ends(fleet.kafka, fleet.prefix))

    worker = await fleet.join(place, *lacking("caught-up", cured=cured))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT_S)) as session:
        while not await applied(worker, "annotation_updates", last):
            await watch.ask(session, "GET", worker.url + SAFE, PROJECT, "whoever comes")

    found = await judged(fleet, watch)
    assert (not found) == cured
    assert cured or f"of annotation_updates, and {last} came before it" in "\n".join(found)


@both
async def test_records_that_were_moved_twice_and_count_twice_are_found(fleet: Fleet, voice: Voice, cured: bool) -> None:
    worker = await begun(fleet, fleet.places[0], voice, *lacking("once", cured=cured))
    states = partial(voice.tell, "annotation_updates", **medium("m1"), timestamp=1_767_225_700_000)
    states(states={"t1": "annotated"}, partition=HOME - 1)
    await until(partial(applied, worker, "annotation_updates", 0), worker)
    states(states={"t1": "none"})
    again = voice.again("annotation_updates", 0)  # as if whoever moved it had been killed before it said so
    await until(partial(applied, worker, "annotation_updates", again), worker)

    found = await judged(fleet)
    assert (not found) == cured
    assert cured or "not the same: STATE of project-1" in "\n".join(found)


async def test_rows_that_a_former_owner_appends_are_found(fleet: Fleet, voice: Voice) -> None:
    former, latter = fleet.places[:2]
    how = ("without", "fencing", "send", "8", "freeze")
    frozen = await begun(fleet, former, voice, *how)
    former.excuse = "it is frozen, and wakes when it was replaced"
    while "fault: freeze" not in frozen.said():
        voice.annotate("annotated")
        await asyncio.sleep(0.05)
    successor = await joined(fleet, latter, "without", "fencing")
    await until(partial(applied, successor, "annotation_updates", voice.annotate("none")), successor)

    frozen.process.send_signal(signal.SIGCONT)
    await fleet.eventually(fleet.shared)

    assert "of annotation_updates" in "\n".join(await judged(fleet))


async def test_answers_of_who_was_replaced_are_found(fleet: Fleet, voice: Voice) -> None:
    former, latter = fleet.places[:2]
    frozen = await begun(fleet, former, voice, "without", "gate")
    former.excuse = "it is frozen, and wakes when it was replaced"
    watch = Watch([PROJECT])

    connector = aiohttp.TCPConnector(keepalive_timeout=100)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(TIMEOUT_S)) as session:
        ask = partial(watch.ask, session, "GET", project=PROJECT)
        # Over connections that it has: what waits in their sockets is answered before it hears that it was replaced.
        await asyncio.gather(*(ask(url=frozen.url + SAFE, about="who will be frozen") for _ in range(20)))
        frozen.process.send_signal(signal.SIGSTOP)
        successor = await joined(fleet, latter)
        await until(partial(applied, successor, "annotation_updates", voice.annotate("none")), successor)
        assert (await ask(url=successor.url + SAFE, about="the successor"))[0] == 200
        asking = [asyncio.create_task(ask(url=frozen.url + SAFE, about="who was frozen")) for _ in range(20)]
        await asyncio.sleep(0.5)  # what is asked waits in its socket
        frozen.process.send_signal(signal.SIGCONT)
        await asyncio.gather(*asking)
    await fleet.eventually(fleet.shared)

    assert "who was frozen: as_of" in "\n".join(await judged(fleet, watch))
