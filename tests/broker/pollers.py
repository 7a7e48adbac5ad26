"""Clients of all workers at once: what they are answered, and which answers should not have been given."""

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp

from streams.media import Image, Medium, VideoFrame
from streams.partition import partition_of
from tables.rows import medium_bytes
from tables.state import NEEDED
from tests.broker.load import WORKSPACE, passing
from tests.broker.oracle import Tables, granted
from tests.broker.programs import ALL

TIMEOUT_S = 5.0
CLIENTS = 4  # of each worker: where it is frozen, one of them has asked not long before it wakes
PAUSE_S = 0.4  # between two requests of a client
MARKS_EVERY = 10
LIMIT = 3
SHOWS = "/v1/projects/{project}/active-set?limit={limit}"
MARKS = "/api/v1/organizations/o/workspaces/{workspace}/projects/{project}/datasets/active?limit={limit}"
NOBODY = 0  # for a status: no connection, or no answer in time
ALWAYS = {200, 503, NOBODY}  # what a client may be told of a project that it has seen


class Had(NamedTuple):
    """Somebody had a medium, as far as they were told: at the latest since, and at least until, in milliseconds.

    user: none, if it was suggested.
    skipped: for whom not (`me`, `others`, `good`), if it was skipped, and is not had but kept from somebody.
    """

    user: str | None
    since: int
    until: float
    about: str
    skipped: str = ""

    def excludes(self, other: "Had") -> bool:
        """Whether somebody else, or the same user under another lease, must not have the medium meanwhile."""
        theirs = {"": True, "me": other.user == self.user, "others": other.user != self.user, "good": True}
        return (
            not other.skipped and theirs[self.skipped] and max(self.since, other.since) < min(self.until, other.until)
        )


