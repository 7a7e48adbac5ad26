"""Annotators at all workers at once: they lease, renew, skip and release, and know what they have.

Each asks until there is an answer. What became of a try that nobody answered may come late, even behind what was asked
after it: so a lease is renewed once at most, and counted on no longer than from the first try.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
import msgspec

from streams.media import Medium
from tables.rows import medium_bytes
from tests.broker.load import passing
from tests.broker.oracle import Tables, granted, leased
from tests.broker.pollers import NOBODY, TIMEOUT_S, Had, Watch, now_ms

ANNOTATORS = 8
PAUSE_S = 0.5  # between two requests of an annotator, at most
LIMIT = 3
TTLS_S = (2, 5, 600)  # some are over before they are given back
GIVE_UP_S = 60.0
CHANGES = {"renewed", "skipped", "released"}


@dataclass
class Lease:
    """What an annotator has, as far as it was told.

    since, until: from when at the latest, and until when at least, in milliseconds.
    media: what it has not given back.
    given: what it has given back. What is annotated is in neither: it is not told, and may be to revisit later.
    changes: what was done with it.
    """

    name: str
    user: str
    project: str
    since: int
    until: int
    media: set[Medium] = field(default_factory=set)
    given: set[Medium] = field(default_factory=set)
    changes: Counter[str] = field(default_factory=Counter)

    def had(self, until: int) -> Had:
        """What it was to have a medium of it, until then if the lease did not end before."""
        return Had(self.user, self.since, min(until, self.until), f"lease {self.name}")


@dataclass
class Annotator:
    """Who leases, does this and that with it, and leases again."""

    watch: Watch
    urls: Sequence[Callable[[], str | None]]
    user: str
    random: Random
    leases: list[Lease]
    give_up_s: float = GIVE_UP_S
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def work(self, stop: asyncio.Event) -> None:
        """Go on until it is time to stop; then finish what was asked."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
            while not stop.is_set():
                lease = await self._lease(session)
                for change in (self._renew, self._skip, self._release):
                    await asyncio.sleep(self.random.uniform(0, PAUSE_S))
                    if lease and lease.media and not stop.is_set() and self.random.random() < 0.6:
                        await change(session, lease)

    async def _lease(self, session: aiohttp.ClientSession) -> Lease | None:
        """A new lease; none if nothing was left, or it ended before there was an answer."""
        project, ttl_s, asked = self.random.choice(self.watch.projects), self.random.choice(TTLS_S), now_ms()
        lease = Lease(f"{self.user}-{next(self.numbers)}", self.user, project, asked, asked + ttl_s * 1000)
        sent = {"user_id": self.user, "limit": LIMIT, "ttl_s": ttl_s, "request_id": lease.name}
        status, told, _ = await self._ask(session, "POST", lease, "", sent, {409})
        if status != 200 or told["lease"] is None:
            return None
        lease.since, lease.media = now_ms(), media_of(told)
        if not lease.media:  # it had run out when it was answered: it has, and nobody was told what
            return None
        self.leases.append(lease)
        status, told, _ = await self._ask(session, "POST", lease, "", sent, {409})
        if status == 200:
            self._see(lease, told, "asked for again")
        return lease

    async def _renew(self, session: aiohttp.ClientSession, lease: Lease) -> None:
        ttl_s = self.random.choice(TTLS_S)
        until, sent = now_ms() + ttl_s * 1000, {"user_id": self.user, "ttl_s": ttl_s}
        await self._change(session, "PATCH", lease, "renewed", sent, until=until)

    async def _skip(self, session: aiohttp.ClientSession, lease: Lease) -> None:
        medium, whom = self.random.choice(sorted(lease.media, key=str)), self.random.choice(("me", "others", "good"))
        sent = {"user_id": self.user, "media": [msgspec.to_builtins(medium)], "for": whom}
        asked = now_ms()
        if await self._change(session, "POST", lease, "skipped", sent, gone={medium}, path="/skips"):
            skipped = Had(self.user, now_ms(), float("inf"), f"{lease.name} skipped", whom)
            self.watch.has(lease.project, medium, skipped, instead=asked)
        else:  # a try that nobody answered may have done it, though the lease is over by now
            self.watch.doubt(lease.project, medium, self.user, asked)

    async def _release(self, session: aiohttp.ClientSession, lease: Lease) -> None:
        path, gone = f"?user_id={self.user}", {*lease.media}
        await self._change(session, "DELETE", lease, "released", None, gone=gone, path=path, until=now_ms())

    async def _change(
        self,
        session: aiohttp.ClientSession,
        method: str,
        lease: Lease,
        what: str,
        sent: Any,
        *,
        gone: Set[Medium] = frozenset(),
        path: str = "",
        until: int | None = None,
    ) -> bool:
        """Whether a lease was changed, and not over.

        gone: which media it has not any more then. until: when it ends then, if that is changed.
        """
        asked = now_ms()
        # What is deleted or annotated cannot be skipped; nor what an earlier try has skipped.
        also = {400, 410} if what == "skipped" else {410}
        status, told, tries = await self._ask(session, method, lease, f"/{lease.name}{path}", sent, also)
        live = lease.until > now_ms()
        if status == 410 and live and tries == 1:
            self.watch.violations.append(f"lease {lease.name} of {lease.project} was over when it was to be {what}")
        done = status in (200, 400) or (status == 410 and live)
        for medium in gone if done else ():
            self.watch.has(lease.project, medium, lease.had(asked))
        if done:
            lease.media -= gone
            lease.given |= gone if status != 400 else set()
            lease.until = lease.until if until is None else until
            lease.changes[what] += 1
        else:
            lease.until = min(lease.until, asked)
        if status == 200:
            self._see(lease, told, what)
        return done

    def _see(self, lease: Lease, told: Any, what: str) -> None:
        """See that nothing is in a lease that was given back; what is deleted meanwhile goes from it."""
        strange = media_of(told) & lease.given
        if strange:
            self.watch.violations.append(f"lease {lease.name} of {lease.project} has, {what}, {strange} as well")

    async def _ask(
        self, session: aiohttp.ClientSession, method: str, lease: Lease, path: str, sent: Any, also: Set[int]
    ) -> tuple[int, Any, int]:
        """Status and body of an answer, of whichever worker has one, and how often that was tried."""
        path, tries = f"/v1/projects/{lease.project}/leases{path}", 0
        give_up = time.monotonic() + self.give_up_s
        while time.monotonic() < give_up:
            url = self.random.choice(self.urls)()
            if url is not None:
                tries += 1
                about = f"{method} of {self.user}, {url}{path}"
                status, told = await self.watch.ask(session, method, url + path, lease.project, about, sent, also)
                if status == 409 and lease.until > now_ms():
                    self.watch.violations.append(f"{about}: {told}, and it is not over")
                if status not in (503, NOBODY):
                    return status, told, tries
            await asyncio.sleep(self.random.uniform(0, PAUSE_S))
        self.watch.violations.append(f"{method} of {self.user}, {path}: no answer for {self.give_up_s:.0f} s")
        return NOBODY, None, tries


