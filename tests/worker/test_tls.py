from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from yarl import URL

from deploy.kafka import free_ports
from deploy.serve import ready
from streams.settings import Settings
from streams.tls import at_home, trusted
from tests.conftest import Certificate
from tests.worker.conftest import HOME, PROJECT, App, House
from web import views
from web.door import Door


@pytest.fixture
def settings(certificate: Certificate) -> Settings:
    return Settings(broker="127.0.0.1:1", web_port=free_ports(1)[0], tls_cert=certificate.cert, tls_key=certificate.key)


@pytest.fixture
async def url(app: App, door: Door, house: House) -> AsyncIterator[URL]:
    """Where a worker's real web server answers."""
    views.declare(door, house.sets, house.metrics)
    server: Any = app.web
    server.init_server()
    await server.start_server()
    yield app.conf.canonical_url
    await server.stop_server()


async def test_a_worker_with_a_certificate_answers_over_https_and_not_without(settings: Settings, url: URL) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(url / "livez", ssl=trusted(settings)) as answer:
            assert (answer.url.scheme, answer.status) == ("https", 200)
        with pytest.raises(aiohttp.ClientError):
            await session.get(url.with_scheme("http") / "livez")


async def test_a_worker_with_a_certificate_asks_no_other_in_clear(settings: Settings, app: App, url: URL) -> None:
    app.others[HOME] = "http://127.0.0.1:1"

    async with (
        aiohttp.ClientSession() as session,
        session.get(url / "v1/projects" / PROJECT, ssl=trusted(settings)) as answer,
    ):
        told = await answer.json(content_type="application/problem+json")

    assert (answer.status, told["error_code"]) == (503, "not_ready")
    assert "http://127.0.0.1:1, has no certificate" in told["message"]


async def test_a_worker_is_asked_at_home_by_whatever_name(settings: Settings, url: URL) -> None:
    async with aiohttp.ClientSession() as session:
        assert await ready(session, str(url.with_host("localhost")), at_home(settings))
        assert not await ready(session, str(url.with_host("localhost")), trusted(settings))
