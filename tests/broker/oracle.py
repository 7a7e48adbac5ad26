"""What must have come of a history, found out without the program: topics folded anew, the changelog, the disks.

Of the product this uses what is pure: how records are decoded, what an event changes, how bytes are laid out. It knows
no worker, no Faust, and nothing of what reads, groups, writes or restores: that is what it is compared with.
"""

import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from rocksdict import AccessType, Options, Rdict
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # it has no types

from agents.decide import changes
from agents.fold import references_of
from agents.score import learnt, score, seen_of
from streams.artifacts import columns
from streams.decode import decode
from streams.errors import MalformedEvent
from streams.events import ArtifactsInferred, Event, Granted, Released, Renewed, Reset, Skipped
from streams.partition import partition_of
from streams.record import Heard, Record
from streams.topics import CHANGELOG, SOURCES, TABLE
from tables.leases import LeaseRow
from tables.rows import FOREVER, GRANT, KEPT, Change, Kind, prefix_of, unpack_int
from tests.core.table import Table

MOVED_FROM = "activeset-moved-from"  # `<partition>:<offset>:<whose>`: where a moved record was before
PATIENCE_S = 60.0
SHOWN = 5  # differences of a kind

Rows = Mapping[bytes, bytes]
Tables = Mapping[int, Rows]

OF_NOBODY = prefix_of("")  # a partition's own rows, which are about no project
PROGRESS = prefix_of("", Kind.PROGRESS)
OFFSET = b"__faust\0offset__"
BOOKKEEPING = b"__"  # no key of a row begins so: it would be of a project with a name of 24,415 bytes


class Place(NamedTuple):
    """A partition of a topic, by the topic's name without a prefix."""

    topic: str
    partition: int


def read(kafka: str, prefix: str, topics: Sequence[str], *, committed: bool = False) -> dict[Place, list[Message]]:
    """All records of some topics, which nobody writes to meanwhile.

    committed: only those of transactions that were committed.

    Raises:
        AssertionError: the end was not reached, as behind a transaction that is still open.
    """
    level = "read_committed" if committed else "read_uncommitted"
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "oracle",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": level,
        }
    )
    try:
        there = consumer.list_topics(timeout=PATIENCE_S).topics
        places = [Place(topic, number) for topic in topics for number in there[prefix + topic].partitions]
        found: dict[Place, list[Message]] = {place: [] for place in places}
        consumer.assign([TopicPartition(prefix + topic, number, OFFSET_BEGINNING) for topic, number in places])
        behind = set(places)
        while behind:
            message = consumer.poll(PATIENCE_S)
            assert message is not None, f"nothing more came of {sorted(behind)}"
            place = Place(str(message.topic()).removeprefix(prefix), message.partition() or 0)
            why = message.error()
            if why is None:
                found[place].append(message)
            elif why.code() == KafkaError._PARTITION_EOF:
                at = TopicPartition(prefix + place.topic, place.partition)
                _, end = consumer.get_watermark_offsets(at, timeout=PATIENCE_S, cached=True)
                reached = message.offset() or 0
                assert reached >= end, f"{place}: nothing after {reached} is committed, and it ends at {end}"
                behind.discard(place)
            else:
                raise KafkaException(why)
        return found
    finally:
        consumer.close()


class Ordered(Table):
    """The rows of a partition, whose keys are kept in order: many events scan."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[bytes] = []

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        key = max(prefix, after)
        while (at := bisect_left(self._keys, key)) < len(self._keys):  # rows may have changed meanwhile
            found = self._keys[at]
            if not found.startswith(prefix):
                return
            yield found, self[found]
            key = found + b"\0"

    def take(self, changes: Iterable[Change]) -> None:
        for key, value in changes:
            if value is None:
                if self.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
            else:
                if key not in self:
                    insort(self._keys, key)
                self[key] = value


@dataclass
class Folded:
    """What the source topics come to.

    rows: of every partition, without progress rows.
    last: of every partition, the offset of the last record of each topic that has any.
    records: how many there are.
    repeated: how many were moved more than once, and count once.
    resets: how often suggestions began anew.
    grants: of every partition, what `active_set_events` come to by themselves: also of media that are gone.
    """

    rows: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    grants: dict[int, Table] = field(default_factory=dict)
    last: dict[int, dict[str, int]] = field(default_factory=dict)
    records: int = 0
    repeated: int = 0
    resets: int = 0


def folded(kafka: str, prefix: str) -> Folded:
    """Fold all source topics: one after the other, each in its order, each record once."""
    answer = Folded()
    tables: dict[int, Ordered] = {}
    told = read(kafka, prefix, [topic.name for topic in SOURCES])
    partitions = 1 + max(place.partition for place in told)
    with threadpool_limits(1):  # as in a worker: scores are then equal to the byte
        for (topic, partition), messages in told.items():
            table = tables.setdefault(partition, Ordered())
            answer.records += len(messages)
            if messages:
                answer.last.setdefault(partition, {})[topic] = messages[-1].offset() or 0
            moved: dict[int, int] = {}
            for message in messages:
                event = event_of(message, topic, partitions)
                source = moved_from(message)
                if event is None or source is FORGED:
                    continue
                if source is not None:
                    if source.offset <= moved.get(source.partition, -1):
                        answer.repeated += 1
                        continue
                    moved[source.partition] = source.offset
                answer.resets += isinstance(event, Reset)
                _, sent_ms = message.timestamp()
                heard = Heard(message.offset() or 0, sent_ms)
                table.take(changes_of(event, table, heard))
                if isinstance(event, Granted | Renewed | Released | Skipped | Reset):
                    grants = answer.grants.setdefault(partition, Ordered())
                    grants.take(changes_of(event, grants, heard))
    for table in tables.values():
        table.sweep()
    answer.rows = {partition: dict(table) for partition, table in sorted(tables.items())}
    return answer


def event_of(message: Message, topic: str, partitions: int) -> Event | None:
    """The event of a record, if it is one and in its own partition."""
    number = message.partition() or 0
    record = Record(topic, number, message.key(), message.value(), headers_of(message))
    try:
        event = decode(record, topic)
    except MalformedEvent:
        return None
    return event if partition_of(event.project_id.encode(), partitions) == number else None


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """A record's headers, in order."""
    told: Any = message.headers()
    return list(told or [])


