"""A partition that a worker owns: its rows, how they change, and the rankings over them.

Events are folded one after the other, each on what those before it made of the rows; what is folded is written in
groups: to Kafka, to RocksDB, to who looks on, in this order. So the cost of a transaction is shared, and whoever reads
sees nothing that could be lost.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from streams.errors import NotReady, UnknownProject
from streams.moves import Origin
from tables.batch import Writer
from tables.gaps import Gaps, Verdict
from tables.leases import Live
from tables.pending import Pending
from tables.pool import READ
from tables.ranking import Ranking
from tables.rows import (
    KEPT,
    SWEEPS,
    Change,
    Kind,
    Rows,
    moved_name,
    pack_int,
    prefix_of,
    progress_key,
    project_of,
    unpack_int,
)
from tables.store import Store, batch_of
from tables.sweep import Sweeper

log = logging.getLogger("activeset.state")

LEASES = "active_set_events"  # the topic that tells of them
LEAVE_S = 8.0  # twice this is less than the rebalance timeout (streams/app.py)
SLICE = 2000  # rows of a scan between two steps of the event loop: some milliseconds
GROUP = 16  # events in a transaction, at most
GROUP_BYTES = 8 * 1024 * 1024  # of rows that wait; one event may have more by itself
GROUP_ROWS = 2048  # that wait, likewise: to write them is one step of the event loop
STEP_ROWS = 200  # of a group whose parts are a step each; of fewer all that is done at once

# Answers at once what rows an event changes, from the rows there are.
Fold = Callable[[Rows], list[Change]]


class At(NamedTuple):
    """Where a record stands: its topic (without a prefix), partition and offset, and the generation it came in.

    origin: where it came first, if it was moved here; a record is moved again only by a mistake, and counts once.
    """

    topic: str
    partition: int
    offset: int
    generation: int | None
    origin: Origin | None = None

    def marks(self) -> dict[str, int]:
        """How far the progress rows are once it is applied."""
        moved = {} if self.origin is None else {moved_name(self.topic, self.origin.partition): self.origin.offset}
        return {self.topic: self.offset, **moved}


class Applied(StrEnum):
    """What came of an event."""

    NOW = "now"
    BEFORE = "before"  # it had been applied already, and came again
    ELSEWHERE = "elsewhere"  # the partition is not ours any more: whoever has it reads the event there


@dataclass(frozen=True)
class Entry:
    """An event that is folded and waits to be written."""

    marks: dict[str, int]
    changes: list[Change]
    weight: int
    sent: "asyncio.Future[int] | None"
    done: "asyncio.Future[Applied]"
    told: Applied
    visible: bool = True  # no, if its rows go because nobody can see them


@dataclass
class Partition:
    """What a worker holds of a partition that it owns.

    progress: the offset up to which each topic is applied; what is folded may be further.
    targets: the ends of the topics that must be applied before anybody is answered; ends: the latest that are known.
    caught_up: whether they are. wrote: told how many rows a group had that is written.
    leases: those of the projects that were asked for, and those that were granted here.
    """

    number: int
    generation: int
    store: Store
    writer: Writer
    progress: dict[str, int] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    caught_up: bool = False
    rankings: dict[str, Ranking] = field(default_factory=dict)
    building: asyncio.Lock = field(default_factory=asyncio.Lock)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    closed: bool = False  # nothing more is folded
    gone: bool = False  # nothing more is touched
    written: int = 0  # groups
    wrote: Callable[[int], object] = lambda _: None
    leases: Live = field(default_factory=Live)
    patience_ms: int = 0  # with a batch whose last chunk does not come (tables/ranking.py)

    def __post_init__(self) -> None:
        self._folded: dict[str, int] = {}
        self._gaps = Gaps()
        self._queue: list[Entry] = []
        self._writing: asyncio.Task[None] | None = None
        self._failed: Exception | None = None

    def restored(self, ends: dict[str, int], needed: Iterable[str]) -> None:
        """Begin: all rows are here.

        ends: of each topic, now. needed: the topics that must be applied up to there before anybody is answered.
        """
        self.rows = Pending(self.store)
        head = len(progress_key(""))
        self.progress = {key[head:].decode(): unpack_int(row) for key, row in self.store.scan(progress_key(""))}
        self._folded = dict(self.progress)
        self.ends = ends
        self.targets = {topic: ends[topic] for topic in needed}
        self.sweeper = Sweeper(self.rows, self.tend)
        self.sweeper.start()

    def judge(self, at: At) -> Verdict:
        """What to do with a record that has come."""
        return self._gaps.judge(at.topic, self.folded(at.topic), at.offset)

    def folded(self, topic: str) -> int:
        """The offset up to which a topic is folded; -1 if nothing was."""
        return self._folded.get(topic, -1)

    async def apply(self, at: At, fold: Fold, sent: "asyncio.Future[int] | None" = None) -> "asyncio.Future[Applied]":
        """Fold an event, and have it written with those before it; the answer tells when that is done, and what came.

        Waits until there is room. An error of Kafka is told by the answer, and the worker must end.

        fold: what it raises leaves everything as it is.
        sent: what the event had published, which must be in Kafka before it counts as applied.
        """
        async with self.moved:
            await self.moved.wait_for(self._room)
        done: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        if self._failed is not None:
            done.set_exception(self._failed)
        elif self.closed:
            done.set_result(Applied.ELSEWHERE)
        elif at.offset <= self.folded(at.topic):
            done.set_result(Applied.BEFORE)
        elif at.origin is not None and at.origin.offset <= self.folded(moved_name(at.topic, at.origin.partition)):
            self._enter({at.topic: at.offset}, [], sent, done, Applied.BEFORE)
        else:
            self._enter(at.marks(), fold(self.rows), sent, done, Applied.NOW)
        return done

    async def keep(self) -> None:
        """Write something, so that Kafka does not forget the writer of a partition in which nothing happens.

        Not a new writer instead: who wakes with one would shut out whoever has the partition by then.
        """
        if not self._over():
            await self._alone({KEPT: 0}, [])

    def _enter(
        self,
        marks: dict[str, int],
        changes: list[Change],
        sent: "asyncio.Future[int] | None",
        done: "asyncio.Future[Applied]",
        told: Applied,
        *,
        visible: bool = True,
    ) -> None:
        ranges = self.rows.fold(changes)
        self._folded |= marks
        weight = sum([len(key) + len(value) for key, value in changes if value is not None])
        self._queue.append(Entry(marks, changes, weight, sent, done, told, visible))
        if not self.writing:
            self._writing = asyncio.create_task(self._write())
        if SWEEPS in ranges:
            self.sweeper.start()

    async def tend(self, fold: Fold) -> bool:
        """Take away rows that nobody can see, between events; no is answered if the partition went.

        Raises:
            Exception: they could not be written; the worker must end.
        """
        async with self.moved:
            await self.moved.wait_for(self._room)
        if self._over():
            return False
        changes = fold(self.rows)
        return not changes or await self._alone({}, changes, visible=False) is Applied.NOW

    async def _alone(self, marks: dict[str, int], changes: list[Change], *, visible: bool = True) -> Applied:
        """Write rows that no event asks for; what came of it."""
        done: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._enter(marks, changes, None, done, Applied.NOW, visible=visible)
        return await done

    def _room(self) -> bool:
        full = (
            len(self._queue) >= GROUP
            or sum(each.weight for each in self._queue) >= GROUP_BYTES
            or sum(len(each.changes) for each in self._queue) >= GROUP_ROWS
        )
        return not full or self._over()

    def _over(self) -> bool:
        return self.closed or self._failed is not None

    async def _write(self) -> None:
        """Write what waits, group by group, until nothing does."""
        while self._queue:
            group, self._queue = self._queue, []
            written = False
            try:
                written = await self._written(group, self.rows.take())
            except Exception as why:  # noqa: BLE001 - told to whoever waits, and ends the worker
                self._failed = why
                group, self._queue = [*group, *self._queue], []
            for each in group:
                if each.done.done():  # whoever waited has gone
                    continue
                if written:
                    each.done.set_result(each.told)
                elif self._failed is None or self.gone:
                    each.done.set_result(Applied.ELSEWHERE)
                else:
                    each.done.set_exception(self._failed)
            async with self.moved:
                self.moved.notify_all()

    async def _written(self, group: list[Entry], rows: list[Change]) -> bool:
        """Write what came of events: to Kafka, here, to who looks on.

        The last rows tell how far each topic is. If the partition was let go of meanwhile, nothing more is done, and
        the answer is no: what Kafka has by then is restored by the next owner.
        """
        marks: dict[str, int] = {}
        for each in group:
            marks |= each.marks
            if each.sent is not None:
                await each.sent
        changes = [*rows, *((progress_key(name), pack_int(offset)) for name, offset in marks.items())]
        await self._step(len(rows))
        batch = batch_of(changes)
        await self._step(len(rows))
        if self.gone:
            return False
        offset = await self.writer.append(changes)
        if self.gone:
            return False
        self.store.write_batch(batch, offset, self.writer.written_ms)
        self.written += 1
        self.rows.written()
        self.wrote(len(changes))
        for each in group:
            if LEASES in each.marks:
                self.leases.update(each.changes)
            self._tell(each)
        self.progress |= marks
        return True

    async def _step(self, rows: int) -> None:
        """End a step of the event loop, if what was done with so many rows, and what follows, are too much for one."""
        if rows > STEP_ROWS:
            await asyncio.sleep(0)

    def _tell(self, entry: Entry) -> None:
        """Tell the ranking of the project that an entry is about; a row that tells what to sweep is of none."""
        project = next(filter(None, (project_of(key) for key, _ in entry.changes)), None)
        if project is None or project not in self.rankings:
            return
        if entry.visible:
            self.rankings[project].update(entry.changes)
        else:
            self.rankings[project].sweep(entry.changes)
            if (prefix_of(project, Kind.PROJECT), None) in entry.changes and not self.building.locked():
                del self.rankings[project]  # it is gone, and so is the project

    async def leave(self) -> bool:
        """Let go, once what is folded is written; or after a while, and Kafka will refuse what is still sent.

        The answer tells whether everything was written.
        """
        self.closed = True
        self.sweeper.stop()
        try:
            if self._writing is not None:
                await asyncio.wait_for(asyncio.shield(self._writing), LEAVE_S)
        except TimeoutError:
            log.warning("partition %d: left with events in hand, which its next owner reads", self.number)
        self.gone = True
        async with self.moved:
            self.moved.notify_all()
        try:
            async with asyncio.timeout(LEAVE_S):
                await self.writer.stop()
        except TimeoutError:
            log.warning("partition %d: its writer did not stop within %.0f s", self.number, LEAVE_S)
            return False
        return not self.writing and self._failed is None

    @property
    def writing(self) -> bool:
        """Whether events are folded that are not written."""
        return self._writing is not None and not self._writing.done()

    @property
    def failure(self) -> Exception | None:
        """What prevents that anything more is written: the worker must end."""
        return self._failed or self.sweeper.failure

    def check(self) -> None:
        """See that the partition is still ours.

        Raises:
            NotReady: it went.
        """
        if self.closed:
            raise NotReady(f"partition {self.number} went to another worker")

    async def reached(self, topic: str, offset: int) -> None:
        """Wait until a record of a topic is applied, by the owner that this worker was when it asked.

        Raises:
            NotReady: the partition went before that.
        """
        async with self.moved:
            await self.moved.wait_for(lambda: self.gone or self.progress.get(topic, -1) >= offset)
        if self.progress.get(topic, -1) < offset:
            self.check()

    def as_of(self) -> dict[str, int]:
        """The offset up to which each topic is applied."""
        return {topic: self.progress[topic] for topic in sorted(self.progress.keys() & self.ends.keys())}

    def lag(self) -> dict[str, int]:
        """How many records of each topic that is behind were in Kafka when it was asked last, and are not applied."""
        behind = {topic: end - 1 - self.progress.get(topic, -1) for topic, end in sorted(self.ends.items())}
        return {topic: count for topic, count in behind.items() if count > 0}

    async def ranking(self, project: str) -> Ranking:
        """What is known of a project, for its ranking: built on first use, then kept up with every event.

        Raises:
            UnknownProject: no event has told of it.
            NotReady: the partition went meanwhile.
        """
        if project in self.rankings and not self.building.locked():
            self.check()
            return self.rankings[project]
        async with self.building:
            self.check()
            if project not in self.rankings:
                if self.store.get([prefix_of(project, Kind.PROJECT)]) == [None]:
                    raise UnknownProject(f"there is no project {project!r}")
                # In slices, no iterator kept between them. Events go on: what they write is in the scan, or taken here
                # already and read once more.
                ranking = self.rankings[project] = Ranking(project, self.store, self.patience_ms, self.as_of)
                try:
                    await self._build(ranking)
                except BaseException:  # whoever asked may have gone
                    del self.rankings[project]
                    raise
        self.check()
        return self.rankings[project]

    async def _build(self, ranking: Ranking) -> None:
        for kind in (*sorted(READ), Kind.LEASE):
            prefix = after = prefix_of(ranking.pool.project_id, kind)
            while rows := self.store.part(prefix, after, SLICE):
                if kind is Kind.LEASE:
                    self.leases.update(rows)
                else:
                    ranking.load(kind, rows)
                after = rows[-1][0] + b"\0"
                await asyncio.sleep(0)
                self.check()  # before the store is touched again
        await ranking.loaded()
