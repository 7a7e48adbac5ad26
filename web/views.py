"""The worker's web view: what answers on its port."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web
from faust.web import View

from streams.errors import ActivesetError, UnknownLease, UnknownProject
from streams.media import Id
from web.active_set import PATIENCE_S, ActiveSets
from web.door import Door
from web.leases import LeaseRenewal, LeaseRequest, Leases, Skip
from web.problems import answer, guarded, problem, safe
from web.query import T, body, once, query, user
from web.reasons import Reasons

ANSWER_S = 5.0  # of another worker, for what marks nothing

Answer = Callable[..., Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """A route: its path, what it answers, whether asking changes anything, and its method."""

    path: str
    meaning: str
    name: str
    marks: bool = False
    method: str = "GET"


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
MEDIUM = Route(
    "/v1/projects/{project}/media/{medium}",
    "a medium, `image:<id>` or `frame:<video id>:<index>`: whether it may be had, its rank in the project or in "
    "`task_id`, and why: score, tier, and of each task utilities, label, model, and when it was scored",
    "GetMedium",
)
PROJECT = Route(
    "/v1/projects/{project}",
    "a project: its media by state and tier, the share of the pool that the active model has scored, how scores and "
    "predicted labels lie in the pool and in what is annotated, and how fresh it is",
    "GetProject",
)
LEASES = "/v1/projects/{project}/leases"
LEASE = Route(
    LEASES,
    "leases the best `limit` media (10; at most 1,000) of `task_id` or the whole project to `user_id` for `ttl_s` "
    "seconds (600; at most 604,800): nobody else gets them meanwhile; with a lease's `request_id`, that lease again",
    "LeaseMedia",
    marks=True,
    method="POST",
)
RENEW = Route(
    f"{LEASES}/{{lease}}",
    "the lease ends `ttl_s` seconds from now; `user_id` must have it",
    "RenewLease",
    marks=True,
    method="PATCH",
)
RELEASE = Route(
    f"{LEASES}/{{lease}}",
    "the lease is over, and its media are for others; the parameter `user_id` must have it",
    "ReleaseLease",
    marks=True,
    method="DELETE",
)
SKIP = Route(
    f"{LEASES}/{{lease}}/skips",
    "gives `media` of the lease back; `for` tells whom they are not for any more: `me` (others may get them), `others` "
    "(only `user_id` may), `good` (nobody may)",
    "SkipMedia",
    marks=True,
    method="POST",
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
ROUTES = (ACTIVE, ACTIVE_SET, MEDIUM, PROJECT, LEASE, RENEW, RELEASE, SKIP, LIVEZ, READYZ)


def declare(door: Door, active_sets: ActiveSets) -> None:
    """Put the routes on the application's web server."""

    async def live(_: web.Request) -> web.StreamResponse:
        return answer(door.check_live())

    async def are_ready(_: web.Request) -> web.StreamResponse:
        return answer(door.check_ready())

    async def shown(request: web.Request, project: str) -> web.StreamResponse:
        asked, name = query([*request.query.items()], strict=True), known(project)

        async def here() -> web.Response:
            return safe(request, await active_sets.shown(name, asked))

        return await door.answer(request, name, here, ANSWER_S)

    async def suggested(request: web.Request, organization: str, workspace: str, project: str) -> web.StreamResponse:  # noqa: ARG001 - projects tell no organization
        asked, name = query([*request.query.items()], strict=False), known(project)

        async def here() -> web.Response:
            return answer(await active_sets.suggested(name, asked, workspace))

        return await door.answer(request, name, here, PATIENCE_S + ANSWER_S)

    leases, reasons = Leases(active_sets), Reasons(active_sets)

    async def medium(request: web.Request, project: str, medium: str) -> web.StreamResponse:
        asked, name = query([*request.query.items()], strict=True, known=("task_id",)), known(project)

        async def here() -> web.Response:
            return safe(request, await reasons.medium(name, medium, asked.task_id))

        return await door.answer(request, name, here, ANSWER_S)

    async def overview(request: web.Request, project: str) -> web.StreamResponse:
        once([*request.query.items()], ())
        name = known(project)

        async def here() -> web.Response:
            return safe(request, await reasons.project(name))

        return await door.answer(request, name, here, ANSWER_S)

    async def lease(request: web.Request, project: str) -> web.StreamResponse:
        async def here() -> web.Response:
            return answer(await leases.lease(project, await told(request, LeaseRequest)))

        return await marked(request, project, here)

    async def renewed(request: web.Request, project: str, lease: str) -> web.StreamResponse:
        async def here() -> web.Response:
            return answer(await leases.renew(project, known_lease(lease), await told(request, LeaseRenewal)))

        return await marked(request, project, here)

    async def skipped(request: web.Request, project: str, lease: str) -> web.StreamResponse:
        async def here() -> web.Response:
            return answer(await leases.skip(project, known_lease(lease), await told(request, Skip)))

        return await marked(request, project, here)

    async def released(request: web.Request, project: str, lease: str) -> web.StreamResponse:
        async def here() -> web.Response:
            return answer(await leases.release(project, known_lease(lease), user([*request.query.items()])))

        return await marked(request, project, here)

    async def marked(
        request: web.Request, project: str, here: Callable[[], Awaitable[web.Response]]
    ) -> web.StreamResponse:
        return await door.answer(request, known(project), here, PATIENCE_S + ANSWER_S)

    served: Any = door.app.web  # Faust's aiohttp driver
    served.web_app.middlewares.append(guarded)
    answers: dict[Route, Answer] = {
        LIVEZ: live,
        READYZ: are_ready,
        ACTIVE_SET: shown,
        ACTIVE: suggested,
        MEDIUM: medium,
        PROJECT: overview,
        LEASE: lease,
        RENEW: renewed,
        RELEASE: released,
        SKIP: skipped,
    }
    paths: dict[str, dict[Route, Answer]] = {}
    for route, answers_it in answers.items():
        paths.setdefault(route.path, {})[route] = answers_it
    for path, of_path in paths.items():
        door.app.page(path, name=next(iter(of_path)).name)(view(of_path))


