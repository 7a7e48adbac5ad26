"""The faults: what befalls workers, their disks, their clocks, Kafka and the changelog."""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from aiokafka.errors import KafkaError
from rocksdict import Options, Rdict

from tests.broker import oracle
from tests.broker.pollers import Watch
from tests.chaos import changelog
from tests.chaos.broker import Broker
from tests.chaos.fleet import LOOK_S, Fleet, Place, asked_partitions, ends
from tests.chaos.schedule import Kind, Step
from tests.faults.__main__ import POINTS

SESSION_S = 6.0  # as the programs are started (tests/broker/programs.py)
KIB = 1024
SHAKEN_S = 90.0  # after Kafka was away, a worker may end: it finds out what became of its transactions
HOUR_S = 3600


@dataclass
class Ring:
    """Where it happens: three workers and their Kafka. watch: what their clients are told."""

    fleet: Fleet
    broker: Broker
    random: Random
    watch: Watch = field(default_factory=lambda: Watch(()))

    @contextmanager
    def kafka_is_away(self) -> Iterator[None]:
        """While it is, and for a while after, workers have a reason to end by themselves."""
        self.fleet.excuse = "Kafka was away"
        try:
            yield
        finally:
            self.fleet.excused_until = time.monotonic() + SHAKEN_S
            self.fleet.excuse = ""


Deed = Callable[[Ring, Step, Place], Awaitable[None]]
FAULTS: dict[str, Kind] = {}
DEEDS: dict[str, Deed] = {}


def fault(name: str, meaning: str, **more: Any) -> Callable[[Deed], Deed]:
    """Enter a function as a fault."""

    def enter(deed: Deed) -> Deed:
        FAULTS[name], DEEDS[name] = Kind(meaning, **more), deed
        return deed

    return enter


@fault("kill", "SIGKILL", away_s=8, weight=2)
async def kill(ring: Ring, step: Step, place: Place) -> None:
    await ring.fleet.kill(place)
    await asyncio.sleep(step.away_s)
    await ring.fleet.join(place)


@fault("leave", "SIGTERM", away_s=8)
async def leave(ring: Ring, step: Step, place: Place) -> None:
    await ring.fleet.leave(place)
    await asyncio.sleep(step.away_s)
    await ring.fleet.join(place)


async def at_point(ring: Ring, step: Step, place: Place, point: str) -> None:
    """A worker that kills itself at a place in its code."""
    await ring.fleet.leave(place)
    if point == "restored":
        ring.fleet.empty(place)  # else there is little to restore
    program = await ring.fleet.join(place, point, str(step.count), "kill")
    with suppress(TimeoutError):
        await asyncio.wait_for(program.process.wait(), ring.fleet.patience_s)
    status = program.process.returncode
    told = {None: f"never came to {point}", -signal.SIGKILL: f"died at {point}"}.get(status, f"ended with {status}")
    ring.fleet.note(f"{place.name} {told}")
    if status not in (None, -signal.SIGKILL) and not ring.fleet.excused(place):
        ring.fleet.stray.append(f"{ring.fleet.done[-1]}: {program.said()[-3000:]}")
    await ring.fleet.kill(place)
    await asyncio.sleep(step.away_s)
    await ring.fleet.join(place)


for each, told in POINTS.items():
    fault(f"kill-at-{each}", f"SIGKILL where {told.meaning}", times=(1, told.often), away_s=6)(
        partial(at_point, point=each)
    )


@fault("freeze", "SIGSTOP past the session, and SIGCONT", lasts_s=(7, 12), aside=True, weight=2)
async def freeze(ring: Ring, step: Step, place: Place) -> None:
    await ring.fleet.freeze(place, step.lasts_s)


@fault("nap", "SIGSTOP for less than the session, and SIGCONT", lasts_s=(1, 4), aside=True)
async def nap(ring: Ring, step: Step, place: Place) -> None:
    await ring.fleet.freeze(place, step.lasts_s)


@fault("stutter", "SIGSTOP and SIGCONT again and again: a machine that is far too slow", times=(5, 15), aside=True)
async def stutter(ring: Ring, step: Step, place: Place) -> None:
    for _ in range(step.count):
        await ring.fleet.freeze(place, ring.random.uniform(0.2, 1.0))
        await asyncio.sleep(ring.random.uniform(0.1, 0.5))


@fault("cut-off", "between a worker and Kafka all is held up, past the session, and comes late", lasts_s=(8, 20))
async def cut_off(ring: Ring, step: Step, place: Place) -> None:
    fleet, wire = ring.fleet, ring.broker.wire
    async with ring.broker.wired:
        await fleet.leave(place)
        await fleet.join(place, kafka=wire.address)
        await fleet.eventually(lambda: owns_some(place), "that a worker on the wire is ready")
        fleet.note(f"{place.name} is cut off from Kafka for {step.lasts_s:.1f} s")
        place.excuse = "it was cut off from Kafka"
        wire.whole.clear()
        try:
            await asyncio.sleep(step.lasts_s)
        finally:
            wire.whole.set()
        fleet.note(f"{place.name} hears of Kafka again")
        await asyncio.sleep(SESSION_S)  # what was held up has its time
        if place.program and place.program.process.returncode is not None:
            await fleet.kill(place)
        else:
            await fleet.leave(place)
        await fleet.join(place)