def media_of(told: Any) -> set[Medium]:
    """The media that an answer says are in a lease."""
    return {*msgspec.convert(told["lease"]["media"], list[Medium])}


def unlike_rows(leases: Sequence[Lease], rows: Tables, grants: Tables) -> list[str]:
    """What annotators were told of their leases, and is not so in the rows.

    rows: of every partition. grants: the same, of `active_set_events` alone, with media that were deleted since.
    """
    found, now = [], now_ms()
    for project in {lease.project for lease in leases}:
        there = {name: lease for each in rows.values() for name, lease in leased(each, project).items()}
        has = {(grant.holder, grant.medium) for each in rows.values() for grant in granted(each, project)}
        got = {(grant.holder, grant.medium) for each in grants.values() for grant in granted(each, project)}
        for lease in (each for each in leases if each.project == project):
            about, row = f"lease {lease.name} of {project}", there.get(lease.name)
            if row is None:
                found.append(f"{about} is forgotten")
                continue
            if row.expires_at < lease.until:
                found.append(f"{about} ends at {row.expires_at}, which was to be {lease.until}")
            if given_back := has & {(row.holder, medium_bytes(medium)) for medium in lease.given}:
                found.append(f"{about} has {len(given_back)} media still that it gave back")
            lost = [each for each in lease.media if (row.holder, medium_bytes(each)) not in got]
            if lease.until > now and not all(passing(each.media_id) for each in lost):
                found.append(f"{about} has lost {lost}")
    return found


@asynccontextmanager
async def annotating(
    watch: Watch, urls: Sequence[Callable[[], str | None]], seed: int, give_up_s: float = GIVE_UP_S
) -> AsyncIterator[list[Lease]]:
    """Annotators at work, while the block runs; they finish what they have asked. Their leases, when it is over.

    give_up_s: how long they ask for the same, at most.
    """
    stop, leases = asyncio.Event(), list[Lease]()
    team = [Annotator(watch, urls, f"user-{n}", Random(f"{seed} {n}"), leases, give_up_s) for n in range(ANNOTATORS)]
    working = [asyncio.create_task(each.work(stop)) for each in team]
    try:
        yield leases
        stop.set()
        await asyncio.gather(*working)
        for lease in leases:
            for medium in lease.media:
                watch.has(lease.project, medium, lease.had(lease.until))
    finally:
        for each in working:
            each.cancel()
        await asyncio.gather(*working, return_exceptions=True)
