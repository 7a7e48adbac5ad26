"""A request forwarded, once, to the worker that owns its project.

Nothing is sent twice: a request may mark, and whoever repeats it marks twice. So a connection carries one request (an
owner may close a kept one just as the next request is written, and nobody knows then whether it was read), and
aiohttp's own second try of a GET is refused.

The whole body is here before an owner is asked: a slow client holds no connection that others wait for.

An owner has a time to be reached, then a time to answer, then a time from one piece of its body to the next. Until its
headers are here, whatever goes wrong is NotReady. From then on the client holds a part of an answer, and its connection
is reset: a plain close is how an answer without a length ends well.
"""

import asyncio
import logging
import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from streams.errors import NotReady

FORWARDED = "Activeset-Forwarded"
# An owner that is dead holds its own connections until it is given up, and those of no other.
CONNECTIONS_TO_ONE, CONNECTIONS = 64, 512
LEFT = 400  # to nobody; Faust counts answers by their status, and falls over one that is not registered
WATCH_S = 0.25
# RFC 9110, 7.6.1; and whatever begins with `Proxy-`, and what `Connection` names.
OF_A_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
# The client of the owner says its own host; `Expect` has been answered before a view is called.
DROPPED = (hdrs.HOST, hdrs.EXPECT)
NOT_ADDED = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT)

log = logging.getLogger("activeset.proxy")


class Proxy:
    """Forwards requests to other workers.

    trusted: whom an owner that is asked over HTTPS must be verified by; True are the system's CAs.
    connect_s: until an owner is reached, with the wait for one of the connections that it may hold.
    silence_s: the longest that an owner sends nothing, or a client takes nothing, within an answer.
    """

    def __init__(
        self,
        *,
        trusted: ssl.SSLContext | bool = True,
        connect_s: float = 2.0,
        silence_s: float = 60.0,
    ) -> None:
        self._trusted = trusted
        self._connect_s, self._silence_s = connect_s, silence_s
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    @staticmethod
    def forwarded(request: web.Request) -> bool:
        """Whether another worker forwarded this request: it must not go on."""
        return FORWARDED in request.headers

    async def forward(
        self, request: web.Request, to: URL, *, patience_s: float, gone: asyncio.Future[Any] | None = None
    ) -> web.StreamResponse:
        """The owner's answer, told to the client as far as it came; `LEFT` to a client that left.

        request: one that was let in (`guarded`).
        to: where the owner is, `http://host:port` or `https://host:port`.
        patience_s: from when the owner is reached until its headers are here, the sending of the body included.
        gone: is done when the owner is no more the owner; an answer that has begun goes on.

        Raises:
            NotReady: the owner is not reached or not trusted, breaks off or does not answer in time, or is gone, or
                this proxy is closed. The owner may have done what it was asked.
        """
        exchange = Exchange(request, await request.read() if request.body_exists else None)
        doing = asyncio.create_task(self._do(exchange, to, patience_s))
        try:
            return await outcome(exchange, doing, gone)
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)

    async def close(self) -> None:
        """End what is under way, and take no more."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _do(self, exchange: "Exchange", to: URL, patience_s: float) -> web.StreamResponse:
        owner = await self._ask(exchange, to, patience_s)
        try:
            return await exchange.tell(owner, self._silence_s)
        finally:
            owner.close()

    async def _ask(self, exchange: "Exchange", to: URL, patience_s: float) -> aiohttp.ClientResponse:
        """The owner's answer as far as its headers."""
        session, request = self._opened(), exchange.request
        wait = Wait(asyncio.timeout(self._connect_s), patience_s)
        try:
            async with wait.clock:
                return await session.request(
                    request.method,
                    URL(f"{to.origin()}{request.rel_url.raw_path_qs}", encoded=True),
                    headers=asked(request),
                    data=exchange.body,
                    allow_redirects=False,
                    trace_request_ctx=wait,
                )
        except TimeoutError as why:
            missed = f"answer within {patience_s:g} s" if wait.reached else f"let us in within {self._connect_s:g} s"
            raise NotReady(f"the project's owner, {to.origin()}, did not {missed}") from why

    def _opened(self) -> aiohttp.ClientSession:
        """The session, which belongs to the loop that first asks for it."""
        if self._closed:
            raise NotReady("this worker is stopping")
        if self._session is None:
            self._session = opened(self._trusted)
        return self._session


