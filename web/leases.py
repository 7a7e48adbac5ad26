"""Leases: media that one annotator has until a time, renewed, given back or skipped.

A lease is granted as a suggestion is (web/active_set.py). Its name is that of the request, so one that is repeated
finds what it was granted, on whatever worker.
"""

from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from streams.errors import BadQuery, LeaseOver, NotTheirLease, RequestUsed, UnknownLease
from streams.events import Passed, Released, Renewed, SkipFor, Skipped
from streams.media import Id, Medium
from streams.times import iso
from tables.leases import LeaseRow, held, lease_of, left, lost
from tables.partition import Partition
from tables.pool import Pool
from tables.ranking import Ranking
from tables.rows import medium_bytes
from web.active_set import ANNOTATED, EVENTS, ActiveSets, Asker, order_told
from web.answers import ChangedLease, Lease, NewLease
from web.query import LARGEST, Query

TTL_S = 600
WEEK_S = 7 * 24 * 3600
Ttl = Annotated[int, Meta(ge=1, le=WEEK_S)]


class LeaseRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Media that a user wants: how many, of which task (without one, of the whole project), for how many seconds.

    request_id: names the lease; whoever repeats it gets what it was granted before. Made up if there is none.
    """

    user_id: Id
    limit: Annotated[int, Meta(ge=1, le=LARGEST)] = 10
    task_id: Id | None = None
    ttl_s: Ttl = TTL_S
    request_id: Id | None = None


class LeaseRenewal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lease is to end so many seconds from now."""

    user_id: Id
    ttl_s: Ttl = TTL_S


class Skip(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"skip_for": "for"}):
    """Media of a lease that are given back, and whom they are not for any more.

    media: all that the lease has, if they are left out.
    for: `me`: not for this user; `others`: for nobody but this user; `good`: for nobody.
    """

    user_id: Id
    skip_for: SkipFor
    media: Annotated[list[Medium], Meta(min_length=1, max_length=LARGEST)] | None = None


class Mine(NamedTuple):
    """A lease that its user changes, where it is, and what the event that does so tells of itself (`about`)."""

    partition: Partition
    pool: Pool
    about: dict[str, Any]
    lease: LeaseRow


