"""Clocks of machines that are wrong: leases go by Kafka's, which is the same for all workers."""

import asyncio
import time
from datetime import datetime
from functools import partial
from typing import Any

import aiohttp
import pytest

from tests.broker.conftest import Start, until
from tests.broker.test_active_set import heard, inference

TTL_S = 600
LEASES = "/v1/projects/p1/leases"
HOUR_S = 3600
CLOSE_S = 60.0  # on a machine that is slow


@pytest.mark.parametrize("wrong_s", [-HOUR_S, HOUR_S])
async def test_a_lease_ends_when_kafkas_clock_says_so_whatever_the_workers_says(
    kafka: str, prefix: str, start: Start, wrong_s: int
) -> None:
    worker = await start("tests.faults", "clock", str(wrong_s), "worker", broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    receipt = await asyncio.to_thread(inference, kafka, prefix)
    await until(partial(heard, worker, receipt), worker)

    lease = await posted(f"{worker.url}{LEASES}", {"user_id": "ann", "limit": 1, "ttl_s": TTL_S})

    assert time.time() + TTL_S - CLOSE_S < lease < time.time() + TTL_S + CLOSE_S
    assert await worker.stop() == 0


async def posted(url: str, body: dict[str, Any]) -> float:
    """When a lease ends that is asked for, in seconds since the epoch."""
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        assert answer.status == 200
        return datetime.fromisoformat((await answer.json())["lease"]["expires_at"]).timestamp()
