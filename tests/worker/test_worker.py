import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from agents.worker import Worker, build, check
from streams.errors import BadSettings
from streams.settings import Settings
from streams.topics import CHANGELOG, SOURCES

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def worker(tmp_path: Path) -> Worker:
    return build(Settings(broker="127.0.0.1:1", topic_prefix="staging.", data_dir=tmp_path))


@pytest.fixture
async def client(worker: Worker) -> AsyncIterator[Client]:
    worker.app.web.init_server()
    served: Any = worker.app.web  # Faust's aiohttp driver
    async with TestClient(TestServer(served.web_app)) as client:
        yield client


async def test_there_is_an_agent_for_every_source_topic_under_a_name_that_stays(worker: Worker) -> None:
    assert {f"activeset.{topic.name}" for topic in SOURCES} <= worker.app.agents.keys()
    assert {agent.channel.get_topic_name() for agent in worker.app.agents.values()} >= {
        f"staging.{topic.name}" for topic in SOURCES
    }


async def test_faust_looks_for_the_changelog_where_we_create_it(worker: Worker) -> None:
    assert worker.app.tables.changelog_topics == {f"staging.{CHANGELOG.name}"}


async def test_a_worker_that_has_not_joined_is_live_and_not_ready(client: Client) -> None:
    assert (await client.get("/livez")).status == 200

    answer = await client.get("/readyz")

    assert answer.status == 503
    assert answer.headers["Retry-After"] == "2"
    assert answer.content_type == "application/problem+json"
    assert (await answer.json())["error_code"] == "not_ready"


async def test_a_worker_that_is_stopping_is_neither(worker: Worker, client: Client) -> None:
    worker.app._stopped.set()

    assert [(await client.get(path)).status for path in ("/livez", "/readyz")] == [503, 503]


@pytest.mark.parametrize("path", ["/table/", "/router/", "/stats/", "/graph/", "/performance/"])
async def test_fausts_own_pages_are_off(client: Client, path: str) -> None:
    assert (await client.get(path)).status == 404


async def test_an_error_that_is_fatal_never_returns_to_the_agent(worker: Worker) -> None:
    dying = asyncio.ensure_future(worker.die(OSError("the disk is gone")))

    why = await worker.fatal

    assert str(why) == "the disk is gone"
    assert not dying.done()
    dying.cancel()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(BadSettings, match="ACTIVESET_DATA_DIR must be a folder that can be written"):
        check(Settings(data_dir=tmp_path / "file" / "worker"))


def test_a_web_port_that_is_taken_is_named(tmp_path: Path, taken_port: int) -> None:
    settings = Settings(data_dir=tmp_path, web_port=taken_port)

    with pytest.raises(BadSettings, match=f"ACTIVESET_WEB_PORT must be a port that is free .* not {taken_port}"):
        check(settings)
    with pytest.raises(BadSettings, match=r"free on 203\.0\.113\.1"):
        check(replace(settings, web_bind="203.0.113.1"))