@dataclass(frozen=True)
class Leases:
    """The leases of the projects whose partitions are here."""

    sets: ActiveSets

    async def lease(self, project: str, wanted: LeaseRequest, made_up: str) -> NewLease:
        """A new lease, or the one that the request was granted before; none if nothing is left.

        made_up: names the lease if the request does not.

        Raises:
            RequestUsed: the request id was another user's or task's, or its lease is over.
            NotReady, UnknownProject, UnknownTask, BadQuery.
        """
        sets, partition = self.sets, self.sets.home(project)
        ranking = await partition.ranking(project)
        ranking.pool.check_task(wanted.task_id)
        request_id = wanted.request_id or made_up
        async with sets.alone(project):
            now = sets.now()
            before = before_of(partition, ranking.pool, request_id, wanted, now)
            if before is not None and held(before, ranking.pool, now):
                return await self._told(before, ranking, partition)
            attempt = 0 if before is None else before.told.attempt + 1
            asker = Asker(request_id, attempt, wanted.user_id, wanted.ttl_s * 1000)
            got = await sets.granted(Query(wanted.task_id, wanted.limit), asker, ranking, partition)
            lease = None if got.lease is None else shown(got.lease, {place.medium for place in got.places})
            return {"lease": lease, **got.answer}

    async def renew(self, project: str, lease_id: str, wanted: LeaseRenewal) -> ChangedLease:
        """The lease, which ends later or sooner now.

        Raises:
            UnknownLease, NotTheirLease, LeaseOver, NotReady, UnknownProject.
        """
        async with self._mine(project, lease_id, wanted.user_id) as mine:
            end = mine.about["timestamp"] + wanted.ttl_s * 1000
            event = Renewed(**mine.about, request_id=lease_id, user_id=wanted.user_id, expires_at=end)
            return await self._changed(event, mine)

    async def skip(self, project: str, lease_id: str, wanted: Skip) -> ChangedLease:
        """The lease without the media that were skipped.

        Raises:
            BadQuery: one of them is not in the lease.
            LeaseOver: it is, or there is nothing in it to skip.
            UnknownLease, NotTheirLease, NotReady, UnknownProject.
        """
        async with self._mine(project, lease_id, wanted.user_id) as mine:
            there = {pick.medium: pick for pick in left(mine.lease, mine.pool, mine.about["timestamp"])}
            media = dict.fromkeys(there if wanted.media is None else wanted.media)
            strange = [str(medium) for medium in media if medium not in there]
            if strange:
                raise BadQuery(f"media must be of the lease, and {strange[0]!r} is not")
            if not media:
                raise LeaseOver("nothing is left of the lease")
            passed = [Passed(medium=medium, uploaded_at=mine.lease.uploaded(there[medium])) for medium in media]
            event = Skipped(
                **mine.about, request_id=lease_id, user_id=wanted.user_id, media=passed, skip_for=wanted.skip_for
            )
            return await self._changed(event, mine)

    async def release(self, project: str, lease_id: str, user_id: str) -> ChangedLease:
        """The lease, of which nothing is left.

        Raises:
            UnknownLease, NotTheirLease, LeaseOver, NotReady, UnknownProject.
        """
        async with self._mine(project, lease_id, user_id) as mine:
            event = Released(**mine.about, request_id=lease_id, user_id=user_id)
            return await self._changed(event, mine)

    async def _changed(self, event: Renewed | Released | Skipped, mine: Mine) -> ChangedLease:
        """The lease as an event left it."""
        lease = await self.sets.leased(event, mine.partition)
        as_of = {**mine.partition.as_of(), EVENTS: lease.offset}
        media = {medium_bytes(pick.medium) for pick in left(lease, mine.pool, self.sets.now())}
        return {"lease": shown(lease, media), "as_of": as_of, "lag": mine.partition.lag()}

    @asynccontextmanager
    async def _mine(self, project: str, lease_id: str, user_id: str) -> AsyncIterator[Mine]:
        """A lease of a user, which is not over, while nobody else changes what is granted in its project."""
        partition = self.sets.home(project)
        pool = (await partition.ranking(project)).pool
        pool.check_task(None)
        async with self.sets.alone(project):
            about = self.sets.about(pool)
            yield Mine(partition, pool, about, self._theirs(partition, pool, lease_id, user_id, about["timestamp"]))

    def _theirs(self, partition: Partition, pool: Pool, lease_id: str, user_id: str, now: int) -> LeaseRow:
        """The lease of a user that is not over. now: when it is to be changed."""
        lease = lease_of(partition.store, pool.project_id, lease_id)
        over = lease is not None and lost(lease, pool, now)
        if lease is None or not (over or held(lease, pool, now)):  # what was asked for went to others
            raise UnknownLease(f"project {pool.project_id!r} has no lease {lease_id[:200]!r}")
        if lease.told.user_id != user_id:
            raise NotTheirLease("user_id must be the user's who has the lease, and it is another one's")
        if over:
            raise LeaseOver("the lease has run out, or nothing is left of it")
        return lease

    async def _told(self, lease: LeaseRow, ranking: Ranking, partition: Partition) -> NewLease:
        """A lease with its media, and what is known of them now."""
        now = self.sets.now()
        made = await ranking.made(lease.told.task_id, now)
        has = left(lease, ranking.pool, now)
        places = ranking.found(made, has)
        as_of = {**ranking.as_of(made), EVENTS: max(lease.offset, partition.progress.get(EVENTS, -1))}
        order = order_told(ranking, made, now)
        answer = self.sets.answer(places, ranking, partition, as_of, order, ANNOTATED)
        return {"lease": shown(lease, {place.medium for place in places}), **answer}


def before_of(partition: Partition, pool: Pool, request_id: str, wanted: LeaseRequest, now: int) -> LeaseRow | None:
    """What a request has asked for before.

    Raises:
        RequestUsed: another user, or for another task; or its lease is over.
    """
    lease = lease_of(partition.store, pool.project_id, request_id)
    if lease is None:
        return None
    if (lease.told.user_id, lease.told.task_id) != (wanted.user_id, wanted.task_id):
        raise RequestUsed("request_id was used before, by another user or for another task: take another one")
    if lost(lease, pool, now):
        raise RequestUsed("request_id was used before, and its lease is over: take another one")
    return lease


def shown(lease: LeaseRow, media: Set[bytes]) -> Lease:
    """A lease as clients see it. media: the 12 bytes of each that it has."""
    return {
        "id": lease.told.request_id,
        "user_id": lease.told.user_id,
        "task_id": lease.told.task_id,
        "expires_at": iso(lease.expires_at),
        "media": [msgspec.to_builtins(pick.medium) for pick in lease.told.media if medium_bytes(pick.medium) in media],
    }
