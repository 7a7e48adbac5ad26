import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from streams.errors import NotReady
from streams.settings import Settings
from streams.tls import at_home, served, trusted
from tests.conftest import Certificate
from web import proxy
from web.proxy import FORWARDED, Proxy

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SOON_S = 10.0  # what is awaited comes at once, or the test fails
GET = b"GET / HTTP/1.1\r\nHost: door\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: door\r\nTransfer-Encoding: chunked\r\n\r\n"


async def soon(awaited: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(awaited, SOON_S)


@dataclass
class Client:
    """A connection to the door, in bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: str = ""

    async def says(self, *parts: bytes) -> "Client":
        self.writer.write(b"".join(parts))
        await self.writer.drain()
        return self

    async def hears(self) -> "Client":
        """The head of an answer."""
        self.head = (await soon(self.reader.readuntil(b"\r\n\r\n"))).decode().strip()
        return self

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def headers(self) -> list[str]:
        return self.head.split("\r\n")[1:]

    async def chunk(self) -> bytes:
        """The next chunk of a body; empty is the last."""
        size = int(await soon(self.reader.readline()), 16)
        return bytes((await soon(self.reader.readexactly(size + 2)))[:-2])

    async def rest(self) -> bytes:
        """All that comes until the connection is closed."""
        return bytes(await soon(self.reader.read()))

    async def leaves(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


@dataclass
class Two:
    """Two workers: a door that forwards all it gets, and an owner.

    https: of both, if they speak it.
    """

    stack: AsyncExitStack
    https: Settings = field(default_factory=Settings)
    proxy: Proxy = field(default_factory=Proxy)
    patience_s: float = SOON_S
    gone: asyncio.Future[Any] | None = None
    to: URL = URL("http://127.0.0.1:1")
    port: int = 0
    at_the_owner: list[web.Request] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)  # the owner's handler was cancelled
    outcomes: asyncio.Queue[int] = field(default_factory=asyncio.Queue)  # statuses

    async def open(self) -> None:
        # Not a TestServer: that cancels its handlers when a client leaves, and Faust's server does not.
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        await web.SockSite(runner, listening, ssl_context=served(self.https)).start()
        self.stack.push_async_callback(self.close)

    async def close(self) -> None:
        await self.proxy.close()

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """What a view does."""
        try:
            if Proxy.forwarded(request):
                raise NotReady("it has been forwarded already")
            answer = await self.proxy.forward(request, self.to, patience_s=self.patience_s, gone=self.gone)
        except NotReady as why:
            answer = web.Response(status=503, text=str(why))
        self.outcomes.put_nowait(answer.status)
        return answer

    async def owner(self, handler: Handler, shows: ssl.SSLContext | None = None) -> None:
        """The owner answers so, and shows a certificate of its own, if it has one."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.at_the_owner.append(request)
            try:
                return await handler(request)
            except asyncio.CancelledError:
                self.left.set()
                raise

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handle)
        server = TestServer(app)
        self.stack.push_async_callback(server.close)
        await server.start_server(ssl=shows or served(self.https))
        self.to = server.make_url("/")

    async def waiting_owner(self) -> asyncio.Event:
        """The owner never answers; is set when a request is there."""
        arrived = asyncio.Event()

        async def waits(request: web.Request) -> web.StreamResponse:
            arrived.set()
            return await never(request)

        await self.owner(waits)
        return arrived

    async def owner_of_bytes(self, *answers: bytes) -> list[bytes]:
        """The owner reads a head, writes the next of the answers, and closes when there is none; the heads it read."""
        heads: list[bytes] = []

        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError):
                for answer in answers:
                    heads.append(await reader.readuntil(b"\r\n\r\n"))
                    writer.write(answer)
                heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.close()

        server = await self.stack.enter_async_context(await asyncio.start_server(speak, "127.0.0.1", 0))
        self.to = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        return heads

    async def client(self) -> Client:
        trust = at_home(self.https) if self.https.tls_cert else None
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=trust))
        self.stack.push_async_callback(client.leaves)
        return client

    async def asks(self, *parts: bytes) -> Client:
        """A client that has asked and heard the head of the answer."""
        return await (await (await self.client()).says(*parts)).hears()


@pytest.fixture
def https(request: pytest.FixtureRequest, certificate: Certificate) -> Settings:
    return settings_of(certificate) if getattr(request, "param", False) else Settings()


