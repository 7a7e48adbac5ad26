"""The worker's web view: what answers on its port."""

from typing import Any

import faust
import orjson
from aiohttp import web
from faust.web import View

RETRY_AFTER_S = 2


def declare(app: faust.App) -> None:
    """Put the routes on the application's web server."""
    app.page("/livez", name="livez")(Livez)
    app.page("/readyz", name="readyz")(Readyz)


class Livez(View):
    """Whether the process is worth keeping: 200, or 503 once it has crashed and will end."""

    async def get(self, request: Any, **_: Any) -> web.Response:  # noqa: ARG002 - Faust's signature
        """Answer from memory alone."""
        if self.app.should_stop:
            return problem(503, "stopping", "this worker is stopping")
        return answer({"status": "live"})


class Readyz(View):
    """Whether this worker can take requests: 200 with its partitions, or 503 while it starts, moves or stops."""

    async def get(self, request: Any, **_: Any) -> web.Response:  # noqa: ARG002 - Faust's signature
        """Answer from memory alone."""
        if not ready(self.app):
            return problem(503, "not_ready", "this worker is starting, its partitions are moving, or it is stopping")
        return answer({"status": "ready", "partitions": owned(self.app)})


def ready(app: Any) -> bool:
    """Whether the worker has joined the group, restored its tables and is not rebalancing or stopping."""
    return not app.should_stop and not app.rebalancing and app.tables.recovery.completed.is_set()


def owned(app: Any) -> list[int]:
    """The partitions of every topic that this worker owns, in order; none where there are more workers than those."""
    return sorted({tp.partition for tp in app.assignor.assigned_actives()})


def answer(body: object) -> web.Response:
    """A 200 with a JSON body that no cache may keep."""
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers=headers)


def problem(status: int, error_code: str, message: str) -> web.Response:
    """An error as RFC 9457 has it, with Geti's `error_code` and `message` beside the standard members."""
    body = {"type": "about:blank", "status": status, "title": error_code, "detail": message}
    return web.Response(
        status=status,
        body=orjson.dumps({**body, "error_code": error_code, "message": message}),
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store", "Retry-After": str(RETRY_AFTER_S)},
    )
