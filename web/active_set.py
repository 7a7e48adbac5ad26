"""The active set: what is shown, and how media are marked as suggested so that nobody else gets them."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import msgspec
import orjson
from aiokafka.errors import KafkaError

from streams.errors import NotReady
from streams.events import Event, Granted, Released, Renewed, Reset, Skipped
from streams.partition import partition_of
from streams.record import Record
from streams.settings import Settings
from streams.times import iso
from tables.leases import LeaseRow, holder_of, lease_of
from tables.made import Made, Place
from tables.order import Order, eligible
from tables.partition import Partition
from tables.pool import Pool
from tables.ranking import Ranking
from tables.rows import HASH_BYTES, Kind, UploadRow, prefix_of
from tables.state import State
from web.answers import ActiveSet, OrderTold
from web.items import items, pick, written
from web.problems import Whole, tag_of
from web.query import Query

EVENTS = "active_set_events"
TRIES = 3  # with what is there; after a reset; after somebody else was first
KEPT = 10  # answers to the same question, each with another limit, while nothing changes
LOOKS = 2  # more, at what there is, before suggestions begin anew while something changes
PATIENCE_S = 10.0  # of a request that marks, until our own agent has applied what it published

NO_MEDIA = "no media: none were uploaded, or all were deleted"
DONE = "nothing to annotate: no medium is left without an annotation"
LEFT = "every medium that is left "
ANEW = "; the next request that marks begins anew"
ANNOTATED = "every medium of the lease was annotated meanwhile"


@dataclass(frozen=True)
class Asker:
    """Who wants media to be granted: nobody in particular and for good, or a user until a time, which is a lease.

    request_id: names the lease. attempt: the first to make; nothing was granted to those before it.
    """

    request_id: str | None = None
    attempt: int = 0
    user_id: str | None = None
    ttl_ms: int | None = None


class Got(NamedTuple):
    """What was granted, as it is answered and as places; the lease that has it, if it is one."""

    answer: ActiveSet
    places: list[Place]
    lease: LeaseRow | None = None


class Kept:
    """A set that was told before, and as it goes over the wire: written once, as long as nothing of it changes."""

    def __init__(self, shown: bytes, marks: bytes, why: str | None) -> None:
        """Its members but those that may change without it are written.

        shown: its media, in JSON. marks: what is another whenever these are. why: there are none.
        """
        reason = b"" if why is None else b',"reason":' + orjson.dumps(why)
        self._raw = b'{"active_set":' + shown + reason
        self._mark = blake2b(marks + reason, digest_size=12).digest()
        self._last: tuple[object, Whole] | None = None

    def whole(self, what: object, more: Callable[[], dict[str, Any]]) -> Whole:
        """All of it, with more members. what: the same as before if these are."""
        if self._last is None or self._last[0] != what:
            rest = orjson.dumps(more())
            self._last = what, Whole(self._raw + b"," + rest[1:], tag_of(self._mark + rest))
        return self._last[1]


@dataclass(frozen=True)
class ActiveSets:
    """Answers for the projects whose partitions are here.

    publish: publishes a record and returns its offset when Kafka has it.
    now: milliseconds since the epoch. served: told of each set that is served how old its order is (seconds), and
    whether nothing has changed since.
    """

    settings: Settings
    state: State
    publish: Callable[[Record], Awaitable[int]]
    now: Callable[[], int]
    served: Callable[[float, bool], object] = lambda *_: None
    # One at a time chooses for a project.
    locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def shown(self, project: str, query: Query) -> ActiveSet:
        """The active set as it is now; nothing is marked.

        Raises:
            NotReady, UnknownProject, UnknownTask, BadQuery.
        """
        whole = await self.written(project, query)
        shown: ActiveSet = orjson.loads(whole.raw)
        return shown

    async def written(self, project: str, query: Query) -> Whole:
        """The same as it goes over the wire.

        Raises:
            as `shown`.
        """
        partition = self.home(project)
        ranking = await partition.ranking(project)
        now = self.now()
        made = await ranking.made(query.task_id, now)
        made.look()
        kept: Kept | None = made.answers.get(query.limit)
        if kept is None:
            places, made = await ranking.best(query.task_id, query.limit, now)
            partition.check()
            pool = ranking.pool
            uploads = partial(self._uploads, partition=partition, project=project)
            shown, marks = written(places, uploads, pool, pool.project.tasks, made.shown)
            kept = Kept(shown, marks, None if places else why_none(made.order))
            if len(made.answers) < KEPT:
                made.answers[query.limit] = kept
        partition.check()
        self._served(made, now, current=ranking.current(made))
        what = {**partition.progress}, {**partition.ends}, made.truth.until, made.due(now)

        def more() -> dict[str, Any]:
            told = order_told(ranking, made, now)
            return {"as_of": ranking.as_of(made), "lag": partition.lag(), "order": told}

        return kept.whole(what, more)

    def _served(self, made: Made, now: int, *, current: bool) -> None:
        """A set was served: tell how old its order is, or if it is not current, what it does not know."""
        self.served(max(0.0, (now - made.at) / 1000) if current else made.old_s(now), current)

    async def suggested(self, project: str, query: Query, workspace: str) -> ActiveSet:
        """The active set, marked as suggested: until nothing else is left, no other request gets these media.

        workspace: whose project it must be.

        Raises:
            NotReady, UnknownProject, UnknownTask, BadQuery.
        """
        partition = self.home(project)
        ranking = await partition.ranking(project)
        ranking.pool.check_workspace(workspace)
        async with self.alone(project):
            return (await self.granted(query, Asker(), ranking, partition)).answer

    @asynccontextmanager
    async def alone(self, project: str) -> AsyncIterator[None]:
        """While nobody else chooses or changes what is granted in a project; artifacts let who does go first.

        Raises:
            NotReady: it takes too long.
        """
        lock = self.locks.setdefault(project, asyncio.Lock())
        try:
            with self.state.turns.first():
                async with asyncio.timeout(PATIENCE_S), lock:
                    yield
        except TimeoutError as why:
            raise NotReady(f"what was chosen could not be marked within {PATIENCE_S:.0f} s") from why

    async def granted(self, query: Query, asker: Asker, ranking: Ranking, partition: Partition) -> Got:
        """The media that the log granted to this request, best first; none if nothing is left.

        Suggestions begin anew when there is nothing for anybody, not when others may have what this user skipped.
        To be asked for while nobody else chooses (`alone`).
        """
        pool, looks, attempt = ranking.pool, LOOKS, asker.attempt
        for _ in range(TRIES + LOOKS):
            request_id = asker.request_id or uuid.uuid4().hex
            now = self.now()
            places, made = await ranking.best(query.task_id, query.limit, now, asker.user_id, request_id)
            partition.check()
            order = order_told(ranking, made, now)
            about, current = self.about(pool), ranking.current(made)
            if places:
                uploads = self._uploads(places, partition, pool.project_id)
                granted = Granted(
                    **about,
                    request_id=request_id,
                    task_id=query.task_id,
                    user_id=asker.user_id,
                    media=[pick(each, uploads[each.medium[:HASH_BYTES]]) for each in places],
                    expires_at=None if asker.ttl_ms is None else about["timestamp"] + asker.ttl_ms,
                    attempt=attempt,
                )
                lease = None if asker.ttl_ms is None else await self.leased(granted, partition)
                offset = await self.applied(granted, partition) if lease is None else lease.offset
                holder, now = holder_of(request_id, attempt), self.now()
                ours = [each for each in places if pool.holder(each.medium, now) == holder]
                # Annotated meanwhile, or of a task that is gone: nothing may go wrong with what is granted.
                may = eligible(pool, query.task_id)
                left = [each for each in ours if may(each.medium)]
                if left or (ours and lease is not None):
                    self._served(made, now, current=current)
                    as_of = {**ranking.as_of(made), EVENTS: offset}
                    return Got(self.answer(left, ranking, partition, as_of, order, ANNOTATED), left, lease)
                attempt += lease is not None
            elif not resets(made.order):
                why = why_none(made.order)
                return Got(self.answer([], ranking, partition, ranking.as_of(made), order, why), [])
            elif looks and not ranking.current(made):
                looks -= 1  # perhaps something is left now
            else:
                await self.applied(Reset(**about, request_id=request_id), partition)
        raise NotReady("what was chosen went to others, and so did what was chosen then")

    def about(self, pool: Pool) -> dict[str, Any]:
        """What every event of a project tells."""
        return {
            "workspace_id": pool.project.workspace_id,
            "project_id": pool.project_id,
            "timestamp": self.now(),
        }

    async def applied(self, event: Event, partition: Partition) -> int:
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

    async def leased(self, event: Granted | Renewed | Released | Skipped, partition: Partition) -> LeaseRow:
        """Publish an event of a lease and wait until it is applied; the answer is the lease as it left it.

        Raises:
            NotReady: as `applied`; or somebody else has changed the lease since.
        """
        offset = await self.applied(event, partition)
        lease = lease_of(partition.store, event.project_id, event.request_id)
        if lease is None or lease.offset != offset:
            raise NotReady("the lease was granted or changed by somebody else meanwhile: send it again")
        return lease

    def home(self, project: str) -> Partition:
        """The partition of a project, which is here.

        Raises:
            NotReady: it is not.
        """
        return self.state.owned(partition_of(project.encode(), self.settings.partitions))

    def _uploads(self, places: Sequence[Place], partition: Partition, project: str) -> dict[bytes, UploadRow]:
        wholes = list({place.medium[:HASH_BYTES] for place in places})
        rows = partition.store.get([prefix_of(project, Kind.UPLOAD) + whole for whole in wholes])
        return {whole: UploadRow.unpack(row) for whole, row in zip(wholes, rows, strict=True) if row is not None}

    def answer(
        self,
        places: list[Place],
        ranking: Ranking,
        partition: Partition,
        as_of: dict[str, int],
        order: OrderTold,
        why: str,
    ) -> ActiveSet:
        """An active set as clients see it.

        as_of: how far each topic is applied in it. order: what it is from. why: the reason of an empty one.
        """
        pool, tasks = ranking.pool, ranking.pool.project.tasks
        shown = items(places, self._uploads(places, partition, pool.project_id), pool, tasks)
        answer: ActiveSet = {"active_set": shown, "as_of": as_of, "lag": partition.lag(), "order": order}
        if not places:
            answer["reason"] = why
        return answer


def order_told(ranking: Ranking, made: Made, now: int) -> OrderTold:
    """What is told of the order that is answered from. now: milliseconds since the epoch."""
    if ranking.current(made) and not made.due(now):
        return {"current": True}
    return {"current": False, "made_at": iso(made.at)}


def resets(order: Order) -> bool:
    """Whether suggestions begin anew when nothing is found in an order: nothing is left of it for anybody else."""
    return order.suggested > 0 and bool(order.hidden[order.best].all())


def why_none(order: Order) -> str:
    """Why nothing is found in an order."""
    ways = {
        "was skipped": len(order.best) > 0,
        "is leased to somebody": len(order.given) > order.suggested,
        "was suggested already": order.suggested > 0,
    }
    if not any(ways.values()):
        return DONE if len(order.media) else NO_MEDIA
    return LEFT + " or ".join(way for way, so in ways.items() if so) + (ANEW if resets(order) else "")
