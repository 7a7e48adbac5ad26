"""Fifty annotators lease side by side from three workers, one of which is killed meanwhile."""

import asyncio
import itertools
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import aiohttp
import pytest

from streams.partition import partition_of
from streams.producer import Producer, Receipt
from tests.broker.conftest import Program, Start, until
from tests.broker.test_active_set import heard
from tests.broker.test_worker import WORKER

IMAGES = [f"m{n}" for n in range(600)]
CLIENTS, EACH = 50, 4
LEASES = "/v1/projects/p1/leases"
TTL_S = 600
GIVE_UP_S = 60.0


@dataclass
class Annotator:
    """Who leases, keeps some, gives some back, and asks again under the same request id until there is an answer."""

    name: str
    workers: list[Program]
    random: Random
    kept: list[tuple[str, list[str]]] = field(default_factory=list)
    held: list[tuple[str, float, float]] = field(default_factory=list)  # a medium, from the answer to the release

    async def works(self, session: aiohttp.ClientSession) -> None:
        for n in range(EACH):
            request_id = f"{self.name}-{n}"
            body = {"user_id": self.name, "limit": 3, "ttl_s": TTL_S, "request_id": request_id}
            answer = await self.asks(session, "POST", LEASES, body)
            assert answer["lease"]["id"] == request_id
            media = [item["id"] for item in answer["active_set"]]
            began = time.monotonic()
            again = await self.asks(session, "POST", LEASES, body)
            assert [item["id"] for item in again["active_set"]] == media
            assert again["lease"] == answer["lease"]
            ended = float("inf")
            if n % 2:
                ended = time.monotonic()
                path = f"{LEASES}/{request_id}?user_id={self.name}"
                await self.asks(session, "DELETE", path, None, over=True)
            else:
                self.kept.append((request_id, media))
            self.held += [(each, began, ended) for each in media]

    async def asks(
        self, session: aiohttp.ClientSession, method: str, path: str, body: Any, *, over: bool = False
    ) -> Any:
        """An answer, of whichever worker has one. over: a release that is repeated may find it done."""
        give_up = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up:
            worker = self.random.choice([each for each in self.workers if each.process.returncode is None])
            try:
                async with session.request(method, worker.url + path, json=body) as answer:
                    told = await answer.json()
            except aiohttp.ClientError:
                told, status = None, 0
            else:
                status = answer.status
            if status == 200 or (over and status == 410):
                return told
            assert status in (0, 503), told
            await asyncio.sleep(0.05 + self.random.random() / 5)
        pytest.fail(f"{self.name} had no answer for {GIVE_UP_S:.0f} s")


@pytest.mark.timeout(150)
async def test_annotators_side_by_side_never_have_the_same_medium_though_a_worker_is_killed(
    kafka: str, prefix: str, start: Start
) -> None:
    workers = [await start(*WORKER, broker=kafka, topic_prefix=prefix) for _ in range(3)]
    await until(partial(all_have_some, workers), *workers)
    receipt = await asyncio.to_thread(uploaded, kafka, prefix)
    await until(partial(heard, workers[0], receipt), *workers)
    [owner] = [each for each in workers if partition_of(b"p1", 8) in await each.partitions()]
    annotators = [Annotator(f"u{n}", workers, Random(n)) for n in range(CLIENTS)]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        at_work = [asyncio.create_task(each.works(session)) for each in annotators]
        await until(lambda: sum(len(each.held) for each in annotators) > CLIENTS)
        owner.process.send_signal(signal.SIGKILL)
        await asyncio.gather(*at_work)

        for each in annotators:  # none is lost: what was leased before the kill can be asked for after it
            for request_id, media in each.kept:
                body = {"user_id": each.name, "request_id": request_id}
                answer = await each.asks(session, "POST", LEASES, body)
                assert [item["id"] for item in answer["active_set"]] == media
                await each.asks(session, "DELETE", f"{LEASES}/{request_id}?user_id={each.name}", None, over=True)
        status, after = await next(each for each in workers if each is not owner).get(
            f"/v1/projects/p1/active-set?limit={len(IMAGES)}"
        )

    held = sorted(each for annotator in annotators for each in annotator.held)
    assert len(held) == CLIENTS * EACH * 3
    for (medium, _, ended), (other, began, _) in itertools.pairwise(held):
        assert medium != other or ended <= began, f"two had {medium}"
    assert status == 200
    assert sorted(item["id"] for item in after["active_set"]) == sorted(IMAGES)


async def all_have_some(workers: list[Program]) -> bool:
    """Whether the partitions are shared out."""
    shares = [await each.partitions() for each in workers]
    return all(shares) and sum(map(len, shares)) == 8


def uploaded(kafka: str, prefix: str) -> Receipt:
    """A project with images."""
    with Producer(kafka, workspace_id="w1", project_id="p1", prefix=prefix) as producer:
        return {**producer.project([{"task_id": "t1"}]), **producer.upload(IMAGES)}
