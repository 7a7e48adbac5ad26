"""The judge, in a process of its own: what is not as it must be, found out without the workers.

Four must agree byte for byte: the topics folded anew, the last value of each key in the changelog, RocksDB, and what
was answered over HTTP. And clients must not have been told what was not so.
"""

import asyncio
import json
import pickle
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from rocksdict import Options, Rdict

from streams.partition import partition_of
from streams.settings import Settings
from streams.topics import SOURCES
from tables.partition import Partition
from tables.rows import GRANT, Kind, pack_int, prefix_of, progress_key
from tables.state import State
from tables.store import Store
from tests.broker import oracle
from tests.broker.annotators import Lease, unlike_rows
from tests.broker.load import TASKS
from tests.broker.pollers import Watch
from tests.broker.programs import ALL
from tests.chaos import changelog
from tests.chaos.fleet import Disk
from web.active_set import ActiveSets
from web.query import Query
from web.reasons import Reasons

LIMIT = 1000
PATIENCE_MS = Settings().batch_patience_s * 1000


class Answer(NamedTuple):
    """What a worker answered, when all was quiet; task: of the active set that was asked for, or of none the whole.

    began_ms, ended_ms: the worker's time was between these.
    """

    worker: str
    project: str
    task: str | None
    whole: bool  # what the project tells of itself, and not its active set
    began_ms: int
    ended_ms: int
    status: int
    body: bytes

    def path(self) -> str:
        """What was asked for."""
        if self.whole:
            return f"/v1/projects/{self.project}"
        of = f"&task_id={self.task}" if self.task else ""
        return f"/v1/projects/{self.project}/active-set?limit={LIMIT}{of}"


def questions() -> list[tuple[str | None, bool]]:
    """What is asked about each project in the end: of which task, and whether about the whole."""
    return [(None, True), (None, False), *((task, False) for task in TASKS)]


@dataclass
class Evidence:
    """What a run leaves to be judged.

    records: of the changelog, all there were;
    none, if Kafka has them all still.
    """

    kafka: str
    prefix: str
    watch: Watch
    leases: list[Lease]
    disks: list[Disk]
    answers: list[Answer] = field(default_factory=list)
    records: changelog.Records | None = None


@dataclass
class Verdict:
    """What is not as it must be, and what there was."""

    found: list[str]
    records: int
    repeated: int
    leases: int
    changes: dict[str, int]
    rows: int
    agreed: int  # answers that were as they must be


def judge(evidence: Evidence) -> Verdict:
    """What is not as it must be: in the changelog, on the disks, in what clients were answered."""
    there = oracle.changelog(evidence.kafka, evidence.prefix)
    wanted = oracle.folded(evidence.kafka, evidence.prefix)
    ever = there if evidence.records is None else changelog.ever(evidence.records, there)
    found = [*ever.violations, *told(evidence, wanted)]
    if wanted.resets:
        found.append(f"suggestions began anew {wanted.resets} times, though media were left")
    found.append(unlike("the fold", wanted.rows, "the changelog", there.rows))
    found += [unlike("the changelog", there.rows, "all that was ever in it", ever.rows)]
    topics = {topic.name for topic in SOURCES}
    for number in ALL:
        progress = {name: at for name, at in there.kept(number).progress.items() if name in topics}
        if progress != wanted.last.get(number, {}):
            found.append(f"partition {number}: applied up to {progress}, and there is {wanted.last.get(number)}")
    found += on_disks(evidence.disks, ever)
    unequal = asyncio.run(answered(evidence.answers, wanted))
    return Verdict(
        [each for each in (*found, *unequal) if each],
        wanted.records,
        wanted.repeated,
        len(evidence.leases),
        dict(sum((each.changes for each in evidence.leases), Counter[str]())),
        sum(map(len, wanted.rows.values())),
        len(evidence.answers) - len(unequal),
    )


def told(evidence: Evidence, wanted: oracle.Folded) -> Iterator[str]:
    """What clients were told that was not so."""
    watch = evidence.watch
    yield from watch.violations
    yield from watch.unfounded(wanted.grants)
    yield from watch.disputed()
    yield from unlike_rows(evidence.leases, wanted.rows, wanted.grants)