@dataclass
class Watch:
    """What clients were told, all together: to them the workers are one service.

    counts: answers by status.
    handed: by project, the media that were marked for somebody, and the answer in which.
    had: who had which media of which project, of all that is not deleted and comes again.
    violations: what should not have been answered.
    gaps: by project, how long at the longest there was no answer but 503 or none, in seconds.
    owed: by project, the last record of each topic that was there when no worker was: all answers must know of it.
    """

    projects: Sequence[str]
    counts: Counter[int] = field(default_factory=Counter)
    handed: dict[str, dict[Medium, str]] = field(default_factory=dict)
    had: dict[tuple[str, Medium], list[Had]] = field(default_factory=lambda: defaultdict(list))
    violations: list[str] = field(default_factory=list)
    gaps: dict[str, float] = field(default_factory=dict)
    owed: dict[str, dict[str, int]] = field(default_factory=dict)
    _answered: dict[str, tuple[float, bool]] = field(default_factory=dict)  # when last, and whether none came since
    _as_of: dict[str, dict[str, int]] = field(default_factory=dict)
    _clients: int = 0

    async def poll(self, url: Callable[[], str | None], stop: asyncio.Event) -> None:
        """Ask a worker of one project after the other, whatever happens to it.

        url: where it is now; none while it is not running.
        """
        self._clients += 1
        client = f"client {self._clients}"
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for number in itertools.count(self._clients):  # not all of the same project at the same time
                if stop.is_set():
                    break
                where = url()
                if where is not None:
                    marks = number % MARKS_EVERY == 0
                    project = self.projects[(number + number // len(self.projects)) % len(self.projects)]
                    await self._ask(session, where, project, f"request {number} of {client}", marks=marks)
                await asyncio.sleep(PAUSE_S)

    async def _ask(self, session: aiohttp.ClientSession, url: str, project: str, request: str, *, marks: bool) -> None:
        path = (MARKS if marks else SHOWS).format(workspace=WORKSPACE, project=project, limit=LIMIT)
        about = f"{request}, {url}{path}"
        status, body = await self.ask(session, "GET", url + path, project, about)
        if status == 200 and marks:
            self._take(project, body, about)

    async def ask(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        project: str,
        about: str,
        sent: Any = None,
        also: Set[int] = frozenset(),
    ) -> tuple[int, Any]:
        """Status and body of an answer about a project.

        also: what may be answered besides what always may.
        """
        known = dict(self._as_of.get(project, {}))  # of answers that were complete before this request
        try:
            async with session.request(method, url, json=sent) as answer:
                status, body = answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            status, body = NOBODY, None
        self.counts[status] += 1
        if status not in ALWAYS | also and (known or status != 404):
            self.violations.append(f"{about}: {status} {body}")
        self._mind(project, answered=status not in (503, NOBODY))
        if status == 200:
            self._see(project, known, body, about)
        return status, body

    def _mind(self, project: str, *, answered: bool) -> None:
        now = time.monotonic()
        last, missed = self._answered.get(project, (now, False))
        if answered:
            if missed:
                self.gaps[project] = max(now - last, self.gaps.get(project, 0.0))
            self._answered[project] = (now, False)
        else:
            self._answered[project] = (last, True)

    def _see(self, project: str, known: Mapping[str, int], body: Any, about: str) -> None:
        as_of: dict[str, int] = body["as_of"]
        for topic, offset in known.items():
            if as_of.get(topic, -1) < offset:
                told = f"as_of {as_of.get(topic)} of {topic}, after {offset} was answered"
                self.violations.append(f"{about}: {told}")
        for topic, offset in self.owed.get(project, {}).items():
            if as_of.get(topic, -1) < offset:
                self.violations.append(f"{about}: as_of {as_of.get(topic)} of {topic}, and {offset} came before it")
        seen = self._as_of.setdefault(project, {})
        for topic, offset in as_of.items():
            seen[topic] = max(offset, seen.get(topic, -1))

    def nobody_works(self, ends: Mapping[tuple[str, int], int]) -> None:
        """All workers are gone: whoever comes must apply what there is before it answers; artifacts may lag.

        ends: of each topic and partition.
        """
        for project in self.projects:
            home = partition_of(project.encode(), len(ALL))
            told = {topic: end - 1 for (topic, number), end in ends.items() if number == home and topic in NEEDED}
            self.owed[project] = told

    def _take(self, project: str, body: Any, about: str) -> None:
        handed = self.handed.setdefault(project, {})
        for item in body["active_set"]:
            for medium in media_of(item):
                if passing(medium.media_id):
                    continue
                if medium in handed:
                    self.violations.append(f"{about}: {medium} was handed out before, to {handed[medium]}")
                handed[medium] = about
                self.has(project, medium, Had(None, now_ms(), float("inf"), about))

    def has(self, project: str, medium: Medium, had: Had, instead: float = float("inf")) -> None:
        """Somebody has, or had, a medium; or skipped it.

        instead: from when on a skip may have replaced what the same user had skipped before.
        """
        if passing(medium.media_id):
            return
        self.doubt(project, medium, had.user, instead)
        self.had[project, medium].append(had)

    def doubt(self, project: str, medium: Medium, user: str | None, since: float) -> None:
        """What a user had skipped may have been replaced, from then on: they skipped again, or tried to."""
        told = self.had[project, medium]
        told[:] = [
            each._replace(until=min(each.until, since)) if each.skipped and each.user == user else each for each in told
        ]

    def disputed(self) -> list[str]:
        """Media that two had at once, or somebody from whom they were kept."""
        return [
            f"{one.about} had {medium} of {project}, and so had {other.about}: {one}, {other}"
            for (project, medium), had in self.had.items()
            for one, other in itertools.combinations(had, 2)
            if one.excludes(other) or other.excludes(one)
        ]

    def unfounded(self, rows: Tables) -> list[str]:
        """Media that were handed out although the log has not granted them for good.

        rows: of every partition, folded from the log.
        """
        found = []
        for project, handed in self.handed.items():
            told = [grant for partition in rows.values() for grant in granted(partition, project)]
            there = {grant.medium for grant in told if grant.endless}
            unfounded = {each: about for each, about in handed.items() if medium_bytes(each) not in there}
            found += [f"{about}: {each} of {project} is not granted for good" for each, about in unfounded.items()]
        return found


def now_ms() -> int:
    """The workers' time: they are on this machine."""
    return int(time.time() * 1000)


def media_of(item: Mapping[str, Any]) -> list[Medium]:
    """The media of an item of an active set: an image, or some frames of a video."""
    if item["type"] == "image":
        return [Image(item["id"])]
    return [VideoFrame(item["id"], frame) for frame in item["active_frames"]]


@asynccontextmanager
async def polling(projects: Sequence[str], urls: Sequence[Callable[[], str | None]]) -> AsyncIterator[Watch]:
    """Clients of each worker, while the block runs; they finish what they have asked."""
    watch, stop = Watch(projects), asyncio.Event()
    clients = [asyncio.create_task(watch.poll(url, stop)) for url in urls for _ in range(CLIENTS)]
    try:
        yield watch
        stop.set()
        await asyncio.gather(*clients)
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
