import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from faust.types import TP
from faust.types.tuples import RecordMetadata

from agents.life import checked, prepare
from agents.worker import Worker, build
from deploy.kafka import free_ports
from streams.app import new_app
from streams.errors import BadSettings
from streams.record import Record
from streams.settings import Settings
from streams.topics import CHANGELOG, SOURCES
from tests.conftest import Certificate

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


async def test_a_topic_that_was_given_more_partitions_ends_the_worker(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.app.assignor, "assigned_actives", lambda: {TP("staging.media_uploads", 8)})
    taking = asyncio.ensure_future(worker.take([], 1))

    why = await worker.fatal

    assert isinstance(why, BadSettings)
    assert "ACTIVESET_PARTITIONS is 8, and these topics have more now: staging.media_uploads" in str(why)
    taking.cancel()


async def test_a_record_is_published_when_kafka_has_it_and_not_before(worker: Worker) -> None:
    acknowledged = asyncio.get_running_loop().create_future()
    sent: list[tuple[Any, ...]] = []

    class Producer(type(worker.app.producer)):  # type: ignore[misc] # whichever the driver has
        """Faust's producer, with a Kafka that takes its time."""

        async def send(self, *record: object, **more: object) -> Any:
            sent.append((*record, more))
            return acknowledged

    worker.app.producer.__class__ = Producer
    publishing = asyncio.ensure_future(worker.publish(Record("t", 1, b"k", b"v", [("empty", None)], 1767225600.123)))
    while not sent:
        await asyncio.sleep(0)

    assert await asyncio.wait([publishing], timeout=0) == (set(), {publishing})
    acknowledged.set_result(RecordMetadata("t", 1, TP("t", 1), 41))
    assert await publishing == 41
    assert int(sent[0][4] * 1000) == 1767225600123


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(BadSettings, match="ACTIVESET_DATA_DIR must be a folder that can be written"):
        async with checked(Settings(data_dir=tmp_path / "file" / "worker")):
            pass


async def test_a_folder_belongs_to_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.life.HANDOVER_S", 0)
    settings = Settings(data_dir=tmp_path, web_port=free_ports(1)[0])

    async with checked(settings):
        with pytest.raises(BadSettings, match="ACTIVESET_DATA_DIR must be .* this worker alone"):
            async with checked(settings):
                pass
    async with checked(settings):
        pass


async def test_a_web_port_that_is_taken_is_named(tmp_path: Path, taken_port: int) -> None:
    settings = Settings(data_dir=tmp_path, web_port=taken_port)

    with pytest.raises(BadSettings, match=f"ACTIVESET_WEB_PORT must be a port that is free .* not {taken_port}"):
        async with checked(settings):
            pass


@pytest.mark.parametrize("bind", ["203.0.113.1", "2001:db8::1"])
async def test_an_address_that_is_not_this_machines_is_named(tmp_path: Path, bind: str) -> None:
    with pytest.raises(BadSettings, match=f"ACTIVESET_WEB_BIND must be an address of this machine, not {bind}"):
        async with checked(Settings(data_dir=tmp_path, web_bind=bind)):
            pass


async def test_a_certificate_that_is_not_one_is_named_before_kafka_is_asked(
    tmp_path: Path, certificate: Certificate, other_certificate: Certificate
) -> None:
    settings = Settings(
        broker="127.0.0.1:1", data_dir=tmp_path, tls_cert=certificate.cert, tls_key=other_certificate.key
    )

    with pytest.raises(BadSettings, match="ACTIVESET_TLS_CERT and ACTIVESET_TLS_KEY must be a certificate and its"):
        async with AsyncExitStack() as stack:
            await prepare(settings, stack)


def test_an_ipv6_address_stands_in_brackets_where_others_reach_us() -> None:
    assert Settings(web_bind="::1").url == "http://[::1]:6066"
    assert str(new_app(Settings(broker="k:1", web_bind="::1")).conf.canonical_url) == "http://[::1]:6066"