class Source(NamedTuple):
    """Where a record was before it was moved."""

    partition: int
    offset: int


FORGED = Source(-1, -1)  # of a record that says it was moved, but not from where: it is no event


def moved_from(message: Message) -> Source | None:
    """Where a record was before, if it was moved: of several headers the last counts, and workers write them well."""
    told = [text for name, text in headers_of(message) if name == MOVED_FROM]
    if not told:
        return None
    match = re.fullmatch(rb"(\d{1,9}):(\d{1,18}):[0-9a-f]{8}", told[-1] or b"")
    return Source(int(match[1]), int(match[2])) if match else FORGED


def changes_of(event: Event, rows: Table, heard: Heard) -> list[Change]:
    """The rows that an event changes; none if it turns out to be malformed."""
    try:
        if isinstance(event, ArtifactsInferred):
            given = columns(event)
            if event.subset == "seen":
                return changes(event, rows, heard, given, learnt(given))
            seen = seen_of([value for _, value in rows.scan(references_of(event))])
            return changes(event, rows, heard, given, score(given, seen, multi_label=event.multi_label))
        return changes(event, rows, heard)
    except MalformedEvent:
        return []


@dataclass(frozen=True)
class Kept:
    """What somebody keeps of a partition.

    rows: about projects.
    progress: the offset up to which each topic is applied.
    offset: of the last record of the changelog that is in them; -1 if none is.
    """

    rows: dict[bytes, bytes]
    progress: dict[str, int]
    offset: int


def kept(everything: Rows, offset: int) -> Kept:
    """The rows of a partition, told apart."""
    rows = {key: value for key, value in everything.items() if not key.startswith(OF_NOBODY)}
    own = {key: value for key, value in everything.items() if key.startswith(OF_NOBODY)}
    return Kept(rows, {name_of(key): unpack_int(value) for key, value in own.items()}, offset)


def name_of(key: bytes) -> str:
    """A row of a partition's own: of a progress row, its topic."""
    if key.startswith(PROGRESS):
        return key[len(PROGRESS) :].decode(errors="backslashreplace")
    return repr(key)


