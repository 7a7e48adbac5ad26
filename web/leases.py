"""Leases: media that one annotator has until a time, renewed, given back or skipped.

A lease is granted as a suggestion is (web/active_set.py). Its name is that of the request, so one that is repeated
finds what it was granted, on whatever worker.
"""

import uuid
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from streams.errors import (
    BadQuery,
    LeaseOver,
    NotReady,
    NotTheirLease,
    RequestUsed,
    UnknownLease,
)
from streams.events import Passed, Pick, Released, Renewed, SkipFor, Skipped
from streams.media import Id, Medium
from streams.times import iso
from tables.leases import LeaseRow, lease_of
from tables.partition import Partition
from tables.pool import Pool
from tables.ranking import Ranking
from tables.rows import medium_bytes
from web.active_set import EVENTS, ActiveSets, Asker
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
    """Media of a lease that are given back, and whom they are for.

    for: `me`: not for this user again, but for others; `others`: for this user only; `good`: for nobody.
    """

    user_id: Id
    media: Annotated[list[Medium], Meta(min_length=1, max_length=LARGEST)]
    skip_for: SkipFor


@dataclass(frozen=True)
class Leases:
    """The leases of the projects whose partitions are here."""

    sets: ActiveSets

    async def lease(self, project: str, wanted: LeaseRequest) -> NewLease:
        """A new lease, or the one that the request was granted before; none if nothing is left.

        Raises:
            RequestUsed: the request id was another user's or task's, or its lease is over.
            NotReady, UnknownProject, UnknownTask, BadQuery.
        """
        sets, partition = self.sets, self.sets.home(project)
        ranking = await partition.ranking(project)
        ranking.pool.check_task(wanted.task_id)
        request_id = wanted.request_id or uuid.uuid4().hex
        async with sets.alone(project):
            before = self._before(partition, ranking.pool, request_id, wanted)
            if before is not None and had(before, ranking.pool):
                return await self._told(before, ranking, partition)
            attempt = 0 if before is None else before.told.attempt + 1
            asker = Asker(request_id, attempt, wanted.user_id, wanted.ttl_s * 1000)
            answer = await sets.granted(Query(wanted.task_id, wanted.limit), asker, ranking, partition)
            lease = self._before(partition, ranking.pool, request_id, wanted)
            if lease is None or not had(lease, ranking.pool):
                return {"lease": None, **answer}
            return {"lease": shown(lease, ranking.pool), **answer}

    def _before(self, partition: Partition, pool: Pool, request_id: str, wanted: LeaseRequest) -> LeaseRow | None:
        """What a request has asked for before."""
        lease = lease_of(partition.store, pool.project_id, request_id)
        if lease is None:
            return None
        if (lease.told.user_id, lease.told.task_id) != (wanted.user_id, wanted.task_id):
            raise RequestUsed("request_id was used before, by another user or for another task: take another one")
        if lease.at <= pool.since or lease.over(self.sets.now()):
            raise RequestUsed("request_id was used before, and its lease is over: take another one")
        return lease

    async def renew(self, project: str, lease_id: str, wanted: LeaseRenewal) -> ChangedLease:
        """The lease, which ends later or sooner now.

        Raises:
            UnknownLease, NotTheirLease, LeaseOver, NotReady, UnknownProject.
        """
        partition, pool = await self._at(project)
        async with self.sets.alone(project):
            self._theirs(partition, pool, lease_id, wanted.user_id)
            about = self.sets.about(pool)
            end = about["timestamp"] + wanted.ttl_s * 1000
            event = Renewed(**about, request_id=lease_id, user_id=wanted.user_id, expires_at=end)
            return await self._changed(event, partition, pool)

    async def skip(self, project: str, lease_id: str, wanted: Skip) -> ChangedLease:
        """The lease without the media that were skipped.

        Raises:
            BadQuery: one of them is not in the lease.
            UnknownLease, NotTheirLease, LeaseOver, NotReady, UnknownProject.
        """
        partition, pool = await self._at(project)
        async with self.sets.alone(project):
            lease = self._theirs(partition, pool, lease_id, wanted.user_id)
            there = {str(pick.medium): pick for pick in had(lease, pool)}
            strange = [str(medium) for medium in wanted.media if str(medium) not in there]
            if strange:
                raise BadQuery(f"media must be of the lease, and {strange[0]!r} is not")
            passed = [
                Passed(medium=medium, uploaded_at=there[str(medium)].uploaded_at or lease.at)
                for medium in dict.fromkeys(wanted.media)
            ]
            event = Skipped(
                **self.sets.about(pool),
                request_id=lease_id,
                user_id=wanted.user_id,
                media=passed,
                skip_for=wanted.skip_for,
            )
            return await self._changed(event, partition, pool)

    async def release(self, project: str, lease_id: str, user_id: str) -> ChangedLease:
        """The lease, of which nothing is left.

        Raises:
            UnknownLease, NotTheirLease, LeaseOver, NotReady, UnknownProject.
        """
        partition, pool = await self._at(project)
        async with self.sets.alone(project):
            self._theirs(partition, pool, lease_id, user_id)
            event = Released(**self.sets.about(pool), request_id=lease_id, user_id=user_id)
            return await self._changed(event, partition, pool)

    async def _changed(self, event: Renewed | Released | Skipped, partition: Partition, pool: Pool) -> ChangedLease:
        """The lease as an event left it."""
        offset = await self.sets.applied(event, partition)
        lease = lease_of(partition.store, event.project_id, event.request_id)
        if lease is None or lease.offset != offset:
            raise NotReady("the lease was changed by somebody else meanwhile")
        return {"lease": shown(lease, pool), "as_of": {**partition.as_of(), EVENTS: offset}, "lag": partition.lag()}

    async def _at(self, project: str) -> tuple[Partition, Pool]:
        partition = self.sets.home(project)
        pool = (await partition.ranking(project)).pool
        pool.check_task(None)
        return partition, pool

    def _theirs(self, partition: Partition, pool: Pool, lease_id: str, user_id: str) -> LeaseRow:
        """The lease of a user that is not over."""
        lease = lease_of(partition.store, pool.project_id, lease_id)
        if lease is None or lease.at <= pool.since:
            raise UnknownLease(f"project {pool.project_id!r} has no lease {lease_id[:200]!r}")
        if lease.told.user_id != user_id:
            raise NotTheirLease("user_id must be the user's who has the lease, and it is another one's")
        if lease.over(self.sets.now()):
            raise LeaseOver("the lease has run out, or nothing is left of it")
        return lease

    async def _told(self, lease: LeaseRow, ranking: Ranking, partition: Partition) -> NewLease:
        """A lease with its media, and what is known of them now."""
        made = await ranking.made(lease.told.task_id, self.sets.now())
        picks = {medium_bytes(pick.medium): (pick.rank, pick.score) for pick in had(lease, ranking.pool)}
        places = ranking.found(made, picks)
        as_of = {**ranking.as_of(made), EVENTS: max(lease.offset, partition.progress.get(EVENTS, -1))}
        answer = self.sets.answer(places, made, ranking, partition, as_of)
        answer.pop("reason", None)
        return {"lease": shown(lease, ranking.pool), **answer}


def had(lease: LeaseRow, pool: Pool) -> list[Pick]:
    """What was asked for and granted, and is not given back."""
    return [pick for pick in lease.told.media if pool.holder(medium_bytes(pick.medium)) == lease.holder]


def shown(lease: LeaseRow, pool: Pool) -> Lease:
    """A lease as clients see it."""
    return {
        "id": lease.told.request_id,
        "user_id": lease.told.user_id,
        "task_id": lease.told.task_id,
        "expires_at": iso(lease.expires_at),
        "media": [msgspec.to_builtins(pick.medium) for pick in had(lease, pool)],
    }