def opened(trusted: ssl.SSLContext | bool = True) -> aiohttp.ClientSession:
    """A session that adds nothing to a request, changes nothing in an answer and remembers nothing of either."""
    reached = aiohttp.TraceConfig()
    reached.on_connection_create_end.append(begin)
    return aiohttp.ClientSession(
        # A connection for each request takes 0.4 ms of the millisecond that forwarding a GET costs on loopback.
        connector=aiohttp.TCPConnector(
            ssl=trusted, force_close=True, limit=CONNECTIONS, limit_per_host=CONNECTIONS_TO_ONE
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        auto_decompress=False,
        skip_auto_headers=NOT_ADDED,
        middlewares=(once,),
        trace_configs=[reached],
    )


@dataclass
class Wait:
    """How long an owner may take: until the clock rings, which is set anew when the owner is reached."""

    clock: asyncio.Timeout
    patience_s: float
    reached: bool = False


async def begin(_: aiohttp.ClientSession, of: SimpleNamespace, __: aiohttp.TraceConnectionCreateEndParams) -> None:
    """Begin the owner's time to answer: it is reached, and nothing is written to it yet."""
    wait: Wait = of.trace_request_ctx
    wait.reached = True
    wait.clock.reschedule(asyncio.get_running_loop().time() + wait.patience_s)


async def once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request, and no second time: aiohttp repeats a GET that broke off, but not if the error is ours."""
    try:
        return await send(request)
    except (aiohttp.ClientError, OSError) as why:
        told = f"{type(why).__name__}: {why}"
        raise NotReady(f"the project's owner, {request.url.origin()}, cannot be asked: {told}") from why


@dataclass
class Exchange:
    """A request of a client, and its answer once that has begun."""

    request: web.Request
    body: bytes | None
    answer: web.StreamResponse | None = None

    async def tell(self, owner: aiohttp.ClientResponse, silence_s: float) -> web.StreamResponse:
        """Tell the client what the owner answers, as it arrives; unless that is all of it, reset the connection."""
        now, whole = asyncio.get_running_loop().time, False
        self.answer = web.StreamResponse(status=owner.status, reason=owner.reason, headers=end_to_end(owner.headers))
        try:
            await self.answer.prepare(self.request)
            async with asyncio.timeout(silence_s) as clock:
                while chunk := await owner.content.readany():
                    clock.reschedule(now() + silence_s)
                    await self.answer.write(chunk)
                    clock.reschedule(now() + silence_s)
            whole = True
        except (aiohttp.ClientError, OSError) as why:
            if not left(self.request):
                log.warning("an answer of %s broke off: %s", owner.url.origin(), type(why).__name__)
        finally:
            if not whole:
                reset(self.request)
        return self.answer


async def outcome(
    exchange: Exchange, doing: asyncio.Future[web.StreamResponse], gone: asyncio.Future[Any] | None
) -> web.StreamResponse:
    """The answer of an exchange, or what ends it before."""
    while True:
        ends: list[asyncio.Future[Any]] = [doing]
        if gone is not None and exchange.answer is None:
            ends.append(gone)
        # aiohttp tells a handler nothing of a client that leaves: we have to look.
        await asyncio.wait(ends, timeout=WATCH_S, return_when=asyncio.FIRST_COMPLETED)
        answer = exchange.answer
        if left(exchange.request):
            return web.Response(status=LEFT) if answer is None else answer
        if doing.cancelled():
            raise NotReady("this worker is stopping")
        if doing.done():
            return doing.result()
        if answer is None and gone is not None and gone.done():
            raise NotReady("the project has moved to another worker")


def asked(request: web.Request) -> CIMultiDict[str]:
    """The headers with which an owner is asked."""
    headers = end_to_end(request.headers)
    for name in DROPPED:
        headers.popall(name, None)
    way = [*headers.popall("X-Forwarded-For", ()), request.remote or "unknown"]
    headers["X-Forwarded-For"] = ", ".join(way)
    # What the first proxy was asked for is what links are made of.
    headers.setdefault("X-Forwarded-Host", request.host)
    headers.setdefault("X-Forwarded-Proto", request.scheme)
    headers[FORWARDED] = "1"
    return headers


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers that are meant for the other end, in order, and repeated where they were."""
    dropped = OF_A_HOP | {
        name.strip().lower() for line in headers.getall(hdrs.CONNECTION, ()) for name in line.split(",")
    }
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in dropped and not name.lower().startswith("proxy-")
    )


def left(request: web.Request) -> bool:
    """Whether the client is no more there."""
    return request.transport is None or request.transport.is_closing()


def reset(request: web.Request) -> None:
    """End the client's connection so that no client takes what it has for the whole."""
    if request.transport is not None:
        wire: socket.socket = request.transport.get_extra_info("socket")
        with suppress(OSError):  # it is gone already
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
