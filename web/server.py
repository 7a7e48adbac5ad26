"""The server beneath the routes: what it refuses before a route could be asked is told as a problem, too."""

import asyncio
import logging

from aiohttp import web
from aiohttp.http_exceptions import InvalidURLError, LineTooLong

from web.problems import refusal

LINE_BYTES = 64 * 1024  # of a request's first line: ids that are too long are told to be unknown, by their names
HEADER_BYTES = 8 * 1024
HEAD_S = 10.0  # from a request's first byte to the end of its headers

log = logging.getLogger("activeset.web")


class Runner(web.AppRunner):
    """What runs an application on a server of ours."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **{
                **made._kwargs,
                "max_line_size": LINE_BYTES,
                "max_field_size": HEADER_BYTES,
                "auto_decompress": False,  # what is compressed is refused, and nobody unpacks it
            },
        )


class Server(web.Server):
    """A server whose connections are ours."""

    def __call__(self) -> web.RequestHandler:
        """A new one."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(web.RequestHandler):
    """A client's connection."""

    __slots__ = ("_head_late",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It begins; and is idle, for as long as it likes, until a request begins."""
        self._head_late: asyncio.TimerHandle | None = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """A part of a request; or of none, if its headers do not end soon: then there is nobody to answer."""
        super().data_received(data)
        within_a_head = self._waiter is not None and not self._waiter.done()
        if self._head_late is not None and not within_a_head:
            self._head_late.cancel()
            self._head_late = None
        elif self._head_late is None and within_a_head:
            self._head_late = self._loop.call_later(HEAD_S, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is over."""
        if self._head_late is not None:
            self._head_late.cancel()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is answered where nothing else could, before the connection is closed."""
        if isinstance(exc, LineTooLong):
            message = f"the first line must be at most {LINE_BYTES} bytes, and each header {HEADER_BYTES}"
        elif isinstance(exc, InvalidURLError):
            message = "the first line must name a path, or an absolute URI with one"
        if status < 500 and request.writer.output_size == 0:
            log.debug("what %s sent is no request: %s", request.remote, type(exc).__name__)
        else:
            super().handle_error(request, status, exc, message)  # writes the log; raises if an answer has begun
        told = refusal(status, message or "")
        told.force_close()
        return told

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Answer; what is refused before a view is asked, an `Expect` that nobody knows, comes here as an error."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = refusal(resp.status, resp.text or "")
        return await super().finish_response(request, resp, start_time)
