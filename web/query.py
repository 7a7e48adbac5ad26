"""What a request asks for: its parameters, checked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from streams.errors import BadQuery, WrongMediaType
from streams.media import Id, said

T = TypeVar("T")
LIMIT = 100
LARGEST = 1000
KNOWN = ("task_id", "limit")


def number(text: str) -> float:
    """A JSON number with a point or an exponent: 1.0 is a whole one, too.

    >>> number("6e2"), number("0.5")
    (600, 0.5)
    """
    told = float(text)
    return int(told) if told.is_integer() else told


PLAIN = msgspec.json.Decoder(float_hook=number)


@dataclass(frozen=True)
class Query:
    """An active set that is asked for: of one task, or of the whole project, and how many media."""

    task_id: str | None
    limit: int


def once(parameters: Sequence[tuple[str, str]], known: Sequence[str]) -> dict[str, str]:
    """The parameters of a URL that knows these and no others, each once.

    Raises:
        BadQuery: names the parameter and what it may be.
    """
    given: dict[str, str] = {}
    for name, text in parameters:
        if name not in known:
            if not known:
                raise BadQuery(f"this route has no parameters, and {name[:100]!r} was given")
            raise BadQuery(f"parameters must be of {', '.join(known)}, and {name[:100]!r} is none of them")
        if name in given:
            raise BadQuery(f"{name} must be given once, not several times")
        given[name] = text
    return given


def query(parameters: Sequence[tuple[str, str]], *, strict: bool, known: Sequence[str] = KNOWN) -> Query:
    """The query that the parameters of a URL make.

    strict: a parameter that nobody knows, or that is given twice, or a limit above 1,000 is an error; Geti's route
    ignores the one, takes the first of the other, and gives 1,000.

    Raises:
        BadQuery: names the parameter and what it may be.

    >>> query([("limit", "5")], strict=True)
    Query(task_id=None, limit=5)
    """
    given = once(parameters, known) if strict else dict(reversed(parameters))
    limit = whole(given.get("limit", str(LIMIT)))
    if limit < 1 or (limit > LARGEST and strict):
        may = f"1..{LARGEST}" if strict else "1 or more"
        raise BadQuery(f"limit must be {may}, not {given['limit'][:100]!r}")
    task_id = given.get("task_id")
    if task_id == "":
        raise BadQuery("task_id must be the id of a task, not empty; without it the whole project is meant")
    return Query(task_id, min(limit, LARGEST))


def user(parameters: Sequence[tuple[str, str]]) -> str:
    """Who asks, out of the parameters of a URL that knows no other.

    Raises:
        BadQuery: names the parameter and what it may be.

    >>> user([("user_id", "ann")])
    'ann'
    """
    given = once(parameters, ("user_id",))
    if not given:
        raise BadQuery("user_id must be given once, not left out")
    try:
        return msgspec.convert(given["user_id"], Id)
    except msgspec.ValidationError as why:
        raise BadQuery(f"user_id must be an id: {said(why)}") from why


def body(raw: bytes, media_type: str, kind: type[T]) -> T:
    """What the body of a request says.

    Raises:
        BadQuery: names the member and what it may be.
        WrongMediaType: it is not said to be JSON.
    """
    if media_type != "application/json":
        raise WrongMediaType(f"Content-Type must be application/json, not {media_type[:100]!r}")
    try:
        return msgspec.convert(PLAIN.decode(raw), kind)
    except msgspec.ValidationError as why:
        raise BadQuery(f"the body is not what it must be: {said(why)[:500]}") from why
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as why:
        raise BadQuery(f"the body is not what it must be: {str(why)[:500]}") from why


def whole(text: str) -> int:
    """The limit that a text asks for; none, if it is no whole number."""
    return int(text) if re.fullmatch(r"[0-9]{1,4000}", text) else 0