def view(routes: Mapping[Route, Answer]) -> type[View]:
    """Faust's view of the routes of a path."""
    allow = ", ".join(route.method for route in routes)

    async def refused(*_: Any, **__: Any) -> web.StreamResponse:
        told = problem(405, "method_not_allowed", f"the method must be {allow}")
        told.headers["Allow"] = allow
        return told

    class OfRoutes(View):
        async def head(self, request: Any, **parts: Any) -> web.StreamResponse:
            # Faust's own calls `get`, which may mark.
            if any(route.marks for route in routes):
                return await refused()
            answered: web.StreamResponse = await self.get(request, **parts)
            return answered

    for route, answers in routes.items():
        setattr(OfRoutes, route.method.lower(), method_of(answers))
    return OfRoutes


def method_of(answers: Answer) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A route's answer, as a method of a view."""

    async def method(_: View, request: Any, **parts: Any) -> web.StreamResponse:
        return await answers(request, **parts)

    return method


async def told(request: web.Request, kind: type[T]) -> T:
    """What the body of a request says, which has no parameters beside it.

    Raises:
        BadQuery, WrongMediaType.
    """
    once([*request.query.items()], ())
    return body(await request.read(), request.content_type, kind)


def known_lease(lease: str) -> str:
    """A lease's id out of a URL.

    Raises:
        UnknownLease: it can be no lease's.
    """
    return as_id(lease, "lease", UnknownLease)


def known(project: str) -> str:
    """A project id out of a URL.

    Raises:
        UnknownProject: it can be no project's.
    """
    return as_id(project, "project", UnknownProject)


def as_id(text: str, what: str, unknown: type[ActivesetError]) -> str:
    """An id out of a URL, or an error that says that there can be none."""
    try:
        return msgspec.convert(text, Id)
    except msgspec.ValidationError as why:
        raise unknown(f"there is no {what} {text[:100]!r}: {why}") from why
