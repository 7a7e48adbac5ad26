"""The worker's web view: what answers on its port."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import faust
import msgspec
import orjson
from aiohttp import web
from faust.web import View

from streams.errors import ActivesetError, BadQuery, NotReady, UnknownProject, UnknownTask
from streams.media import Id
from web.active_set import ActiveSets
from web.query import query

RETRY_AFTER_S = 2
# Which status tells of which error, and the code that programs go by.
PROBLEMS: dict[type[ActivesetError], tuple[int, str]] = {
    BadQuery: (400, "bad_request"),
    UnknownProject: (404, "project_not_found"),
    UnknownTask: (404, "task_not_found"),
    NotReady: (503, "not_ready"),
}

Answer = Callable[..., Awaitable[Any]]


class Route(NamedTuple):
    """A route: its path, what it answers, and whether asking changes anything."""

    path: str
    meaning: str
    name: str
    marks: bool = False


ACTIVE = Route(
    "/api/v1/organizations/{organization}/workspaces/{workspace}/projects/{project}/datasets/active",
    "the active set, as Geti has it, of `task_id` (without it, of the whole project), `limit` media (100; at most "
    "1,000); marks them as suggested: no other request gets them while others are left",
    "GetActiveDataset",
    marks=True,
)
ACTIVE_SET = Route(
    "/v1/projects/{project}/active-set",
    "the same, and marks nothing; a parameter that nobody knows is an error, and so is a `limit` above 1,000",
    "GetActiveSet",
)
LIVEZ = Route("/livez", "200 while the process is worth keeping", "livez")
READYZ = Route(
    "/readyz",
    "200 with the partitions it owns, or 503 with `Retry-After` while it starts, its partitions move, or it stops",
    "readyz",
)
ROUTES = (ACTIVE, ACTIVE_SET, LIVEZ, READYZ)


def declare(app: faust.App, active_sets: ActiveSets) -> None:
    """Put the routes on the application's web server."""

    async def live(_: web.Request) -> object:
        if app.should_stop:
            raise NotReady("this worker is stopping")
        return {"status": "live"}

    async def are_ready(_: web.Request) -> object:
        check_ready(app)
        return {"status": "ready", "partitions": owned(app)}

    async def shown(request: web.Request, project: str) -> object:
        asked = query([*request.query.items()], strict=True)
        check_ready(app)
        return await active_sets.shown(known(project), asked)

    async def suggested(request: web.Request, organization: str, workspace: str, project: str) -> object:  # noqa: ARG001 - projects tell no organization
        asked = query([*request.query.items()], strict=False)
        check_ready(app)
        return await active_sets.suggested(known(project), asked, workspace)

    for route, answers in ((LIVEZ, live), (READYZ, are_ready), (ACTIVE_SET, shown), (ACTIVE, suggested)):
        app.page(route.path, name=route.name)(view(route, answers))


def view(route: Route, answers: Answer) -> type[View]:
    """Faust's view of a route: its answer as JSON, its errors as problems."""

    class OfRoute(View):
        async def get(self, request: Any, **parts: Any) -> web.Response:
            try:
                return answer(await answers(request, **parts))
            except tuple(PROBLEMS) as why:
                return problem(*PROBLEMS[type(why)], str(why))

        async def head(self, request: Any, **parts: Any) -> web.Response:
            # Faust's own calls `get`, which would mark.
            if route.marks:
                told = problem(405, "method_not_allowed", "HEAD would mark media as suggested: ask with GET")
                told.headers["Allow"] = "GET"
                return told
            return await self.get(request, **parts)

    return OfRoute


def check_ready(app: Any) -> None:
    """Whether the worker has joined the group, restored its tables and is not rebalancing or stopping.

    Raises:
        NotReady: it has not, or is.
    """
    if not ready(app):
        raise NotReady("this worker is starting, its partitions are moving, or it is stopping")


def ready(app: Any) -> bool:
    """The same as a truth value."""
    return not app.should_stop and not app.rebalancing and app.tables.recovery.completed.is_set()


def owned(app: Any) -> list[int]:
    """The partitions of every topic that this worker owns, in order; none where there are more workers than those."""
    return sorted({tp.partition for tp in app.assignor.assigned_actives()})


def known(project: str) -> str:
    """A project id out of a URL.

    Raises:
        UnknownProject: it can be no project's.
    """
    try:
        return msgspec.convert(project, Id)
    except msgspec.ValidationError as why:
        raise UnknownProject(f"there is no project {project[:100]!r}: {why}") from why


def answer(body: object) -> web.Response:
    """A 200 with a JSON body that no cache may keep."""
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers=headers)


def problem(status: int, error_code: str, message: str) -> web.Response:
    """An error as RFC 9457 has it, with Geti's `error_code` and `message` beside the standard members."""
    body = {"type": "about:blank", "status": status, "title": error_code, "detail": message}
    headers = {"Cache-Control": "no-store"}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return web.Response(
        status=status,
        body=orjson.dumps({**body, "error_code": error_code, "message": message}),
        content_type="application/problem+json",
        headers=headers,
    )
