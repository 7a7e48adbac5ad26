"""The worker's web view: what answers on its port."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from aiohttp import web
from faust.web import View

from streams.errors import UnknownProject
from streams.media import Id
from web.active_set import PATIENCE_S, ActiveSets
from web.door import Door
from web.problems import answer, guarded, problem
from web.query import query

ANSWER_S = 5.0  # of another worker, for what marks nothing

Answer = Callable[..., Awaitable[web.StreamResponse]]


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
LIVEZ = Route(
    "/livez", "200 while the process is worth keeping; 503 when it does not get on any more, and ends", "livez"
)
READYZ = Route(
    "/readyz",
    "200 with the partitions it answers for, or 503 with `Retry-After` while it starts or catches up, its partitions "
    "move, it has lost Kafka, or it stops",
    "readyz",
)
ROUTES = (ACTIVE, ACTIVE_SET, LIVEZ, READYZ)


def declare(door: Door, active_sets: ActiveSets) -> None:
    """Put the routes on the application's web server."""

    async def live(_: web.Request) -> web.StreamResponse:
        return answer(door.check_live())

    async def are_ready(_: web.Request) -> web.StreamResponse:
        return answer(door.check_ready())

    async def shown(request: web.Request, project: str) -> web.StreamResponse:
        asked, name = query([*request.query.items()], strict=True), known(project)

        async def here() -> web.Response:
            return answer(await active_sets.shown(name, asked))

        return await door.answer(request, name, here, ANSWER_S)

    async def suggested(request: web.Request, organization: str, workspace: str, project: str) -> web.StreamResponse:  # noqa: ARG001 - projects tell no organization
        asked, name = query([*request.query.items()], strict=False), known(project)

        async def here() -> web.Response:
            return answer(await active_sets.suggested(name, asked, workspace))

        return await door.answer(request, name, here, PATIENCE_S + ANSWER_S)

    served: Any = door.app.web  # Faust's aiohttp driver
    served.web_app.middlewares.append(guarded)
    for route, answers in ((LIVEZ, live), (READYZ, are_ready), (ACTIVE_SET, shown), (ACTIVE, suggested)):
        door.app.page(route.path, name=route.name)(view(route, answers))


def view(route: Route, answers: Answer) -> type[View]:
    """Faust's view of a route."""

    class OfRoute(View):
        async def get(self, request: Any, **parts: Any) -> web.StreamResponse:
            return await answers(request, **parts)

        async def head(self, request: Any, **parts: Any) -> web.StreamResponse:
            # Faust's own calls `get`, which would mark.
            if route.marks:
                told = problem(405, "method_not_allowed", "HEAD would mark media as suggested: ask with GET")
                told.headers["Allow"] = "GET"
                return told
            return await self.get(request, **parts)

    return OfRoute


def known(project: str) -> str:
    """A project id out of a URL.

    Raises:
        UnknownProject: it can be no project's.
    """
    try:
        return msgspec.convert(project, Id)
    except msgspec.ValidationError as why:
        raise UnknownProject(f"there is no project {project[:100]!r}: {why}") from why
