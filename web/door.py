"""The door: who may answer for a project now. This worker, if it owns it and knows enough; else it asks the owner.

A worker that was frozen, cut off or late believes to own what others own by now. So nothing is answered unless Kafka
has heard of this worker since less than the time after which it gives a silent member's partitions to others; that is
looked at before and after an answer is made, and so is everything else.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from aiohttp import web
from aiokafka.errors import KafkaError
from yarl import URL

from streams.app import REBALANCE_S
from streams.errors import ActivesetError, CorruptStore, NotReady, UnknownMedium, UnknownProject, UnknownTask
from streams.overrides import OurApp
from streams.partition import partition_of
from streams.settings import Settings
from streams.tls import trusted
from tables.partition import Partition
from tables.state import State
from web.proxy import Proxy

# Where that may have been told by now which is not known. Leases need not be looked for: who grants one has applied it
# before it answers, and what former owners granted is applied before a worker is ready.
TOLD_IN: dict[type[ActivesetError], str] = {
    UnknownProject: "project_updates",
    UnknownTask: "project_updates",
    UnknownMedium: "media_uploads",
}
ELSEWHERE = web.RequestKey("elsewhere", bool)  # set of a request that another worker answers
HEARSAY_S = 2.0  # for events to be applied that may tell of what is not known yet


class Alive(Protocol):
    """Whether the worker gets on."""

    @property
    def stalled(self) -> bool:
        """Whether it does not."""
        ...


@dataclass
class Door:
    """Answers for this worker's projects, and forwards requests for those of others.

    doom: told about an error that must end the worker.
    """

    app: OurApp
    settings: Settings
    state: State
    alive: Alive
    doom: Callable[[BaseException], object]
    proxy: Proxy = field(init=False)

    def __post_init__(self) -> None:
        self.proxy = Proxy(trusted=trusted(self.settings))
        self._moving: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @cached_property
    def _own(self) -> str:
        """Where others reach this worker."""
        return str(self.app.conf.canonical_url)

    async def answer(
        self,
        request: web.Request,
        project: str,
        answers: Callable[[], Awaitable[web.Response]],
        patience_s: float,
    ) -> web.StreamResponse:
        """The answer to a question about a project, from whichever worker owns it.

        answers: makes it, here. patience_s: how long another worker may take.

        Raises:
            NotReady: nobody can say now.
            UnknownProject, UnknownTask, UnknownMedium, BadQuery: as `answers`.
        """
        number = partition_of(project.encode(), self.settings.partitions)
        self._check_member()
        owner = self.app.owner(number)
        if owner != self._own:
            if owner is None or self.proxy.forwarded(request):
                raise NotReady(f"partition {number}, in which the project is, is on its way to another worker")
            if self.app.conf.canonical_url.scheme == "https" != URL(owner).scheme:
                raise NotReady(f"the project's owner, {owner}, has no certificate, and is asked nothing in clear")
            request[ELSEWHERE] = True
            return await self.proxy.forward(request, URL(owner), patience_s=patience_s, gone=self._moving)
        partition = self._mine(number)
        try:
            answer = await self._here(partition, answers)
        except ActivesetError:
            # Also an error is an answer: what is not known here may be known to somebody else by now.
            self._check_still(partition)
            raise
        self._check_still(partition)
        return answer

    async def _here(self, partition: Partition, answers: Callable[[], Awaitable[web.Response]]) -> web.Response:
        heard: set[str] = set()
        try:
            while True:
                try:
                    return await answers()
                except (UnknownProject, UnknownTask, UnknownMedium) as why:
                    topic = TOLD_IN[type(why)]
                    if topic in heard:
                        raise
                await self._hear_more(partition, topic)
                heard.add(topic)
        except CorruptStore as why:
            self.doom(why)
            raise

    def _check_still(self, partition: Partition) -> None:
        self._check_member()
        if self._mine(partition.number) is not partition:
            raise NotReady(f"partition {partition.number} has gone and come again meanwhile")

    @property
    def silent_s(self) -> float:
        """Seconds after which Kafka may have given a silent member's work away."""
        return min(float(self.settings.session_timeout_s), REBALANCE_S)

    def _check_member(self) -> None:
        """See that this worker is a member of the group, and that Kafka thinks so, too.

        Raises:
            NotReady: it is not, or may not be.
        """
        if not self.app.settled():
            raise NotReady("this worker is starting, its partitions are moving, or it is stopping")
        unheard = self.app.unheard_s()
        if unheard >= self.silent_s:
            raise NotReady(f"Kafka has not heard of this worker for {unheard:.0f} s, and may have given its work away")

    def _mine(self, number: int) -> Partition:
        """A partition that this worker may answer for.

        Raises:
            NotReady: it is not here, or does not know enough yet.
        """
        partition = self.state.owned(number)
        if not partition.caught_up:
            raise NotReady(f"partition {number} is here and not up to date yet")
        return partition

    async def _hear_more(self, partition: Partition, topic: str) -> None:
        """Wait until what Kafka has of a topic is applied: who asks may have just told it.

        Raises:
            NotReady: it takes too long.
        """
        try:
            async with asyncio.timeout(HEARSAY_S):
                end = (await self.state.source_ends([partition.number]))[partition.number][topic]
                applied = partition.progress.get(topic, -1)
                if self.app.through(self.settings.name(topic), partition.number, applied) < end:
                    await partition.reached(topic, end - 1)
        except (TimeoutError, KafkaError, OSError) as why:
            raise NotReady(f"this worker has not applied yet all that Kafka has in {topic}") from why

    def check_ready(self) -> dict[str, Any]:
        """What this worker answers for.

        Raises:
            NotReady: it does not know all of it yet.
        """
        self._check_member()
        owned = self.app.owned()
        for number in owned:
            self._mine(number)
        return {"status": "ready", "partitions": owned}

    def check_live(self) -> dict[str, Any]:
        """That the process is worth keeping.

        Raises:
            NotReady: it is not.
        """
        if self.app.should_stop:
            raise NotReady("this worker is stopping")
        if self.alive.stalled:
            raise NotReady("this worker has something to do and does not get on: it ends in some seconds")
        return {"status": "live"}

    def moved(self) -> None:
        """The partitions move: who waits for another worker's answer waits for the wrong one."""
        if not self._moving.done():
            self._moving.set_result(None)
        self._moving = asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Forward no more."""
        await self.proxy.close()