async def owns_some(place: Place) -> bool:
    """Whether a worker is ready, with some partitions, or has ended."""
    ended = place.program is None or place.program.process.returncode is not None
    return ended or bool(await asked_partitions(place))


@fault(
    "storm", "workers, one or another, killed or stopped again and again before they are back", of="all", times=(5, 9)
)
async def storm(ring: Ring, step: Step, place: Place) -> None:
    for _ in range(step.count):
        victim = ring.random.choice(ring.fleet.places)
        async with victim.busy:
            if victim.program:
                await (ring.fleet.kill if ring.random.random() < 0.6 else ring.fleet.leave)(victim)
            await asyncio.sleep(ring.random.uniform(0, 1))
            await ring.fleet.join(victim)
        await asyncio.sleep(ring.random.uniform(0, 2))


@fault("all", "SIGKILL of all workers at once", of="all", away_s=8)
async def everyone(ring: Ring, step: Step, place: Place) -> None:
    for each in ring.fleet.places:
        await each.busy.acquire()
    try:
        while len(ring.fleet.running) < len(ring.fleet.places):  # one ended by itself, and is not back yet
            await asyncio.sleep(LOOK_S)
        for each in ring.fleet.running:
            await ring.fleet.kill(each)
        await asyncio.sleep(step.away_s)
        with suppress(KafkaError):  # it may be away, too
            ring.watch.nobody_works(await ends(ring.fleet.kafka, ring.fleet.prefix))
        for each in ring.fleet.places:
            await ring.fleet.join(each)
    finally:
        for each in ring.fleet.places:
            each.busy.release()


@fault("disk-empty", "SIGKILL, and the disk is empty when it is back", away_s=8)
async def disk_empty(ring: Ring, step: Step, place: Place) -> None:
    await ring.fleet.kill(place)
    ring.fleet.empty(place)
    await asyncio.sleep(step.away_s)
    await ring.fleet.join(place)


@fault("disk-old", "SIGKILL, and later another: then the disk is as it was at the first", lasts_s=(4, 12))
async def disk_old(ring: Ring, step: Step, place: Place) -> None:
    await ring.fleet.kill(place)
    copy = place.folder.with_name(f"{place.folder.name}-old")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(place.folder, copy)
    await ring.fleet.join(place)
    await asyncio.sleep(step.lasts_s)
    await ring.fleet.kill(place)
    ring.fleet.note(f"{place.name} gets an old copy of its disk")
    shutil.rmtree(place.folder)
    copy.rename(place.folder)
    await ring.fleet.join(place)


async def damaged(ring: Ring, step: Step, place: Place, how: Callable[[Path], None], what: str) -> None:
    """A worker is back on a disk that somebody laid hands on."""
    await ring.fleet.kill(place)
    for number, database in oracle.databases(place.folder):
        try:
            how(database)
        except Exception as why:  # noqa: BLE001 - it is damaged already; rocksdict has no class of its own for that
            ring.fleet.note(f"partition {number} is as it was: {why}")
        place.tampered.add(number)
    ring.fleet.note(f"{place.name}: {what}")
    await asyncio.sleep(step.away_s)
    place.wounded = True  # what is damaged in a file may show only when it is read
    await ring.fleet.join(place)


def largest(database: Path, *kinds: str) -> list[Path]:
    """The largest file of each kind."""
    found = (sorted(database.glob(kind), key=lambda file: file.stat().st_size) for kind in kinds)
    return [files[-1] for files in found if files and files[-1].stat().st_size]


