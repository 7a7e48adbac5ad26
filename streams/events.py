"""The wire form of events: bytes in, a checked value out, or a sentence that says what is wrong."""

from typing import Annotated

import msgspec
from msgspec import Meta

from streams.errors import MalformedEvent
from streams.record import RECORD_BYTES, Headers, Record

# Ids are the producers' own. No control characters and no slash, so that every id can stand in a URL and in a log.
Id = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\A[^\x00-\x1f\x7f/]+\Z")]
# From 1970 to the end of the year 9999, in milliseconds.
Timestamp = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What every event tells: whose it is, and when it happened (milliseconds since the epoch, UTC)."""

    workspace_id: Id
    project_id: Id
    timestamp: Timestamp


JSON = "application/json"
MSGPACK = "application/msgpack"
SYNONYMS = {"application/x-msgpack": MSGPACK, "application/vnd.msgpack": MSGPACK}

Decoder = msgspec.json.Decoder[Event] | msgspec.msgpack.Decoder[Event]
DECODERS: dict[str, Decoder] = {JSON: msgspec.json.Decoder(Event), MSGPACK: msgspec.msgpack.Decoder(Event)}


def decode(record: Record) -> Event:
    """The event that a record carries; members that nobody knows are ignored.

    The key must be the project id in UTF-8. A header `content-type` tells JSON (the default) from MessagePack; of
    several, the last counts.

    Raises:
        MalformedEvent: the bytes are no event, too many, or about another project than the key.

    >>> value = b'{"workspace_id": "w", "project_id": "p", "timestamp": 1}'
    >>> decode(Record("media_uploads", 0, b"p", value, [])).project_id
    'p'
    """
    weight = record.weight()
    if weight > RECORD_BYTES:
        raise MalformedEvent(f"record must be at most {RECORD_BYTES} bytes before compression, not {weight}")
    if record.value is None:
        raise MalformedEvent("value must be an object, not empty: to delete something, publish the event that says so")
    media_type = media_type_of(record.headers)
    try:
        event = DECODERS[media_type].decode(record.value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as why:
        raise MalformedEvent(f"value is no event in {media_type}: {why}") from why
    except RecursionError as why:
        raise MalformedEvent(f"value is no event in {media_type}: it is nested too deep") from why
    if record.key != event.project_id.encode():
        raise MalformedEvent(f"project_id must be the record's key, {shown(record.key)}, not {event.project_id!r}")
    return event


def media_type_of(headers: Headers) -> str:
    """Which of the decoders the headers ask for."""
    told = [text for name, text in headers if name.lower() == "content-type"] or [JSON.encode()]
    media_type = (told[-1] or b"").decode("latin-1").partition(";")[0].strip().lower()
    media_type = SYNONYMS.get(media_type, media_type)
    if media_type not in DECODERS:
        raise MalformedEvent(f"header content-type must be {JSON} or {MSGPACK}, not {media_type[:100]!r}")
    return media_type


def shown(key: bytes | None) -> str:
    """A record's key for a message: short, and readable if it is text."""
    return "which is missing" if key is None else repr(key[:100].decode(errors="backslashreplace"))
