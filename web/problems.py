"""What goes wrong, as HTTP tells it: problems (RFC 9457) with Geti's `error_code` and `message`; and what is let in."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from http import HTTPStatus
from typing import NamedTuple

import orjson
from aiohttp import hdrs, web

from streams.app import BODY_BYTES
from streams.errors import (
    ActivesetError,
    BadQuery,
    CorruptStore,
    LeaseOver,
    NotReady,
    NotTheirLease,
    RequestUsed,
    UnknownLease,
    UnknownMedium,
    UnknownProject,
    UnknownTask,
    WrongMediaType,
)

log = logging.getLogger("activeset.web")

RETRY_AFTER_S = 2
QUERY_BYTES = 4 * 1024  # of what stands behind the question mark
BODY_S = 10.0  # for a body to be here
# Which status tells of which error, and the code that programs go by.
PROBLEMS: dict[type[ActivesetError], tuple[int, str]] = {
    BadQuery: (400, "bad_request"),
    UnknownProject: (404, "project_not_found"),
    UnknownTask: (404, "task_not_found"),
    UnknownMedium: (404, "media_not_found"),
    UnknownLease: (404, "lease_not_found"),
    NotTheirLease: (403, "lease_of_another_user"),
    LeaseOver: (410, "lease_over"),
    RequestUsed: (409, "request_id_used"),
    WrongMediaType: (415, "unsupported_media_type"),
    NotReady: (503, "not_ready"),
    CorruptStore: (503, "not_ready"),
}
# What is meant for a person, where aiohttp says little.
TOLD = {
    404: "there is nothing here: the routes are in the README",
    405: "this route does not know the method",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every request: refused if it is too large, and answered with a problem whatever goes wrong."""
    try:
        check_size(request)
        await read(request)
        return await handler(request)
    except tuple(PROBLEMS) as why:
        return problem(*PROBLEMS[type(why)], str(why))
    except web.HTTPException as why:
        if why.status < 400:
            raise
        told = refusal(why.status, TOLD.get(why.status) or (why.text or "").removeprefix(f"{why.status}: "))
        if hdrs.ALLOW in why.headers:
            told.headers[hdrs.ALLOW] = why.headers[hdrs.ALLOW]
        return told
    except Exception:
        log.exception("a request could not be answered: %s %s", request.method, request.rel_url.raw_path)
        return problem(500, "internal_server_error", "this is a bug: the worker's log tells where")


def check_size(request: web.Request) -> None:
    """See that a request can be let in.

    Raises:
        HTTPException: what is too large, or compressed: that would be unpacked before anybody looks at its size.
    """
    if hdrs.CONTENT_ENCODING in request.headers:
        raise web.HTTPUnsupportedMediaType(text="Content-Encoding must not be set: send the body as it is")
    if (request.content_length or 0) > BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(
            BODY_BYTES, text=f"the body must be at most {BODY_BYTES} bytes, not {request.content_length}"
        )
    query = len(request.rel_url.raw_query_string)
    if query > QUERY_BYTES:
        raise web.HTTPRequestURITooLong(text=f"the query must be at most {QUERY_BYTES} bytes, not {query}")


async def read(request: web.Request) -> None:
    """Read the body of a request, which it keeps: before anything is held that others wait for.

    Raises:
        HTTPException: it is too large, no body at all, or not here in time.
    """
    if not request.body_exists:
        return
    try:
        async with asyncio.timeout(BODY_S):
            await request.read()
    except TimeoutError as why:
        raise web.HTTPRequestTimeout(text=f"the body must be here within {BODY_S:g} s") from why
    except (web.RequestPayloadError, ConnectionError) as why:  # or the client has left, and nobody reads this
        raise web.HTTPBadRequest(
            text="the body must be as long as it is said to be, or in chunks that HTTP knows"
        ) from why


def refusal(status: int, text: str) -> web.Response:
    """An error of which nothing but its status is known, and perhaps a text."""
    meant = HTTPStatus(status)
    code = meant.phrase.lower().replace(" ", "_").replace("-", "_")
    return problem(status, code, text or meant.description)


def answer(body: object) -> web.Response:
    """A 200 with a JSON body that no cache may keep."""
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers=headers)


def tag_of(raw: bytes) -> str:
    """The `ETag` of a body, or of what stands for it."""
    return f'"{blake2b(raw, digest_size=12).hexdigest()}"'


class Whole(NamedTuple):
    """A JSON body, and its `ETag`."""

    raw: bytes
    tag: str


def safe(request: web.Request, body: object) -> web.Response:
    """A 200 with a JSON body that a client may keep and ask for again by its `ETag`; a 304 if it has that already."""
    raw = body.raw if isinstance(body, Whole) else orjson.dumps(body)
    headers = {"Cache-Control": "no-cache", "ETag": body.tag if isinstance(body, Whole) else tag_of(raw)}
    if hdrs.IF_NONE_MATCH in request.headers:
        known = ",".join(request.headers.getall(hdrs.IF_NONE_MATCH))
        asked = [each.strip().removeprefix("W/") for each in known.split(",")]
        if headers["ETag"] in asked or "*" in asked:
            return web.Response(status=304, headers=headers)
    return web.Response(body=raw, headers={**headers, "Content-Type": "application/json"})


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
