"""The active set: what is shown, and how media are marked as suggested so that nobody else gets them."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from streams.errors import NotReady
from streams.events import Event, Granted, Pick, Reset
from streams.partition import partition_of
from streams.record import Record
from streams.settings import Settings
from tables.ranking import Place, Pool
from tables.rows import Kind, UploadRow, number_of, prefix_of
from tables.state import Partition, State
from web.items import items, medium_of
from web.query import Query

log = logging.getLogger("activeset.web")

EVENTS = "active_set_events"
PATIENCE_S = 10.0  # until our own agent has applied what a request has published

NO_MEDIA = "no media: none were uploaded, or all were deleted"
DONE = "nothing to annotate: every medium is annotated"
SUGGESTED = "every medium that is left was suggested already; the next request that marks begins anew"


@dataclass(frozen=True)
class ActiveSets:
    """Answers for the projects whose partitions are here.

    publish: publishes a record and returns its offset when Kafka has it.
    now: milliseconds since the epoch.
    """

    settings: Settings
    state: State
    publish: Callable[[Record], Awaitable[int]]
    now: Callable[[], int]
    # One at a time chooses for a project.
    locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def shown(self, project: str, query: Query) -> dict[str, Any]:
        """The active set as it is now; nothing is marked.

        Raises:
            NotReady, UnknownProject, UnknownTask, BadQuery.
        """
        partition = self._home(project)
        pool = await self.state.pool(partition, project)
        places = pool.top(query.task_id, query.limit, self.now())
        return self._answer(places, query, pool, partition)

    async def suggested(self, project: str, query: Query, workspace: str) -> dict[str, Any]:
        """The active set, marked as suggested: until nothing else is left, no other request gets these media.

        workspace: whose project it must be.

        Raises:
            NotReady, UnknownProject, UnknownTask, BadQuery.
        """
        partition = self._home(project)
        pool = await self.state.pool(partition, project)
        pool.check_workspace(workspace)
        async with self.locks.setdefault(project, asyncio.Lock()):
            places = await self._granted(project, query, pool, partition)
            return self._answer(places, query, pool, partition)

    async def _granted(self, project: str, query: Query, pool: Pool, partition: Partition) -> list[Place]:
        """The media that the log granted to this request, best first; none if there is nothing to annotate."""
        for _ in range(3):  # what is there; after a reset; after somebody else was first
            places = pool.top(query.task_id, query.limit, self.now())
            about: dict[str, Any] = {
                "workspace_id": pool.project.workspace_id,
                "project_id": project,
                "timestamp": self.now(),
            }
            request_id = uuid.uuid4().hex
            if places:
                uploads = self._uploads(places, partition, project)
                picks = [
                    Pick(medium=medium_of(each, uploads[each.medium[:8]]), rank=each.rank, score=each.score)
                    for each in places
                ]
                granted = Granted(**about, request_id=request_id, task_id=query.task_id, media=picks)
                await self._applied(granted, partition)
                ours = [each for each in places if pool.holder(each.medium) == number_of(request_id)]
                if ours:
                    return ours
            elif len(pool.order(query.task_id).best):
                await self._applied(Reset(**about, request_id=request_id), partition)
            else:
                return []
        raise NotReady("what was chosen went to others, and so did what was chosen then")

    async def _applied(self, event: Event, partition: Partition) -> None:
        """Publish an event and wait until our own agent has applied it: then it is true, and will stay so."""
        record = Record(
            self.settings.name(EVENTS), partition.number, event.project_id.encode(), msgspec.json.encode(event), []
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.state.reached(partition, EVENTS, await self.publish(record))
        except TimeoutError as why:
            raise NotReady(f"what was chosen could not be marked within {PATIENCE_S:.0f} s") from why

    def _home(self, project: str) -> Partition:
        return self.state.owned(partition_of(project.encode(), self.settings.partitions))

    def _uploads(self, places: list[Place], partition: Partition, project: str) -> dict[bytes, UploadRow]:
        wholes = list({place.medium[:8] for place in places})
        rows = partition.store.get([prefix_of(project, Kind.UPLOAD) + whole for whole in wholes])
        return {whole: UploadRow.unpack(row) for whole, row in zip(wholes, rows, strict=True) if row is not None}

    def _answer(self, places: list[Place], query: Query, pool: Pool, partition: Partition) -> dict[str, Any]:
        tasks = pool.project.tasks
        shown = items(places, self._uploads(places, partition, pool.project_id), pool, tasks)
        answer: dict[str, Any] = {"active_set": shown, "as_of": dict(sorted(partition.progress.items()))}
        if not places:
            left = len(pool.order(query.task_id).best)
            answer["reason"] = SUGGESTED if left else DONE if len(pool.media()) else NO_MEDIA
        return answer
