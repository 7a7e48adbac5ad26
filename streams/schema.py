"""The events as JSON Schema, draft 2020-12: one for each topic, made from the types; `make schemas` writes them."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from streams.decode import UploadedMedium
from streams.events import OF_TOPIC, AnnotationUpdated, MediaDeleted, MediaUploaded, ProjectUpdated

Schema = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = Path(__file__).with_name("schemas")
DEFS = "#/$defs/"

# Less than base64 is, which comes in fours: with a group for them, V8 runs out of stack on a text of 4 MB.
BASE64 = "^[A-Za-z0-9+/]*={0,2}$"
NULL: Schema = {"type": "null"}

# Where a schema holds other schemas. Everything else in it is words and values, and stays as it is.
ONE = {"items", "additionalProperties", "propertyNames"}
LISTS = {"anyOf", "prefixItems"}


def there(name: str) -> Schema:
    """That a member is there, and not null."""
    return {"required": [name], "properties": {name: {"not": NULL}}}


def absent(name: str) -> Schema:
    """That a member is not there, or null."""
    return {"properties": {name: NULL}}


def says(name: str, value: str) -> Schema:
    """That a member has this value, and not only by default."""
    return {"required": [name], "properties": {name: {"const": value}}}


# What a type or its decoder checks by code, and no annotation says. `media_uploads` is decoded in two steps: what
# `media` holds, or what stands beside the event's own fields, is `UploadedMedium`.
RULES: Mapping[type[msgspec.Struct], Schema] = {
    UploadedMedium: {"if": says("media_type", "video"), "then": there("frame_count")},
    MediaUploaded: {
        "if": there("media"),
        "then": {"properties": {"media": {"items": {"$ref": DEFS + UploadedMedium.__name__}}, "media_id": False}},
        "else": {"$ref": DEFS + UploadedMedium.__name__},
    },
    MediaDeleted: {"if": there("media"), "then": absent("media_id"), "else": there("media_id")},
    AnnotationUpdated: {
        "if": says("media_type", "video_frame"),
        "then": there("frame_index"),
        "else": absent("frame_index"),
    },
    ProjectUpdated: {},  # no keyword says that each task has an id of its own
}


def schemas() -> dict[str, Schema]:
    """The schema of each topic."""
    return {topic: schema(topic, kind) for topic, kind in OF_TOPIC.items()}


def schema(topic: str, kind: Any) -> Schema:
    """The schema of one topic, which needs no other document.

    kind: its event, or a union of events.

    >>> schema("model_activations", OF_TOPIC["model_activations"])["required"]
    ['workspace_id', 'project_id', 'timestamp', 'task_id', 'model_id']
    """
    (root, *ruled), types = msgspec.json.schema_components((kind, *RULES), ref_template=DEFS + "{name}")
    types = {name: plain(each) for name, each in types.items()}
    for ref, rule in zip(ruled, RULES.values(), strict=True):
        types[named(ref)].update(rule)
    event = types[named(root)] if "$ref" in root else union(plain(root), types)
    used = needed(event, types)
    return {
        "$schema": DRAFT,
        "$id": f"urn:activeset:events:{topic}",
        **event,
        **({"$defs": {name: types[name] for name in sorted(used)}} if used else {}),
    }


def union(either: Schema, types: Mapping[str, Schema]) -> Schema:
    """The schema of one event of several, with what they say of themselves."""
    events = [types[named(ref)] for ref in either["anyOf"]]
    return {
        "title": " or ".join(event["title"] for event in events),
        "description": "\n".join(f"{event['title']}: {event['description']}" for event in events),
        **either,
    }


def named(ref: Schema) -> str:
    """Which type a schema refers to."""
    return str(ref["$ref"]).removeprefix(DEFS)


def needed(node: Schema, types: Mapping[str, Schema]) -> set[str]:
    """The types that a schema refers to, directly or by others."""
    found: set[str] = set()
    waiting = [*references(node)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += references(types[name])
    return found


def references(node: Any) -> Iterator[str]:
    """The names of the types that a schema refers to itself."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield named(node)
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from references(each)


def plain(node: Schema) -> Schema:
    """A schema of msgspec, without what only Python or OpenAPI knows."""
    kept = {keyword: said(keyword, value) for keyword, value in node.items() if keyword != "discriminator"}
    if node.get("contentEncoding") == "base64":
        kept["pattern"] = BASE64
    return kept


def said(keyword: str, value: Any) -> Any:
    """What a keyword says."""
    if keyword == "properties":
        return {name: plain(each) for name, each in value.items()}
    if keyword in ONE and isinstance(value, dict):
        return plain(value)
    if keyword in LISTS:
        return [plain(each) for each in value]
    if keyword == "description":
        return re.sub(r"\n +", " ", inspect.cleandoc(value))  # a line that is indented goes on with the one before
    return ecma(value) if keyword == "pattern" else value


def ecma(pattern: str) -> str:
    r"""A pattern of Python as ECMA-262 writes it, where the ends of a text are `^` and `$`.

    Raises:
        ValueError: it is not about a whole text, or has what ECMA-262 has not.

    >>> ecma(r"\A[a-z]+\Z")
    '^[a-z]+$'
    """
    inside = pattern.removeprefix(r"\A").removesuffix(r"\Z")
    if pattern != rf"\A{inside}\Z" or any(only in inside for only in ("(?", r"\A", r"\Z")):
        raise ValueError(rf"pattern must be \A...\Z, without (?...), not {pattern}")
    return f"^{inside}$"


def written(schema: Schema) -> str:
    """A schema as it is committed."""
    return json.dumps(schema, indent=2) + "\n"


def write(folder: Path) -> None:
    """Write each schema into a file of its own, and take away those of topics that are no more."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for topic, each in schemas().items():
        (folder / f"{topic}.json").write_text(written(each))


if __name__ == "__main__":
    write(FOLDER)