def on_disks(disks: list[Disk], ever: oracle.Appended) -> Iterator[str]:
    """What disks had that the changelog had not, or had no more."""
    for number in ALL:
        everything: dict[bytes, bytes] = {}
        records, at = ever.records[number], 0
        found = sorted((each for each in disks if each.partition == number), key=lambda each: each.offset)
        for each in found:
            while at < len(records) and records[at][0] <= each.offset:
                _, key, value = records[at]
                if value is None:
                    everything.pop(key, None)
                else:
                    everything[key] = value
                at += 1
            disk: oracle.Kept = pickle.loads(each.path.read_bytes())
            there = oracle.kept(everything, each.offset)
            where = f"{each.whose}, which is at {each.offset}"
            yield unlike(where, {number: disk.rows}, "the changelog there", {number: there.rows})
            if disk.progress != there.progress:
                yield f"partition {number}: {where} has applied {disk.progress}, the changelog {there.progress}"
            if each.offset > ever.end(number):
                yield f"partition {number}: {where} is ahead of the changelog, {ever.end(number)}"
        furthest = found[-1].offset if found else -1
        if furthest != ever.end(number):
            yield f"partition {number}: no disk has all of it, {ever.end(number)}, but {furthest}"


def unlike(here: str, ours: oracle.Tables, there: str, theirs: oracle.Tables) -> str:
    """The differences between two places, with their names; empty if there are none."""
    differences = oracle.differences(ours, theirs)
    return f"here {here}, there {there}:\n{differences}" if differences else ""


async def answered(answers: list[Answer], wanted: oracle.Folded) -> list[str]:
    """Answers that are not, to the byte, what comes of the fold."""
    found = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        partitions = {number: partition(number, wanted, Path(folder)) for number in wanted.rows}
        for answer in answers:
            home = partitions[partition_of(answer.project.encode(), len(ALL))]
            may = {orjson.dumps(await shown(home, answer, now)) for now in moments(home, answer)}
            if answer.status != 200 or answer.body not in may:
                found.append(f"{answer.worker} answered {answer.path()} with {answer.status}, {differs(answer, may)}")
        for each in partitions.values():
            each.sweeper.stop()
    return found


def moments(home: Partition, answer: Answer) -> list[int]:
    """When an answer may have been true: from when it was asked for until it came, each time that a grant ends."""
    grants = (np.frombuffer(row, GRANT) for _, row in home.store.scan(prefix_of(answer.project, Kind.GRANT)))
    ends = {int(each["until"][0]) for each in grants}
    return [
        answer.began_ms,
        *sorted(each for each in ends if answer.began_ms < each < answer.ended_ms),
        answer.ended_ms,
    ]


def partition(number: int, wanted: oracle.Folded, folder: Path) -> Partition:
    """A partition on the rows of the fold, which nobody writes to."""
    store = Store(Rdict(str(folder / str(number)), Options(raw_mode=True)))
    last = wanted.last.get(number, {})
    progress = {progress_key(topic): pack_int(offset) for topic, offset in last.items()}
    store.write([*wanted.rows[number].items(), *progress.items()], 0)
    nobody: Any = None  # writes
    made = Partition(number, 0, store, nobody, patience_ms=PATIENCE_MS)
    made.restored({topic.name: last.get(topic.name, -1) + 1 for topic in SOURCES}, ())
    return made


async def shown(home: Partition, answer: Answer, now: int) -> Any:
    """What must have been answered, at a time in milliseconds."""

    async def publish(_: object) -> int:
        raise AssertionError("nothing is marked here")

    settings = Settings(partitions=len(ALL))
    sets = ActiveSets(settings, Only(home), publish, lambda: now)
    if answer.whole:
        return await Reasons(sets).project(answer.project)
    return await sets.shown(answer.project, Query(answer.task, LIMIT))


class Only(State):
    """A state that has one partition."""

    def __init__(self, partition: Partition) -> None:
        self._owned = {partition.number: partition}


def differs(answer: Answer, may: set[bytes]) -> str:
    """Where an answer is not what it must be."""
    ours = min(may)
    both = enumerate(zip(answer.body, ours, strict=False))
    at = next((n for n, (one, other) in both if one != other), min(len(answer.body), len(ours)))
    around = slice(max(0, at - 80), at + 80)
    return f"{answer.body[around]!r} where the fold says {ours[around]!r} (byte {at})"


def main(arguments: list[str]) -> int:
    """Judge the evidence in a file, and print the verdict as JSON."""
    evidence: Evidence = pickle.loads(Path(arguments[0]).read_bytes())
    print(json.dumps(judge(evidence).__dict__))  # noqa: T201 - read by who started it
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
