"""Clients of all workers at once: what they are answered, and which answers should not have been given."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from streams.media import Image, Medium, VideoFrame
from tables.rows import medium_bytes
from tests.broker.load import WORKSPACE, passing
from tests.broker.oracle import Tables, granted

TIMEOUT_S = 5.0
CLIENTS = 4  # of each worker: where it is frozen, one of them has asked not long before it wakes
PAUSE_S = 0.4  # between two requests of a client
MARKS_EVERY = 10
LIMIT = 3
SHOWS = "/v1/projects/{project}/active-set?limit={limit}"
MARKS = "/api/v1/organizations/o/workspaces/{workspace}/projects/{project}/datasets/active?limit={limit}"
NOBODY = 0  # for a status: no connection, or no answer in time
ALWAYS = {200, 503, NOBODY}  # what a client may be told of a project that it has seen


@dataclass
class Watch:
    """What clients were told, all together: to them the workers are one service.

    counts: answers by status.
    handed: by project, the media that were marked for somebody, and the answer in which.
    violations: what should not have been answered.
    """

    projects: Sequence[str]
    counts: Counter[int] = field(default_factory=Counter)
    handed: dict[str, dict[Medium, str]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
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
        known = dict(self._as_of.get(project, {}))  # of answers that were complete before this request
        try:
            async with session.get(url + path) as answer:
                status, body = answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            status, body = NOBODY, None
        self.counts[status] += 1
        about = f"{request}, {url}{path}"
        if status not in ALWAYS and (known or status != 404):
            self.violations.append(f"{about}: {status} {body}")
        if status == 200:
            self._see(project, known, body, about)
            if marks:
                self._take(project, body, about)

    def _see(self, project: str, known: Mapping[str, int], body: Any, about: str) -> None:
        as_of: dict[str, int] = body["as_of"]
        for topic, offset in known.items():
            if as_of.get(topic, -1) < offset:
                told = f"as_of {as_of.get(topic)} of {topic}, after {offset} was answered"
                self.violations.append(f"{about}: {told}")
        seen = self._as_of.setdefault(project, {})
        for topic, offset in as_of.items():
            seen[topic] = max(offset, seen.get(topic, -1))

    def _take(self, project: str, body: Any, about: str) -> None:
        handed = self.handed.setdefault(project, {})
        for item in body["active_set"]:
            for medium in media_of(item):
                if passing(medium.media_id):
                    continue
                if medium in handed:
                    self.violations.append(f"{about}: {medium} was handed out before, to {handed[medium]}")
                handed[medium] = about

    def unfounded(self, rows: Tables) -> list[str]:
        """Media that were handed out although the log has granted them to nobody.

        rows: of every partition, folded from the log.
        """
        found = []
        for project, handed in self.handed.items():
            there = {medium for partition in rows.values() for medium in granted(partition, project)}
            unfounded = {each: about for each, about in handed.items() if medium_bytes(each) not in there}
            found += [f"{about}: {each} of {project} is granted to nobody" for each, about in unfounded.items()]
        return found


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
