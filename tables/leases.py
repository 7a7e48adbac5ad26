"""Leases: what was granted to a user until a time, by the request that asked for it."""

import struct
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import NamedTuple, Self

import msgspec

from streams.events import Granted, Pick
from tables.order import eligible
from tables.pool import Pool
from tables.rows import Change, Kind, Rows, hashed, medium_bytes, number_of, prefix_of, range_of

DAY_MS = 24 * 3600 * 1000  # after its end, a request that is repeated is told so
FORGOTTEN = 10  # leases that a new one clears away at most
SPARE = 100  # ends that are kept of leases that have another one by now
HEAD = struct.Struct("<qqq")


class Told(msgspec.Struct, frozen=True):
    """Whose a lease is, and which media were asked for; those that were skipped or released are not in it any more.

    Which of them it has, their grants tell: that may depend on when rows are swept, of media that are gone.
    """

    request_id: str
    attempt: int
    user_id: str | None
    task_id: str | None
    media: list[Pick]


class LeaseRow(NamedTuple):
    """A lease.

    at: when it was granted. expires_at: when it ends. offset: of the event that changed it last.
    """

    at: int
    expires_at: int
    offset: int
    told: Told

    def pack(self) -> bytes:
        """The row's value."""
        return HEAD.pack(self.at, self.expires_at, self.offset) + msgspec.json.encode(self.told)

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        """The row of a value."""
        at, expires_at, offset = HEAD.unpack_from(value)
        return cls(at, expires_at, offset, msgspec.json.decode(value[HEAD.size :], type=Told))

    @property
    def holder(self) -> int:
        """What stands for it in the grants that it has."""
        return holder_of(self.told.request_id, self.told.attempt)

    def over(self, now: int) -> bool:
        """Whether it has run out, or all of it was given back. now: milliseconds since the epoch."""
        return self.expires_at <= now or not self.told.media

    def uploaded(self, pick: Pick) -> int:
        """Which upload of a medium it was granted."""
        return self.at if pick.uploaded_at is None else pick.uploaded_at

    def left_with(self, media: list[Pick], offset: int) -> Self:
        """The lease when an event has left it no more than these."""
        return self._replace(offset=offset, told=msgspec.structs.replace(self.told, media=media))


class Glance(msgspec.Struct, frozen=True):
    """Of what a lease was told, what tells whether all was given back: nothing else is decoded."""

    media: msgspec.Raw


class Live:
    """How many leases have neither run out nor been given back whole, of those that were told of.

    Each costs when it comes, changes and ends; to count them costs nothing more.
    """

    def __init__(self) -> None:
        """Nothing was told of yet."""
        self._until: dict[bytes, int] = {}  # by their keys
        self._ends: list[tuple[int, bytes]] = []  # the first one first; some were changed since

    def update(self, rows: Iterable[Change]) -> None:
        """Take rows; those that are no leases are passed over."""
        for key, value in rows:
            if key[len(range_of(key)) - 1] != Kind.LEASE:
                continue
            if value is None or bytes(msgspec.json.decode(value[HEAD.size :], type=Glance).media) == b"[]":
                self._until.pop(key, None)
                continue
            self._until[key] = HEAD.unpack_from(value)[1]
            heappush(self._ends, (self._until[key], key))
        if len(self._ends) > 2 * len(self._until) + SPARE:  # nobody counts
            self._ends = [(end, key) for key, end in self._until.items()]
            heapify(self._ends)

    def count(self, now: int) -> int:
        """How many there are. now: milliseconds since the epoch; never earlier than the last time."""
        while self._ends and self._ends[0][0] <= now:
            end, key = heappop(self._ends)
            if self._until.get(key) == end:
                del self._until[key]
        return len(self._until)


def holder_of(request_id: str, attempt: int) -> int:
    """What stands in a grant for who has it: no id has a slash."""
    return number_of(f"{request_id}/{attempt}" if attempt else request_id)


def held(lease: LeaseRow, pool: Pool, now: int) -> list[Pick]:
    """What a lease was granted, and nothing has ended yet. now: milliseconds since the epoch."""
    return [pick for pick in lease.told.media if pool.holder(medium_bytes(pick.medium), now) == lease.holder]


def left(lease: LeaseRow, pool: Pool, now: int) -> list[Pick]:
    """What a lease has: what it holds, and is not annotated. now: milliseconds since the epoch.

    Raises:
        UnknownProject: it is gone.
    """
    may = eligible(pool, lease.told.task_id)
    return [pick for pick in held(lease, pool, now) if may(medium_bytes(pick.medium))]


def lost(lease: LeaseRow, pool: Pool, now: int) -> bool:
    """Whether a lease is over: it has run out, all of it was given back, or it holds nothing and some was deleted.

    That may have been granted; nobody can tell, for its grant may be swept. now: milliseconds since the epoch.
    """
    if lease.over(now):
        return True
    deleted = any(pool.gone(medium_bytes(pick.medium), lease.uploaded(pick)) for pick in lease.told.media)
    return deleted and not held(lease, pool, now)


def lease_key(project: str, request_id: str) -> bytes:
    """The key of a lease."""
    return prefix_of(project, Kind.LEASE) + hashed(request_id)


def lease_of(rows: Rows, project: str, request_id: str) -> LeaseRow | None:
    """The lease that was granted to a request, however long ago it ended, if it is not forgotten yet."""
    [row] = rows.get([lease_key(project, request_id)])
    return None if row is None else LeaseRow.unpack(row)


def end_key(project: str, expires_at: int, request_id: str) -> bytes:
    """The key of a row that tells when to forget a lease; they are in the order of their times."""
    return prefix_of(project, Kind.LEASE_END) + expires_at.to_bytes(8, "big") + hashed(request_id)


def leased(event: Granted, expires_at: int, offset: int, rows: Rows) -> Iterator[Change]:
    """The rows of a new lease, and those of some that ended more than a day ago, which go."""
    told = Told(event.request_id, event.attempt, event.user_id, event.task_id, event.media)
    yield lease_key(event.project_id, event.request_id), LeaseRow(event.timestamp, expires_at, offset, told).pack()
    yield end_key(event.project_id, expires_at, event.request_id), b""
    prefix, leases = prefix_of(event.project_id, Kind.LEASE_END), prefix_of(event.project_id, Kind.LEASE)
    for key, _ in islice(rows.scan(prefix), FORGOTTEN):
        end = int.from_bytes(key[len(prefix) : len(prefix) + 8], "big")
        if end + DAY_MS >= event.timestamp:
            break
        yield key, None
        name = leases + key[len(prefix) + 8 :]
        [row] = rows.get([name])
        if row is not None and HEAD.unpack_from(row)[1] <= end:  # it was not renewed
            yield name, None
