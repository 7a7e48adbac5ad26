import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import MalformedEvent
from streams.events import Event
from streams.events import decode as decode_record
from streams.record import RECORD_BYTES, Headers, Record

WHOLE = {"workspace_id": "w", "project_id": "p", "timestamp": 1_700_000_000_000}
MSGPACK: Headers = [("content-type", b"application/msgpack")]


def decode(key: bytes | None, value: bytes | None, headers: Headers) -> Event:
    return decode_record(Record("media_uploads", 0, key, value, headers))


def as_json(**changes: object) -> bytes:
    return json.dumps({**WHOLE, **changes}).encode()


def test_an_event_is_the_same_in_json_and_messagepack() -> None:
    wanted = Event(workspace_id="w", project_id="p", timestamp=1_700_000_000_000)

    assert decode(b"p", as_json(), []) == wanted
    assert decode(b"p", as_json(), [("Content-Type", b"application/json; charset=utf-8")]) == wanted
    assert decode(b"p", msgspec.msgpack.encode(WHOLE), MSGPACK) == wanted
    assert decode(b"p", msgspec.msgpack.encode(WHOLE), [("content-type", b"application/x-msgpack")]) == wanted


def test_members_that_nobody_knows_are_ignored() -> None:
    assert decode(b"p", as_json(colour="red"), []).project_id == "p"


@pytest.mark.parametrize(
    ("key", "value", "headers", "named"),
    [
        (b"p", None, [], "value"),
        (b"p", b"", [], "truncated"),
        (b"p", b"{", [], "truncated"),
        (b"p", b"[]", [], "object"),
        (b"p", b"\xff\xfe", [], "malformed"),
        (b"p", b'{"workspace_id": "\xff"}', [], "utf-8"),
        (b"p", b"[" * 100_000 + b"]" * 100_000, [], "object"),
        (b"p", b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", [], "nested too deep"),
        (b"p", b"\x91" * 100_000, MSGPACK, "object"),
        (b"p", b"\xc1", MSGPACK, "malformed"),
        (b"p", b"\xdf\xff\xff\xff\xff", MSGPACK, "truncated"),
        (b"p", as_json(), MSGPACK, "application/msgpack"),
        (b"p", as_json(), [("content-type", b"text/csv")], "content-type"),
        (b"p", as_json(), [("content-type", None)], "content-type"),
        (b"p", b" " * (RECORD_BYTES + 1), [], "record must be at most 4128768 bytes"),
        (b"p" * (RECORD_BYTES + 1), as_json(), [], "record must be at most"),
        (b"p", as_json(), [("h", None)] * 300_000, "record must be at most"),
        (b"p", as_json(project_id=7), [], "$.project_id"),
        (b"p", as_json(project_id=""), [], "$.project_id"),
        (b"p", as_json(workspace_id="w" * 201), [], "$.workspace_id"),
        (b"p", as_json(workspace_id="a/b"), [], "$.workspace_id"),
        (b"p", as_json(workspace_id="a\x00b"), [], "$.workspace_id"),
        (b"p", as_json(timestamp="now"), [], "$.timestamp"),
        (b"p", as_json(timestamp=1.5), [], "$.timestamp"),
        (b"p", as_json(timestamp=-1), [], "$.timestamp"),
        (b"p", as_json(timestamp=10**18), [], "$.timestamp"),
        (b"p", b'{"workspace_id": "w", "project_id": "p"}', [], "timestamp"),
        (b"q", as_json(), [], "project_id"),
        (None, as_json(), [], "project_id"),
        (b"\xff", as_json(), [], "project_id"),
    ],
)
def test_what_is_no_event_is_told_by_its_field(
    key: bytes | None, value: bytes | None, headers: Headers, named: str
) -> None:
    with pytest.raises(MalformedEvent) as told:
        decode(key, value, headers)

    assert named.lower() in str(told.value).lower()
    assert len(str(told.value)) < 500


@given(key=st.none() | st.binary(), value=st.none() | st.binary(), kind=st.sampled_from([[], MSGPACK]))
def test_any_bytes_are_an_event_or_malformed(key: bytes | None, value: bytes | None, kind: Headers) -> None:
    with pytest.raises(MalformedEvent):
        decode(key, value, kind)
