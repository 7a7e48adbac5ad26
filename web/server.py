"""The server beneath the routes: what it refuses before a route could be asked is told as a problem, too."""

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from web.problems import refusal

LINE_BYTES = 64 * 1024  # of a request's first line: ids that are too long are told to be unknown, by their names
HEADER_BYTES = 8 * 1024


class Runner(web.AppRunner):
    """What runs an application on a server of ours."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **{**made._kwargs, "max_line_size": LINE_BYTES, "max_field_size": HEADER_BYTES},
        )


class Server(web.Server):
    """A server whose connections are ours."""

    def __call__(self) -> web.RequestHandler:
        """A new one."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(web.RequestHandler):
    """A client's connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is answered where nothing else could, before the connection is closed."""
        super().handle_error(request, status, exc, message)  # writes the log; raises if an answer has begun
        if isinstance(exc, LineTooLong):
            message = f"the first line must be at most {LINE_BYTES} bytes, and each header {HEADER_BYTES}"
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
