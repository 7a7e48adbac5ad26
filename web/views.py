"""The worker's web view: what answers on its port."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import msgspec
from aiohttp import web
from faust.web import View

from streams.errors import ActivesetError, UnknownLease, UnknownProject
from streams.media import Id, said
from web.active_set import PATIENCE_S, ActiveSets
from web.door import Door
from web.leases import LeaseRenewal, LeaseRequest, Leases, Skip
from web.metrics import CONTENT_TYPE, Metrics, Standing, measured
from web.openapi import openapi
from web.problems import answer, guarded, problem, safe
from web.query import T, body, once, query, user
from web.reasons import Reasons
from web.routes import (
    ACTIVE,
    ACTIVE_SET,
    BALANCE,
    LEASE,
    LIVEZ,
    MEDIUM,
    METRICS,
    OPENAPI,
    ORGANIZATION,
    PRODUCT,
    PROJECT,
    READYZ,
    RELEASE,
    RENEW,
    ROUTES,
    SKIP,
    Route,
)
from web.server import Runner

ANSWER_S = 5.0  # of another worker, for what marks nothing
GETI = "2.13.0"  # its client refuses one that is older than 1.16, and warns of one that is newer than itself

Answer = Callable[..., Awaitable[web.StreamResponse]]


def declare(door: Door, active_sets: ActiveSets, metrics: Metrics) -> None:
    """Put the routes on the application's web server, and what tells how the worker stands into its metrics."""
    metrics.registry.register(Standing(door, active_sets.now))

    async def live(_: web.Request) -> web.StreamResponse:
        return answer(door.check_live())

    async def are_ready(_: web.Request) -> web.StreamResponse:
        return answer(door.check_ready())

    async def watched(_: web.Request) -> web.StreamResponse:
        # Whole as Prometheus reads it: aiohttp would not take a version in `content_type`.
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    async def shown(request: web.Request, project: str) -> web.StreamResponse:
        asked, name = query([*request.query.items()], strict=True), known(project)

        async def here() -> web.Response:
            return safe(request, await active_sets.written(name, asked))

        return await door.answer(request, name, here, ANSWER_S)

    async def suggested(request: web.Request, organization: str, workspace: str, project: str) -> web.StreamResponse:  # noqa: ARG001 - projects tell no organization
        asked, name = query([*request.query.items()], strict=False), known(project)

        async def here() -> web.Response:
            return answer(await active_sets.suggested(name, asked, workspace))

        return await door.answer(request, name, here, PATIENCE_S + ANSWER_S)

    contract = openapi(ROUTES)

    async def told_whole(request: web.Request) -> web.StreamResponse:
        return safe(request, contract)

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
        made_up = uuid4().hex  # once: the door may ask twice

        async def here() -> web.Response:
            return answer(await leases.lease(project, await told(request, LeaseRequest), made_up))

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

    async def product(request: web.Request) -> web.StreamResponse:
        return safe(request, {"product-version": GETI})

    async def organization(request: web.Request) -> web.StreamResponse:
        return safe(request, {"organizationId": "activeset"})

    async def balance(_: web.Request, organization: str) -> web.StreamResponse:  # noqa: ARG001 - whoever asks
        return web.Response(status=204, headers={"Cache-Control": "no-cache"})

    served: Any = door.app.web  # Faust's aiohttp driver
    served.web_app.middlewares.extend((measured(metrics), guarded))
    served.run_by(Runner)
    answers: list[tuple[Route, Answer]] = [
        (LIVEZ, live),
        (READYZ, are_ready),
        (METRICS, watched),
        (ACTIVE_SET, shown),
        (ACTIVE, suggested),
        (MEDIUM, medium),
        (PROJECT, overview),
        (LEASE, lease),
        (RENEW, renewed),
        (RELEASE, released),
        (SKIP, skipped),
        (PRODUCT, product),
        (ORGANIZATION, organization),
        (BALANCE, balance),
        (OPENAPI, told_whole),
    ]
    paths: dict[str, list[tuple[Route, Answer]]] = {}
    for route, answers_it in answers:
        paths.setdefault(route.path, []).append((route, answers_it))
    for path, of_path in paths.items():
        # aiohttp's own parts have no braces, and ids may.
        parts = re.sub(r"{(\w+)}", r"{\1:[^/]+}", path)
        door.app.page(parts, name=of_path[0][0].name)(view(of_path))


def view(routes: Sequence[tuple[Route, Answer]]) -> type[View]:
    """Faust's view of the routes of a path."""
    allow = ", ".join(route.method for route, _ in routes)

    async def refused(*_: Any, **__: Any) -> web.StreamResponse:
        told = problem(405, "method_not_allowed", f"the method must be {allow}")
        told.headers["Allow"] = allow
        return told

    class OfRoutes(View):
        async def head(self, request: Any, **parts: Any) -> web.StreamResponse:
            # Faust's own calls `get`, which may mark.
            if any(route.marks for route, _ in routes):
                return await refused()
            answered: web.StreamResponse = await self.get(request, **parts)
            return answered

    for route, answers in routes:
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
        raise unknown(f"there is no {what} {text[:100]!r}: {said(why)}") from why