@pytest.fixture
async def two(https: Settings) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        two = Two(stack, https, Proxy(trusted=trusted(https)))
        await two.open()
        yield two


@pytest.fixture
def full_port() -> Generator[int]:
    """A port that lets nobody in: its queue is full, and nobody is taken from it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        with socket.create_connection(server.getsockname()):
            yield server.getsockname()[1]


async def ok(request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


async def echoes(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await request.read())


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


def request(*headers: str, line: str = "GET / HTTP/1.1") -> bytes:
    return head(line, "Host: door", *headers)


def answer(*headers: str, line: str = "HTTP/1.1 200 OK") -> bytes:
    return head(line, *headers)


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


@pytest.mark.parametrize(
    "target",
    [
        "/v1/projects/a%2Fb%20c/active-set?task_id=%2F+%26&limit=&limit=2",
        "/pr%C3%B8ject%E9%00/%zz?%e9%zz=%3D",
        "//elsewhere:99/../a/./%2e%2e/;b=@c?d//e?f",
    ],
)
async def test_a_path_and_its_query_reach_the_owner_as_they_came(two: Two, target: str) -> None:
    await two.owner(ok)

    client = await two.asks(request(line=f"GET {target} HTTP/1.1"))

    assert client.status == 200
    assert [each.raw_path for each in two.at_the_owner] == [target]


async def test_an_owner_is_asked_with_the_clients_method_and_headers_and_no_others(two: Two) -> None:
    await two.owner(ok)

    await two.asks(request("X-A: 1", "Authorization: Basic eDp5", "X-A: 2", "Cookie: a=b", line="SEARCH / HTTP/1.1"))

    asked = two.at_the_owner[0]
    names = [name.decode() for name, _ in asked.raw_headers]
    assert asked.method == "SEARCH"
    assert [*asked.headers.items()][1:5] == [
        ("X-A", "1"),
        ("Authorization", "Basic eDp5"),
        ("X-A", "2"),
        ("Cookie", "a=b"),
    ]
    ours = ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", FORWARDED, "Content-Length", "Connection"]
    assert names == ["Host", "X-A", "Authorization", "X-A", "Cookie", *ours]
    assert asked.headers["Host"] == two.to.authority


async def test_headers_of_one_hop_are_not_passed_on_either_way(two: Two) -> None:
    of_a_hop = [
        "Connection: X-Named, close",
        "X-Named: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: a",
        "Proxy-Authenticate: b",
        "TE: trailers",
        "Trailer: X-Last",
        "Upgrade: h9",
    ]
    heads = await two.owner_of_bytes(answer(*of_a_hop, "X-Kept: 1", "Content-Length: 0"))

    client = await two.asks(request(*of_a_hop, "X-Kept: 1"))

    asked = heads[0].decode().split("\r\n")
    assert "X-Kept: 1" in asked
    assert "X-Kept: 1" in client.headers
    assert not {*of_a_hop} & {*asked}
    assert not {*of_a_hop} & {*client.headers}


async def test_the_owner_is_told_for_whom_it_is_asked(two: Two) -> None:
    await two.owner(ok)

    await two.asks(GET)
    await two.asks(request("X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: a.example"))

    names = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")
    assert [[each.headers[name] for name in names] for each in two.at_the_owner] == [
        ["127.0.0.1", "door", "http"],
        ["10.0.0.1, 127.0.0.1", "a.example", "https"],
    ]


async def test_a_forwarded_request_is_known_as_one_whatever_the_client_says(two: Two) -> None:
    await two.owner(ok)

    await two.asks(request(f"Connection: {FORWARDED}, Host"))

    assert Proxy.forwarded(two.at_the_owner[0])
    assert two.at_the_owner[0].headers[FORWARDED] == "1"


async def test_a_request_goes_on_once(two: Two) -> None:
    two.to = URL(f"http://127.0.0.1:{two.port}")  # the door itself, which thinks that it is another

    client = await two.asks(request("Connection: close"))

    assert (client.status, await client.rest()) == (503, b"it has been forwarded already")


async def test_status_reason_and_headers_of_an_answer_are_kept_in_order_and_repeated(two: Two) -> None:
    told = ["Set-Cookie: a=1", "Link: <b>", "Set-Cookie: c=2", "Date: d", "Server: s", "Link: <e>", "Content-Length: 0"]
    await two.owner_of_bytes(answer(*told, line="HTTP/1.1 299 Rather Fine"))

    client = await two.asks(GET)

    assert client.head.split("\r\n") == ["HTTP/1.1 299 Rather Fine", *told]


async def test_a_redirect_is_the_clients_to_follow(two: Two) -> None:
    heads = await two.owner_of_bytes(answer("Location: /b", "Content-Length: 0", line="HTTP/1.1 307 Go"))

    client = await two.asks(GET)

    assert (client.status, len(heads)) == (307, 1)
    assert "Location: /b" in client.headers


async def test_an_owner_knows_the_clients_cookies_only_from_the_client(two: Two) -> None:
    async def baked(request: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Set-Cookie": "a=1; Path=/"})

    await two.owner(baked)

    for _ in range(2):
        await two.asks(GET)

    assert ["Cookie" in each.headers for each in two.at_the_owner] == [False, False]


async def test_no_proxy_of_the_environment_is_asked(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await two.owner(ok)

    assert (await two.asks(GET)).status == 200


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (b"HEAD / HTTP/1.1\r\nHost: door\r\n\r\n", answer("Content-Length: 5")),
        (b"HEAD / HTTP/1.1\r\nHost: door\r\n\r\n", answer("Transfer-Encoding: chunked")),
        (GET, answer('ETag: "e"', line="HTTP/1.1 304 Not Modified")),
        (GET, answer(line="HTTP/1.1 204 No Content")),
    ],
)
async def test_an_answer_without_a_body_has_none(two: Two, asked: bytes, told: bytes) -> None:
    await two.owner_of_bytes(told)

    client = await two.asks(asked)
    first = client.head
    await (await client.says(asked)).hears()  # a byte of a body would stand before this head

    assert client.head.split("\r\n")[0] == first.split("\r\n")[0]
    assert ("Content-Length: 5" in client.headers) == (b"Content-Length: 5" in told)


async def test_a_compressed_answer_is_not_touched(two: Two) -> None:
    body = b"neither gzip nor anything"
    await two.owner_of_bytes(answer("Content-Encoding: gzip", f"Content-Length: {len(body)}") + body)

    client = await two.asks(request("Connection: close"))

    assert "Content-Encoding: gzip" in client.headers
    assert await client.rest() == body


async def test_an_answer_is_told_as_it_arrives(two: Two) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def slow(request: web.Request) -> web.StreamResponse:
        told = web.StreamResponse()
        await told.prepare(request)
        while piece := await pieces.get():
            await told.write(piece)
        return told

    await two.owner(slow)
    client = await two.asks(GET)

    for piece in (b"data: 1\n\n", b"data: 2\n\n", b""):
        pieces.put_nowait(piece)
        assert await client.chunk() == piece


@pytest.mark.parametrize("length", [True, False])
async def test_an_owner_is_asked_when_the_whole_body_is_here(two: Two, length: bool) -> None:
    await two.owner(echoes)
    client = await two.client()
    await client.says(request("Content-Length: 10", line="POST / HTTP/1.1") if length else CHUNKED)

    await client.says(b"hello" if length else b"5\r\nhello\r\n")
    await two.asks(GET)
    before = [each.method for each in two.at_the_owner]
    await (await client.says(b"again" if length else b"5\r\nagain\r\n0\r\n\r\n")).hears()

    assert before == ["GET"]
    assert (client.status, await soon(client.reader.readexactly(10))) == (200, b"helloagain")
    assert two.at_the_owner[1].headers["Content-Length"] == "10"


async def test_a_client_that_waits_to_be_told_to_go_on_is_told(two: Two) -> None:
    await two.owner(echoes)

    client = await two.asks(request("Expect: 100-continue", "Content-Length: 5", line="PUT / HTTP/1.1"))
    first = client.status
    await (await client.says(b"hello")).hears()

    assert (first, client.status, await soon(client.reader.readexactly(5))) == (100, 200, b"hello")
    assert "Expect" not in two.at_the_owner[0].headers


async def test_an_upgrade_is_not_asked_for(two: Two) -> None:
    await two.owner(ok)

    client = await two.asks(request("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"))

    assert client.status == 200
    assert "Upgrade" not in two.at_the_owner[0].headers


@pytest.mark.parametrize("to", ["http://127.0.0.1:1", "http://nobody.invalid:6066", "https://127.0.0.1:{listens}"])
async def test_an_owner_that_cannot_be_reached_is_not_ready(two: Two, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "nobody knows it")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # no name server is asked
    await two.owner(ok)
    two.to = URL(to.format(listens=two.to.port))

    client = await two.asks(request("Connection: close"))

    assert client.status == 503
    assert f"the project's owner, {two.to}, cannot be asked" in (await client.rest()).decode()


def settings_of(shown: Certificate, tls_ca: Path | None = None) -> Settings:
    return Settings(tls_cert=shown.cert, tls_key=shown.key, tls_ca=tls_ca)


async def test_workers_that_share_a_certificate_ask_each_other_over_https(two: Two, certificate: Certificate) -> None:
    settings = settings_of(certificate)
    two.proxy = Proxy(trusted=trusted(settings))
    await two.owner(ok, served(settings))

    client = await two.asks(request("Connection: close"))

    assert two.to.scheme == "https"
    assert (client.status, await client.rest()) == (200, b"ok")


async def test_an_owner_is_trusted_by_the_ca_that_is_set(
    two: Two, certificate: Certificate, other_certificate: Certificate
) -> None:
    two.proxy = Proxy(trusted=trusted(settings_of(other_certificate, tls_ca=certificate.cert)))
    await two.owner(ok, served(settings_of(certificate)))

    assert (await two.asks(GET)).status == 200


@pytest.mark.parametrize("ca", ["another", "the system's", "its own, for another name"])
async def test_an_owner_that_cannot_be_verified_is_asked_nothing(
    two: Two, certificate: Certificate, other_certificate: Certificate, ca: str
) -> None:
    shown = other_certificate if ca == "its own, for another name" else certificate
    two.proxy = Proxy(trusted=True if ca == "the system's" else trusted(settings_of(other_certificate)))
    await two.owner(ok, served(settings_of(shown)))

    client = await two.asks(request("Connection: close"))

    assert client.status == 503
    assert "certificate verify failed" in (await client.rest()).decode()
    assert two.at_the_owner == []


async def test_an_owner_that_lets_nobody_in_is_given_up_after_a_time(two: Two, full_port: int) -> None:
    two.proxy = Proxy(connect_s=0.05)
    two.to = URL(f"http://127.0.0.1:{full_port}")

    client = await two.asks(request("Connection: close"))

    assert (client.status, await client.rest()) == (
        503,
        f"the project's owner, {two.to}, did not let us in within 0.05 s".encode(),
    )


async def test_an_owner_that_does_not_answer_is_given_up_after_a_time(two: Two, taken_port: int) -> None:
    two.patience_s = 0.05
    two.to = URL(f"http://127.0.0.1:{taken_port}")

    client = await two.asks(request("Connection: close"))

    assert (client.status, await client.rest()) == (
        503,
        f"the project's owner, {two.to}, did not answer within 0.05 s".encode(),
    )


async def test_the_time_to_answer_is_more_than_the_time_to_be_reached(two: Two, full_port: int) -> None:
    arrived, other = asyncio.Event(), asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        arrived.set()
        await other.wait()
        return web.Response()

    two.proxy = Proxy(connect_s=0.05)
    await two.owner(late)
    client = await (await two.client()).says(GET)
    await soon(arrived.wait())
    two.to = URL(f"http://127.0.0.1:{full_port}")

    given_up = await two.asks(GET)
    other.set()

    assert (given_up.status, (await client.hears()).status) == (503, 200)


async def test_nothing_is_sent_twice(two: Two) -> None:
    heads = await two.owner_of_bytes()  # reads, and closes

    client = await two.asks(GET)

    assert (client.status, len(heads)) == (503, 1)


async def test_an_owner_that_keeps_a_connection_and_then_closes_it_is_asked_on_a_new_one(two: Two) -> None:
    # It closes when the second request on a connection arrives, as one does whose time for it is over.
    heads = await two.owner_of_bytes(answer("Content-Length: 0"))

    statuses = [(await two.asks(GET)).status for _ in range(3)]

    assert (statuses, len(heads)) == ([200, 200, 200], 3)


async def test_an_owner_that_is_no_more_the_owner_is_not_waited_for(two: Two) -> None:
    two.gone = asyncio.get_running_loop().create_future()

    async def moves(request: web.Request) -> web.StreamResponse:
        assert two.gone
        two.gone.set_result(None)
        return await never(request)

    await two.owner(moves)

    client = await two.asks(request("Connection: close"))

    assert (client.status, await client.rest()) == (503, b"the project has moved to another worker")
    await soon(two.left.wait())


async def test_an_answer_that_has_begun_is_told_to_its_end_by_who_was_the_owner(two: Two) -> None:
    two.gone, ends = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def begun(request: web.Request) -> web.StreamResponse:
        told = web.StreamResponse()
        await told.prepare(request)
        await ends.wait()
        return told

    await two.owner(begun)
    client = await two.asks(GET)

    two.gone.set_result(None)
    ends.set()

    assert await client.chunk() == b""


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    "part", [answer("Content-Length: 9") + b"hello", answer("Transfer-Encoding: chunked") + b"5\r\nhello\r\n"]
)
async def test_an_answer_that_its_owner_breaks_off_never_looks_whole(two: Two, version: str, part: bytes) -> None:
    goes = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(part)
        await goes.wait()
        writer.close()

    server = await two.stack.enter_async_context(await asyncio.start_server(speak, "127.0.0.1", 0))
    two.to = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    client = await two.asks(request(line=f"GET / HTTP/{version}"))

    goes.set()

    with pytest.raises(ConnectionResetError):
        await client.rest()


@pytest.mark.parametrize("https", [False, True], indirect=True)
async def test_an_owner_that_falls_silent_is_given_up(two: Two) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await web.StreamResponse().prepare(request)
        return await never(request)

    two.proxy = Proxy(trusted=trusted(two.https), silence_s=0.05)
    await two.owner(silent)
    client = await two.asks(GET)

    with pytest.raises(ConnectionResetError):
        await client.rest()
    await soon(two.left.wait())


async def test_a_client_that_does_not_read_holds_back_the_owner_and_is_given_up(two: Two) -> None:
    written = 0

    async def floods(request: web.Request) -> web.StreamResponse:
        nonlocal written
        told = web.StreamResponse()
        await told.prepare(request)
        while True:
            await told.write(bytes(2**20))
            written += 1

    two.proxy = Proxy(silence_s=0.2)
    await two.owner(floods)
    client = await two.client()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's has it

    await client.says(GET)

    await soon(two.left.wait())
    assert written < 64


@pytest.mark.parametrize("https", [False, True], indirect=True)
@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_leaves_takes_its_request_back(two: Two, begun: bool) -> None:
    arrived = asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        if begun:
            await web.StreamResponse().prepare(request)
        arrived.set()
        return await never(request)

    await two.owner(waits)
    client = await (await two.client()).says(GET)
    await soon(arrived.wait())

    await client.leaves()

    await soon(two.left.wait())
    HTTPStatus(proxy.LEFT)  # as Faust's monitor asks of every answer
    assert await soon(two.outcomes.get()) == (200 if begun else proxy.LEFT)


async def test_clients_that_do_not_send_their_bodies_take_nothing_from_others(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "CONNECTIONS_TO_ONE", 1)
    two.proxy = Proxy(connect_s=0.05)
    await two.owner(echoes)
    for _ in range(2):
        await (await two.client()).says(CHUNKED, b"5\r\nhello\r\n")

    assert (await two.asks(GET)).status == 200


async def test_a_dead_owner_takes_no_more_than_its_share(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CONNECTIONS_TO_ONE", 1)
    two.proxy = Proxy(connect_s=0.05)
    arrived = await two.waiting_owner()
    await (await two.client()).says(GET)
    await soon(arrived.wait())

    refused = await two.asks(request("Connection: close"))
    await two.owner(ok)

    assert (refused.status, (await two.asks(GET)).status) == (503, 200)
    assert b"did not let us in within 0.05 s" in await refused.rest()


async def test_a_worker_that_stops_ends_what_it_forwards(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CONNECTIONS_TO_ONE", 1)
    arrived = await two.waiting_owner()
    one, queued = [await (await two.client()).says(GET) for _ in range(2)]
    await soon(arrived.wait())

    await two.proxy.close()

    after = await two.asks(request("Connection: close"))
    assert [(await each.hears()).status for each in (one, queued)] == [503, 503]
    assert (after.status, await after.rest()) == (503, b"this worker is stopping")
    await soon(two.left.wait())
