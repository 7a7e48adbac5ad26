"""Looking in: what an operator is told of projects, media, rejected events and settings, as text or as JSON."""

import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from streams.decode import decode
from streams.errors import ActivesetError, MalformedEvent
from streams.events import Event, ProjectDeleted, ProjectUpdated
from streams.partition import partition_of
from streams.record import Record, Stored, undecodable
from streams.settings import Settings, text_of, variable
from streams.times import iso

ANSWER_S = 30.0
WIDE = 100  # characters of a cell

Told = dict[str, Any]
Records = AsyncIterator[Stored]


class NoAnswer(ActivesetError):
    """A worker did not answer, or not with what was asked for."""


def settings_told(settings: Settings, environ: Mapping[str, str]) -> list[Told]:
    """The settings that count, and where each is from."""
    return [
        {
            "variable": variable(each),
            "value": text_of(getattr(settings, each.name)),
            "origin": "environment" if environ.get(variable(each), "").strip() else "default",
        }
        for each in fields(settings)
    ]


async def projects_told(updates: Records, deletions: Records) -> list[Told]:
    """The projects that there are, as workers see them: of two events the later counts, a deletion as late ends one.

    What is no event, or lies in a wrong partition, is passed over.
    """
    there: dict[str, ProjectUpdated] = {}
    homes: dict[str, int] = {}
    async for event, home in events(updates):
        if isinstance(event, ProjectUpdated):
            before = there.get(event.project_id)
            if before is None or event.timestamp >= before.timestamp:
                there[event.project_id], homes[event.project_id] = event, home
    async for event, _ in events(deletions):
        known = there.get(event.project_id)
        if isinstance(event, ProjectDeleted) and known is not None and event.timestamp >= known.timestamp:
            del there[event.project_id]
    return [
        {
            "project_id": each.project_id,
            "workspace_id": each.workspace_id,
            "name": each.name,
            "tasks": [task.task_id for task in each.tasks],
            "told_at": iso(each.timestamp),
            "partition": homes[each.project_id],
        }
        for each in sorted(there.values(), key=lambda each: each.project_id)
    ]


async def events(told: Records) -> AsyncIterator[tuple[Event, int]]:
    """The events of a topic, and their partitions."""
    async for record, _, partitions in told:
        try:
            event = decode(record, record.topic)
        except MalformedEvent:
            continue
        if partition_of(event.project_id.encode(), partitions) == record.partition:
            yield event, record.partition


def rejected_in(topic: str | None, project: str | None) -> Callable[[Record], bool]:
    """Whether a rejected event came in a topic, and is of a project; in any, and of any, if none is named."""

    def wanted(record: Record) -> bool:
        came_in, key = dict(record.headers).get("topic") or b"", record.key or b""
        return topic in (None, came_in.decode(errors="replace")) and project in (None, key.decode(errors="replace"))

    return wanted


async def rejected_told(told: Records, limit: int) -> list[Told]:
    """The latest events that were rejected, the last one last."""
    found: list[tuple[float, int, int, Told]] = []
    async for record, offset, _ in told:
        headers = {name: (text or b"").decode(errors="replace") for name, text in record.headers}
        at = record.timestamp_s or 0.0
        about = {
            "at": iso(round(at * 1000)),
            **{name: headers.get(name, "") for name in ("topic", "partition", "offset", "length", "sha256")},
            "error": headers.get("error", undecodable(record.headers) or ""),
            "key": None if record.key is None else record.key.decode(errors="replace"),
            "value": base64.b64encode(record.value or b"").decode(),
            "rejected_offset": offset,
        }
        found.append((at, record.partition, offset, about))
        if len(found) > 2 * limit:
            found = latest(found, limit)
    return [about for *_, about in latest(found, limit)]


def latest(found: list[tuple[float, int, int, Told]], limit: int) -> list[tuple[float, int, int, Told]]:
    """Those with the largest times; of equal ones, with the largest places."""
    return sorted(found, key=lambda each: each[:3])[-limit:]


async def asked(url: str, *path: str, trust: ssl.SSLContext | bool = True) -> Told:
    """What a worker answers; it must be one that is trusted, if it is asked over HTTPS.

    Raises:
        NoAnswer: nothing, or a problem; its message.
    """
    where = URL(url).joinpath(*(quote(each, safe="") for each in path), encoded=True)
    told: Any
    try:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(where, ssl=trust) as answer:
            told = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as why:
        raise NoAnswer(f"no worker answers at {url} ({type(why).__name__}: {why}); --url names another one") from why
    if not isinstance(told, dict):
        raise NoAnswer(f"no worker answers at {url} ({answer.status}, and no JSON object); --url names another one")
    if answer.status != 200:
        raise NoAnswer(clean(f"{answer.status} {told.get('error_code', '')}: {told.get('message', '')}"))
    found: Told = told
    return found


def table(rows: Sequence[Told], columns: Iterable[str]) -> str:
    """Rows in aligned columns, for people; long cells are cut."""
    if not rows:
        return "none"
    names = [*columns]
    cells = [names, *([cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, each)) for each in zip(*cells, strict=True)]
    return "\n".join("  ".join(text.ljust(n) for text, n in zip(row, widths, strict=True)).rstrip() for row in cells)


def cell(value: object) -> str:
    """A value in a table."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    text = clean(text)
    return text if len(text) <= WIDE else text[: WIDE - 3] + "..."


def outline(told: object, depth: int = 0) -> str:
    """An answer, for people: a line for each value, and what belongs together indented."""
    pad = "  " * depth
    if isinstance(told, dict):
        lines = []
        for name, value in told.items():
            nested = isinstance(value, dict | list) and value and not plain(value)
            head = f"{pad}{clean(name)}:"
            lines.append(f"{head}\n{outline(value, depth + 1)}" if nested else f"{head} {short(value)}")
        return "\n".join(lines)
    if isinstance(told, list):
        return "\n".join(f"{pad}-\n{outline(each, depth + 1)}" for each in told)
    return f"{pad}{short(told)}"


def plain(value: object) -> bool:
    """Whether a value fits in a line: a list of numbers or words."""
    return isinstance(value, list) and not any(isinstance(each, dict | list) for each in value)


def short(value: object) -> str:
    """A value in a line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(short, value)) or "none"
    return "none" if value is None or value == {} else clean(str(value))


def clean(text: str) -> str:
    r"""A text that cannot steer a terminal or break a line: what events tell comes from anybody.

    >>> print(clean("caf\u00e9\x1b[2J\n"))
    café\x1b[2J\n
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def as_json(told: object) -> str:
    """The same for programs."""
    return json.dumps(told, indent=2)