@dataclass
class Appended:
    """The changelog: what was committed to it, and what should not have been.

    violations: progress rows that repeat or go back, as when an event was applied twice.
    """

    records: dict[int, list[tuple[int, bytes, bytes | None]]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def end(self, partition: int) -> int:
        """The offset of the last record of a partition; -1 if there is none."""
        return self.records[partition][-1][0] if self.records[partition] else -1

    def kept(self, partition: int, offset: int | None = None) -> Kept:
        """The last value of each key of a partition, as it was at an offset; without one, as it is."""
        end = self.end(partition) if offset is None else offset
        everything: dict[bytes, bytes] = {}
        for at, key, value in self.records[partition]:
            if at > end:
                break
            if value is None:
                everything.pop(key, None)
            else:
                everything[key] = value
        return kept(everything, end)

    @property
    def rows(self) -> dict[int, dict[bytes, bytes]]:
        """The rows of every partition, as they are, without progress rows."""
        return {partition: self.kept(partition).rows for partition in self.records}


def changelog(kafka: str, prefix: str) -> Appended:
    """The changelog as whoever restores from it reads it, which nobody writes to meanwhile."""
    told = read(kafka, prefix, [CHANGELOG.name], committed=True)
    return appended(
        {
            place.partition: [(message.offset() or 0, message.key() or b"", message.value()) for message in messages]
            for place, messages in told.items()
        }
    )


def appended(records: dict[int, list[tuple[int, bytes, bytes | None]]]) -> Appended:
    """A changelog of some records, looked at."""
    answer = Appended(records)
    for partition, told in records.items():
        last: dict[bytes, int] = {}
        for offset, key, value in told:
            if not key.startswith(PROGRESS):
                continue
            before, now = last.get(key, -1), -1 if value is None else unpack_int(value)
            if now <= before and name_of(key) != KEPT:
                what = "is told again" if now == before else f"goes back from {before}"
                where = f"partition {partition}, changelog offset {offset}"
                answer.violations.append(f"{where}: progress {now} of {name_of(key)} {what}")
            last[key] = now
    return answer


def databases(folder: Path) -> Iterator[tuple[int, Path]]:
    """The RocksDBs of a worker, by partition.

    folder: the worker's, or one around it. Faust names them; those that were set aside are left out.
    """
    for path in sorted(folder.rglob("state-*.db")):
        number = re.fullmatch(rf"{TABLE}-(\d+)\.db", path.name)
        if number and (path / "CURRENT").exists():  # without it the worker ended while it made the database
            yield int(number[1]), path


def rows(folder: Path) -> dict[int, Kept]:
    """What a worker that has ended keeps on its disk, by partition.

    folder: as `databases`.
    """
    return {number: rows_of(path) for number, path in databases(folder)}


def rows_of(path: Path) -> Kept:
    """What a database that nobody uses keeps of a partition.

    Raises:
        Exception: a file of it is damaged; rocksdict has no class of its own for that.
    """
    everything = whole(path)
    found = {key: value for key, value in everything.items() if not key.startswith(BOOKKEEPING)}
    return kept(found, int(everything.get(OFFSET, b"-1")))


def whole(path: Path) -> dict[bytes, bytes]:
    """All that is in a database that nobody uses."""
    database: Any = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only(False))
    try:
        everything: dict[bytes, bytes] = dict(database.items())
        end = database.iter()  # at a block that cannot be read `items` just ends
        end.seek(max(everything, default=b""))
        if end.valid():
            end.next()
        end.status()
        del end
    finally:
        database.close()
    return everything


def differences(here: Tables, there: Tables) -> str:
    """What is not the same in two places, in a few lines; empty if all is.

    >>> print(differences({6: {prefix_of("p1", Kind.GRANT): b"a"}}, {}))
    partition 6: 1 only here: GRANT of p1
    """
    lines = []
    for partition in sorted({*here, *there}):
        ours, theirs = here.get(partition, {}), there.get(partition, {})
        for what, keys in (
            ("only here", ours.keys() - theirs.keys()),
            ("only there", theirs.keys() - ours.keys()),
            ("not the same", {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}),
        ):
            if keys:
                told = [described(key, ours.get(key), theirs.get(key)) for key in sorted(keys)[:SHOWN]]
                more = ", ..." if len(keys) > SHOWN else ""
                lines.append(f"partition {partition}: {len(keys)} {what}: {', '.join(told)}{more}")
    return "\n".join(lines)


def described(key: bytes, ours: bytes | None, theirs: bytes | None) -> str:
    """A row in words: its kind, its project, what is left of its key, and where it has two values, both."""
    length = 2 + int.from_bytes(key[:2], "big")
    project, rest = key[2:length].decode(errors="backslashreplace"), key[length + 1 :]
    kinds = {int(kind): kind.name for kind in Kind}
    kind = kinds.get(key[length], str(key[length])) if len(key) > length else "no kind"
    values = f" ({short(ours)} / {short(theirs)})" if ours is not None and theirs is not None else ""
    return f"{kind} of {project}{f' {rest.hex()}' if rest else ''}{values}"


def short(value: bytes) -> str:
    """A value in hex, its first bytes only."""
    return value[:24].hex() + ("..." if len(value) > 24 else "")


class Grant(NamedTuple):
    """Who has a medium (tables/rows.py, `medium_bytes`), and whether for good, as what is suggested."""

    medium: bytes
    holder: int
    endless: bool


def granted(rows: Rows, project: str) -> Iterator[Grant]:
    """The media of a project that rows say were granted."""
    prefix = prefix_of(project, Kind.GRANT)
    for key, value in rows.items():
        if key.startswith(prefix):
            [row] = np.frombuffer(value, GRANT)
            yield Grant(key[len(prefix) :], int(row["holder"]), bool(row["until"] == FOREVER))


def leased(rows: Rows, project: str) -> dict[str, LeaseRow]:
    """The leases of a project, by request id."""
    prefix = prefix_of(project, Kind.LEASE)
    leases = [LeaseRow.unpack(value) for key, value in rows.items() if key.startswith(prefix)]
    return {each.told.request_id: each for each in leases}
