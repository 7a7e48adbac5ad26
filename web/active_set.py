"""The active set: what is shown, and how media are marked as suggested so that nobody else gets them."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from aiokafka.errors import KafkaError

from streams.errors import NotReady
from streams.events import Event, Granted, Pick, Reset
from streams.partition import partition_of
from streams.record import Record
from streams.settings import Settings
from tables.partition import Partition
from tables.ranking import Made, Place, Ranking
from tables.rows import HASH_BYTES, Kind, UploadRow, number_of, prefix_of
from tables.state import State
from web.items import items, medium_of
from web.query import Query

EVENTS = "active_set_events"
TRIES = 3  # with what is there; after a reset; after somebody else was first
LOOKS = 2  # more, at what there is, before suggestions begin anew while something changes
PATIENCE_S = 10.0  # of a request that marks, until our own agent has applied what it published

NO_MEDIA = "no media: none were uploaded, or all were deleted"
DONE = "nothing to annotate: no medium is left without an annotation"
LEASED = "every medium that is left is leased to somebody"
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
        ranking = await partition.ranking(project)
        places, made = await ranking.best(query.task_id, query.limit, self.now())
        partition.check()
        return self._answer(places, made, ranking, partition, ranking.as_of(made))

    async def suggested(self, project: str, query: Query, workspace: str) -> dict[str, Any]:
        """The active set, marked as suggested: until nothing else is left, no other request gets these media.

        workspace: whose project it must be.

        Raises:
            NotReady, UnknownProject, UnknownTask, BadQuery.
        """
        partition = self._home(project)
        ranking = await partition.ranking(project)
        ranking.pool.check_workspace(workspace)
        try:
            async with asyncio.timeout(PATIENCE_S), self.locks.setdefault(project, asyncio.Lock()):
                return await self._granted(project, query, ranking, partition)
        except TimeoutError as why:
            raise NotReady(f"what was chosen could not be marked within {PATIENCE_S:.0f} s") from why

    async def _granted(self, project: str, query: Query, ranking: Ranking, partition: Partition) -> dict[str, Any]:
        """An answer with the media that the log granted to this request, best first; none if nothing is left."""
        pool, looks = ranking.pool, LOOKS
        for _ in range(TRIES + LOOKS):
            places, made = await ranking.best(query.task_id, query.limit, self.now())
            partition.check()
            about: dict[str, Any] = {
                "workspace_id": pool.project.workspace_id,
                "project_id": project,
                "timestamp": self.now(),
            }
            request_id = uuid.uuid4().hex
            if places:
                uploads = self._uploads(places, partition, project)
                picks = [
                    Pick(
                        medium=medium_of(each, uploads[each.medium[:HASH_BYTES]]),
                        rank=each.rank,
                        score=each.score,
                        uploaded_at=each.uploaded_at,
                    )
                    for each in places
                ]
                granted = Granted(**about, request_id=request_id, task_id=query.task_id, media=picks)
                offset = await self._applied(granted, partition)
                eligible, holder, now = ranking.eligible(made), number_of(request_id), self.now()
                ours = [
                    each
                    for each in places
                    if pool.holder(each.medium) == holder
                    # It may have been annotated or deleted meanwhile.
                    and eligible(each.medium)
                    and not pool.free(each.medium, now)
                ]
                if ours:
                    as_of = {**ranking.as_of(made), EVENTS: offset}
                    return self._answer(ours, made, ranking, partition, as_of)
            elif made.order.suggested and looks and not ranking.current(made):
                looks -= 1  # perhaps something is left now
            elif made.order.suggested:
                await self._applied(Reset(**about, request_id=request_id), partition)
            else:
                return self._answer([], made, ranking, partition, ranking.as_of(made))
        raise NotReady("what was chosen went to others, and so did what was chosen then")

    async def _applied(self, event: Event, partition: Partition) -> int:
        """Publish an event and wait until our own agent has applied it: then it is true, and will stay so.

        The answer is its offset.

        Raises:
            NotReady: Kafka did not take it, or the partition went before that.
        """
        partition.check()
        record = Record(
            self.settings.name(EVENTS), partition.number, event.project_id.encode(), msgspec.json.encode(event), []
        )
        try:
            offset = await self.publish(record)
        except (KafkaError, OSError) as why:
            raise NotReady(f"Kafka did not take what was chosen: {why!r}") from why
        await partition.reached(EVENTS, offset)
        return offset

    def _home(self, project: str) -> Partition:
        return self.state.owned(partition_of(project.encode(), self.settings.partitions))

    def _uploads(self, places: list[Place], partition: Partition, project: str) -> dict[bytes, UploadRow]:
        wholes = list({place.medium[:HASH_BYTES] for place in places})
        rows = partition.store.get([prefix_of(project, Kind.UPLOAD) + whole for whole in wholes])
        return {whole: UploadRow.unpack(row) for whole, row in zip(wholes, rows, strict=True) if row is not None}

    def _answer(
        self, places: list[Place], made: Made, ranking: Ranking, partition: Partition, as_of: dict[str, int]
    ) -> dict[str, Any]:
        pool, tasks, order = ranking.pool, ranking.pool.project.tasks, made.order
        shown = items(places, self._uploads(places, partition, pool.project_id), pool, tasks)
        answer: dict[str, Any] = {"active_set": shown, "as_of": as_of, "lag": partition.lag()}
        if not places:
            left = SUGGESTED if order.suggested else LEASED
            answer["reason"] = left if order.taken else DONE if len(order.media) else NO_MEDIA
        return answer
