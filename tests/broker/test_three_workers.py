"""Three workers on one Kafka, joined, stopped and frozen under load: each event counts once.

Annotators lease from them meanwhile: nothing that they were told is taken back, and no medium is two's at once.
What must have come of it is found out without them (tests/chaos/judge.py). Where a seed is told, what was chosen can
be had again: SEED=<number>. When the processes were how far cannot.
"""

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random

import pytest

from tests.broker import oracle
from tests.broker.annotators import CHANGES, annotating
from tests.broker.conftest import Program, Start, until
from tests.broker.load import Load, medium
from tests.broker.pollers import polling
from tests.broker.programs import ALL, WORKER
from tests.broker.test_active_set import owns_all
from tests.broker.voice import HOME, PROJECT, Voice, applied
from tests.chaos import changelog
from tests.chaos.fleet import Fleet, asked, outcomes, three
from tests.chaos.judge import Evidence, judge

log = logging.getLogger("three workers")  # shown where a test fails

RATE = 60.0  # events a second
COMPACTED_S = 40.0


@pytest.fixture
async def fleet(kafka: str, prefix: str, start: Start, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Three workers, not started; none is left when the test ends."""
    async with three(start, kafka, prefix, tmp_path) as fleet:
        yield fleet
        log.warning("what was done:\n%s", "\n".join(fleet.done))


@pytest.mark.timeout(150)
async def test_joins_and_leaves_of_three_workers_under_load_apply_every_event_once(
    kafka: str, prefix: str, fleet: Fleet, seed: int
) -> None:
    random, load = Random(seed), Load(fleet.kafka, fleet.prefix, seed)
    for place in fleet.places:
        await fleet.join(place)
    await fleet.eventually(fleet.shared)
    await asyncio.to_thread(load.begin)

    urls = [place.url for place in fleet.places]
    async with polling(load.projects, urls) as watch, annotating(watch, urls, seed) as leases:
        with load.running(RATE, count=int(25 * RATE)) as sending:
            while sending.is_alive():
                place = random.choice(fleet.places)
                if not place.program:
                    await fleet.join(place)
                elif len(fleet.running) > 1:
                    await fleet.leave(place)
                await asyncio.sleep(random.uniform(0, 4))
    await fleet.settled(load)
    await fleet.all_leave()

    assert fleet.statuses.keys() == {0}
    verdict = await asyncio.to_thread(judge, Evidence(kafka, prefix, watch, leases, fleet.disks))
    assert not verdict.found, "\n".join(verdict.found)
    told = sum((outcomes(program) for program in fleet.programs), Counter[str]())
    log.warning("outcomes: %s", dict(told))
    counted, records = told["heard"] + told["moved"] + told["rejected"], verdict.records - verdict.repeated
    assert counted == records
    assert watch.handed
    assert {change for each in leases for change in each.changes} == CHANGES


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
    await fleet.eventually(fleet.shared)
    await asyncio.to_thread(load.begin)

    with load.running(2 * RATE, count=int(44 * RATE)) as sending:  # who was shut out finds out when it writes
        frozen = await start("tests.faults", "take", "1", "freeze", "worker", broker=kafka, topic_prefix=prefix)
        fleet.programs.append(frozen)  # which ends it also where it is frozen
        await frozen.says("fault: freeze at take")
        await fleet.eventually(fleet.shared)
        frozen.process.send_signal(signal.SIGCONT)
        await until(lambda: not sending.is_alive(), frozen)

    assert await frozen.stop() == 0
    await fleet.eventually(fleet.shared)
    assert not fleet.stray


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
    await asyncio.to_thread(changelog.configure, kafka, prefix, changelog.EAGER)
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
