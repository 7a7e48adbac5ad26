"""A partition that a worker owns: its rows, how they change, and the rankings over them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from streams.errors import NotReady, UnknownProject
from tables.batch import Writer
from tables.pool import READ
from tables.ranking import Ranking
from tables.rows import Change, Kind, Rows, pack_int, prefix_of, progress_key, project_of
from tables.store import Store

log = logging.getLogger("activeset.state")

LEAVE_S = 10.0  # twice this is less than the rebalance timeout (streams/app.py)
SLICE = 5000  # rows of a scan between two steps of the event loop

# Answers what rows an event changes, from the rows there are.
Decide = Callable[[Rows], Awaitable[list[Change]]]


class At(NamedTuple):
    """Where a record stands: its topic (without a prefix), partition and offset, and the generation it came in."""

    topic: str
    partition: int
    offset: int
    generation: int | None


class Applied(StrEnum):
    """What came of an event."""

    NOW = "now"
    BEFORE = "before"  # it had been applied already, and came again
    ELSEWHERE = "elsewhere"  # the partition is not ours any more: whoever has it reads the event there


@dataclass
class Partition:
    """What a worker holds of a partition that it owns. Whoever folds or writes holds the lock."""

    number: int
    generation: int
    store: Store
    writer: Writer
    progress: dict[str, int] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    building: asyncio.Lock = field(default_factory=asyncio.Lock)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    gone: bool = False

    async def apply(self, at: At, decide: Decide) -> Applied:
        """Read, decide, and write the rows of an event: to Kafka, here, to who looks on.

        The last row tells how far its topic is. If the partition was let go of meanwhile, nothing more is done: what
        Kafka has by then is restored by the next owner.
        """
        if at.offset <= self.progress.get(at.topic, -1):
            return Applied.BEFORE
        changes = [*await decide(self.store), (progress_key(at.topic), pack_int(at.offset))]
        if self.gone:
            return Applied.ELSEWHERE
        offset = await self.writer.append(changes)
        if self.gone:
            return Applied.ELSEWHERE
        self.store.write(changes, offset)
        self.progress[at.topic] = at.offset
        ranking = self.rankings.get(project_of(changes[0][0]))  # an event is about one project
        if ranking is not None:
            ranking.update(changes)
        async with self.moved:
            self.moved.notify_all()
        return Applied.NOW

    async def leave(self) -> None:
        """Let go, once the event in hand is written; or after a while, and Kafka will refuse what is still sent."""
        try:
            async with asyncio.timeout(LEAVE_S):
                async with self.lock:
                    self.gone = True
        except TimeoutError:
            log.warning("partition %d: left with an event in hand, which its next owner reads", self.number)
        self.gone = True
        async with self.moved:
            self.moved.notify_all()
        try:
            async with asyncio.timeout(LEAVE_S):
                await self.writer.stop()
        except TimeoutError:
            log.warning("partition %d: its writer did not stop within %.0f s", self.number, LEAVE_S)

    def check(self) -> None:
        """See that the partition is still ours.

        Raises:
            NotReady: it went.
        """
        if self.gone:
            raise NotReady(f"partition {self.number} went to another worker")

    async def reached(self, topic: str, offset: int) -> None:
        """Wait until a record of a topic is applied, by the owner that this worker was when it asked.

        Raises:
            NotReady: the partition went before that.
        """
        async with self.moved:
            await self.moved.wait_for(lambda: self.gone or self.progress.get(topic, -1) >= offset)
        self.check()

    async def ranking(self, project: str) -> Ranking:
        """What is known of a project, for its ranking: built on first use, then kept up with every event.

        Raises:
            UnknownProject: no event has told of it.
            NotReady: the partition went meanwhile.
        """
        async with self.building:
            if project not in self.rankings:
                if self.store.get([prefix_of(project, Kind.PROJECT)]) == [None]:
                    raise UnknownProject(f"there is no project {project!r}")
                # In slices, no iterator kept between them. Events go on: what they write is in the scan, or taken here
                # already and read once more.
                ranking = self.rankings[project] = Ranking(project)
                try:
                    await self._build(ranking)
                except BaseException:  # whoever asked may have gone
                    del self.rankings[project]
                    raise
        self.check()
        return self.rankings[project]

    async def _build(self, ranking: Ranking) -> None:
        for kind in sorted(READ):
            prefix = after = prefix_of(ranking.pool.project_id, kind)
            while rows := list(islice(self.store.scan(prefix, after), SLICE)):
                ranking.update(rows)
                after = rows[-1][0] + b"\0"
                await asyncio.sleep(0)
                self.check()  # before the store is touched again