def truncate(database: Path) -> None:
    """Half of every large file is gone."""
    for file in largest(database, "*.sst", "*.log", "MANIFEST-*"):
        os.truncate(file, file.stat().st_size // 2)


def garble(database: Path) -> None:
    """The middle of the largest file is not what was written."""
    for file in largest(database, "*.sst", "*.log"):
        size = file.stat().st_size
        with file.open("r+b") as opened:
            opened.seek(size // 4)
            opened.write(b"\xa5" * (size // 2))


def advance(database: Path) -> None:
    """The rows claim to be further than the changelog is."""
    opened: Any = Rdict(str(database), Options(raw_mode=True))
    opened.put(oracle.OFFSET, str(int(opened.get(oracle.OFFSET) or b"0") + 1_000_000).encode())
    opened.close()


fault("disk-truncated", "SIGKILL, and the largest files of each RocksDB are cut", away_s=8)(
    partial(damaged, how=truncate, what="its largest files are cut")
)
fault("disk-garbled", "SIGKILL, and the middle of the largest files of each RocksDB is overwritten", away_s=8)(
    partial(damaged, how=garble, what="its largest files are overwritten")
)
fault("disk-ahead", "SIGKILL, and each RocksDB says that it is ahead of the changelog", away_s=8)(
    partial(damaged, how=advance, what="its rows are ahead of the changelog")
)


@fault("disk-limit", "no file of the worker may grow any more: writing to RocksDB fails", lasts_s=(20, 30))
async def disk_limit(ring: Ring, step: Step, place: Place) -> None:
    assert place.program
    program = place.program
    files = [*place.folder.rglob("*"), program.log]
    size = max((file.stat().st_size for file in files if file.is_file()), default=0) + 16 * KIB
    ring.fleet.note(f"{place.name}: no file may be larger than {size // KIB} KiB")
    place.excuse = "its disk is full"
    with suppress(ProcessLookupError):
        resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (size, size))
    with suppress(TimeoutError):
        await asyncio.wait_for(program.process.wait(), step.lasts_s)
    ring.fleet.note(f"{place.name}: ended with {program.process.returncode}")
    await ring.fleet.kill(place)
    await ring.fleet.join(place)


def may_mount() -> bool:
    """Whether this machine lets us have a file system of our own."""
    command = ("unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@fault(
    "disk-full",
    "a disk of a few MiB, full of other things (where a tmpfs may be mounted)",
    lasts_s=(15, 25),
    times=(1, 6),
)
async def disk_full(ring: Ring, step: Step, place: Place) -> None:
    await ring.fleet.kill(place)
    if may_mount():
        place.folder.mkdir(exist_ok=True)
        script = f'mount -t tmpfs -o size={step.count}m tmpfs "$0" && exec "$@"'
        program = await ring.fleet.join(place, wrapper=("unshare", "-m", "sh", "-c", script, str(place.folder)))
        with suppress(TimeoutError):
            await asyncio.wait_for(program.process.wait(), step.lasts_s)
        ring.fleet.note(f"{place.name}, on a disk of {step.count} MiB: ended with {program.process.returncode}")
        tampered, place.tampered = place.tampered, {*range(1024)}  # what it wrote was on that disk
        await ring.fleet.kill(place)
        place.tampered = tampered
    await ring.fleet.join(place)


@fault("clock-ahead", "a worker's clock is an hour ahead", lasts_s=(15, 25), aside=True)
async def clock_ahead(ring: Ring, step: Step, place: Place) -> None:
    await other_clock(ring, step, place, HOUR_S)


@fault("clock-behind", "a worker's clock is an hour behind", lasts_s=(15, 25), aside=True)
async def clock_behind(ring: Ring, step: Step, place: Place) -> None:
    await other_clock(ring, step, place, -HOUR_S)


async def other_clock(ring: Ring, step: Step, place: Place, by_s: int) -> None:
    """A worker's clock goes wrong for a while."""
    await ring.fleet.leave(place)
    await ring.fleet.join(place, "clock", str(by_s))
    await asyncio.sleep(step.lasts_s)
    await ring.fleet.leave(place)
    await ring.fleet.join(place)


@fault("kafka-kill", "SIGKILL of Kafka", of="kafka", away_s=10)
async def kafka_kill(ring: Ring, step: Step, place: Place) -> None:
    with ring.kafka_is_away():
        ring.fleet.note("Kafka is killed")
        await ring.broker.kill()
        await asyncio.sleep(step.away_s)
        await ring.broker.start()
        ring.fleet.note("Kafka is back")


@fault("kafka-and-worker", "SIGKILL of Kafka and of a worker", of="both", away_s=10)
async def both_kill(ring: Ring, step: Step, place: Place) -> None:
    with ring.kafka_is_away():
        ring.fleet.note("Kafka is killed")
        await asyncio.gather(ring.broker.kill(), ring.fleet.kill(place))
        await asyncio.sleep(step.away_s)
        await ring.fleet.join(place)
        await ring.broker.start()
        ring.fleet.note("Kafka is back")


async def kafka_pause(ring: Ring, step: Step, place: Place) -> None:
    """Kafka does not answer for a while."""
    with ring.kafka_is_away():
        ring.fleet.note(f"Kafka freezes for {step.lasts_s:.1f} s")
        await ring.broker.pause(step.lasts_s)
        ring.fleet.note("Kafka wakes")


fault("kafka-pause-5", "SIGSTOP of Kafka for 5 s", of="kafka", lasts_s=(5, 5))(kafka_pause)
fault("kafka-pause-30", "SIGSTOP of Kafka for 30 s", of="kafka", lasts_s=(30, 30), weight=0)(kafka_pause)
fault("kafka-pause-120", "SIGSTOP of Kafka for 120 s", of="kafka", lasts_s=(120, 120), weight=0)(kafka_pause)


@fault("compacted", "SIGKILL, and the changelog is compacted, tombstones too, before it is back", weight=0)
async def compacted(ring: Ring, step: Step, place: Place) -> None:
    await ring.fleet.kill(place)
    fleet = ring.fleet
    fleet.note(await asyncio.to_thread(changelog.compact, fleet.kafka, fleet.prefix))
    await fleet.join(place)
