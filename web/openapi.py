"""The HTTP contract as OpenAPI 3.1, made from the routes and the types that they name; `make schemas` writes it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from streams import VERSION
from streams.media import Id
from streams.schema import plain
from web.answers import Problem
from web.routes import ROUTES, Route

Told = dict[str, Any]
FILE = Path(__file__).with_name("openapi.json")
ALWAYS = (400, 405, 408, 413, 414, 415, 417, 500, 503)
ANY = Annotated[str, Meta(min_length=1)]
PARTS = {
    "project": "the project's id",
    "medium": "`image:<id>` or `frame:<video id>:<index>`",
    "lease": "the lease's id, which is that of the request it was granted to",
    "organization": "any: Geti's clients send it, and nothing depends on it",
    "workspace": "the project's workspace",
}
MEANINGS = {
    400: "a parameter or the body is not what it must be: the message names it and its range",
    403: "the lease is another user's",
    404: "there is no such project, task, medium or lease",
    405: "the route does not know the method",
    408: "the body is not here in time",
    409: "the request id was used before, by another user or for another task, or its lease is over",
    410: "the lease is over",
    413: "the body is too large",
    414: "the query is too long",
    415: "the body is compressed, or not JSON",
    417: "`Expect` is not `100-continue`",
    500: "a bug",
    503: "not now: the worker starts or stops, the project is on its way to another, or Kafka cannot be reached",
}
TAG = {"ETag": {"schema": {"type": "string"}}}


def openapi(routes: Sequence[Route]) -> Told:
    """The whole document."""
    components: Told = {}

    def schema(kind: Any) -> Told:
        [shown], found = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
        components.update({name: plain(each) for name, each in found.items()})
        return plain(shown)

    def operation(route: Route) -> Told:
        answers: Told = {"204": {"description": "nothing"}}
        if route.answers is not None:
            content = {route.media_type: {"schema": schema(route.answers)}}
            answers = {"200": {"description": "OK", "content": content}}
        if route.tagged:
            answers["200"]["headers"] = TAG
            answers["304"] = {"description": "it is still as `If-None-Match` says", "headers": TAG}
        for status in sorted({*ALWAYS, *route.problems}):
            content = {"application/problem+json": {"schema": schema(Problem)}}
            answers[str(status)] = {"description": MEANINGS[status], "content": content}
        answers["405"]["headers"] = {"Allow": {"schema": {"type": "string"}}}
        answers["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
        parts = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": PARTS[name],
                "schema": schema(ANY if name == "organization" else Id),
            }
            for name in re.findall(r"{(\w+)}", route.path)
        ]
        asked = [
            {"name": name, "in": "query", "required": name in route.needed, "schema": schema(kind)}
            for name, kind in route.parameters.items()
        ]
        told: Told = {"operationId": route.name, "description": route.meaning, "parameters": [*parts, *asked]}
        if route.body:
            told["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema(route.body)}}}
        return {**told, "responses": answers}

    paths: dict[str, Told] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Activeset",
            "version": VERSION,
            "summary": "Decides which media a person annotates next.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def written(told: Told) -> str:
    """The document as it is committed."""
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(written(openapi(ROUTES)))
