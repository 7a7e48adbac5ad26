"""What clients and producers may send, and should not: nearly right, or nothing that anybody has thought of."""

import base64
import json
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from streams.moves import MOVED_FROM
from streams.record import Headers
from tests.core.test_decode import Path, places, replaced
from tests.core.test_schema import EXAMPLES, STRANGE, member, without


class Raw(NamedTuple):
    """Bytes that stand in a text as they are: in JSON, and in MessagePack."""

    json: bytes
    msgpack: bytes


class Pairs(NamedTuple):
    """An object whose members may come twice."""

    members: tuple[tuple[str, Any], ...]


def fuzz(examples: int) -> Callable[[Any], Any]:
    """How a test is fuzzed: with so many examples a round; a hang is found by the test's own time."""
    return settings(
        max_examples=examples,
        deadline=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
            HealthCheck.function_scoped_fixture,  # one worker hears all
        ],
    )


def deep(levels: int) -> Raw:
    """Lists in lists."""
    return Raw(b"[" * levels + b"]" * levels, b"\x91" * levels + b"\xc0")


def deep_object(levels: int) -> Raw:
    """Objects in objects."""
    return Raw(b'{"a":' * levels + b"1" + b"}" * levels, b"\x81\xa1a" * levels + b"\xc0")


def as_json(value: Any) -> bytes:
    """A value in JSON, also where JSON has none for it: numbers that are not finite, surrogates, a member twice."""
    raw: bytes
    match value:
        case Raw(raw, _):
            return raw
        case Pairs():
            return b"{" + b",".join(as_json(name) + b":" + as_json(each) for name, each in value.members) + b"}"
        case dict():
            return as_json(Pairs(tuple(value.items())))
        case list():
            return b"[" + b",".join(map(as_json, value)) + b"]"
        case bytes():
            return as_json(base64.b64encode(value).decode())
        case int() if not isinstance(value, bool) and abs(value) > 10**4000:
            return b"9" * 5000  # Python itself would not write it
        case _:
            return json.dumps(value).encode()


def as_msgpack(value: Any) -> bytes:
    """A value in MessagePack, also with texts that are not UTF-8 and a member twice."""
    raw: bytes
    match value:
        case Raw(_, raw):
            return raw
        case Pairs():
            members = b"".join(as_msgpack(name) + as_msgpack(each) for name, each in value.members)
            return b"\xdf" + struct.pack(">I", len(value.members)) + members
        case dict():
            return as_msgpack(Pairs(tuple(value.items())))
        case list():
            return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(as_msgpack, value))
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int() if -(2**63) <= value < 2**63:
            return b"\xd3" + struct.pack(">q", value)
        case int() if 0 <= value < 2**64:
            return b"\xcf" + struct.pack(">Q", value)
        case int():
            return b"\xcb" + struct.pack(">d", float("inf"))
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str():
            text = value.encode("utf-8", "surrogatepass")
            return b"\xdb" + struct.pack(">I", len(text)) + text
        case _:
            assert isinstance(value, bytes)
            return b"\xc6" + struct.pack(">I", len(value)) + value


# What stands in a text of JSON where a value should, and is none, or one that Python knows otherwise.
WORDS = (b"1e400", b"-0.0", b"1.0", b"1E2", b"NaN", b"01", b"", b"\xff", b'"\\ud800"', b'"\xed\xa0\x80"')

texts = st.text(max_size=12) | st.text(st.characters(categories=["Cs", "Cc", "Lo"]), min_size=1, max_size=4)
lengths = st.sampled_from((0, 1, 2, 3, 7, 2**16, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**64, -1))
lists = st.recursive(
    st.lists(st.floats(width=32) | st.integers(-2, 2), max_size=4), lambda inner: st.lists(inner, max_size=4)
)
# Columns that tell another shape than they have, or one that fits into no memory.
tensors = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(("<f2", "<f4", "<f8", "<f16", ">f4", "O", "")),
        "shape": st.lists(lengths | st.integers(0, 4), max_size=7),
        "data": st.binary(max_size=64) | st.integers(0, 40).map(lambda n: bytes(8 * n)),
    }
)
strange = st.one_of(
    st.sampled_from(STRANGE),
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((2**63, -(2**63) - 1, 2**64, 10**400, -(10**5000))),
    st.floats(),
    texts,
    st.binary(max_size=16),
    lists,
    tensors,
    st.sampled_from((10, 100, 900, 1100, 100_000)).flatmap(lambda n: st.sampled_from((deep(n), deep_object(n)))),
    st.sampled_from(WORDS).map(lambda text: Raw(text, b"\xc1")),
    st.sampled_from(("x" * 201, "x" * 70_000, "\ud800", "\x00")),
    st.integers(0, 3000).map(lambda n: [0.5] * n),
    st.integers(0, 300).map(lambda n: [[]] * n),
    st.dictionaries(texts, st.integers() | texts, max_size=4),
)  # fmt: skip


def changed(draw: Any, value: Any) -> Any:
    """A value with something strange in one place."""
    where: Path = draw(st.sampled_from([(), *places(value)]))
    here = member(value, where)
    new: Any = None
    match draw(st.sampled_from(("replace", "replace", "replace", "drop", "twice", "more", "wrap"))):
        case "drop" if where:
            return without(value, where)
        case "twice" if isinstance(here, dict) and here:
            again = draw(st.sampled_from(sorted(here)))
            new = Pairs((*here.items(), (again, draw(strange))))
        case "more" if isinstance(here, dict):
            new = {**here, draw(texts): draw(strange)}
        case "more" if isinstance(here, list):
            new = [*here, draw(strange)]
        case "wrap":
            new = [here]
        case _:
            new = draw(strange)
    return replaced(value, where, new) if where else new


@st.composite
def nearly(draw: Any, values: list[Any]) -> Any:
    """One of some values, with strange things in a few places."""
    value = draw(st.sampled_from(values))
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2, 3)))):
        if not isinstance(value, dict):
            break
        value = changed(draw, value)
    return value


@st.composite
def edited(draw: Any, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of which some are gone, some are others, some come twice."""
    raw: bytes = draw(whole)
    for _ in range(draw(st.integers(0, 3))):
        at, gone = draw(st.integers(0, len(raw))), draw(st.integers(0, 8))
        new = draw(st.binary(max_size=8)) if draw(st.booleans()) else raw[at : at + draw(st.integers(0, 40))] * 2
        raw = raw[:at] + new + raw[at + gone :]
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 9)) == 0 else raw


names = st.binary(max_size=6).map(lambda raw: raw.decode(errors="surrogateescape")) | st.sampled_from((
    "content-type", "Content-Type", MOVED_FROM))  # fmt: skip
origins = st.tuples(st.integers(-1, 9), st.integers(-1, 10**19), st.binary(max_size=5)).map(
    lambda told: b"%d:%d:" % told[:2] + told[2]
)
headers: st.SearchStrategy[Headers] = st.lists(
    st.tuples(names, st.none() | st.binary(max_size=12) | origins | st.just(b"application/json; charset=utf-8")),
    max_size=3,
)
OF_TOPIC: dict[str, list[Any]] = {}
for topic, event in EXAMPLES.values():
    OF_TOPIC.setdefault(topic, []).append(event)

times = st.integers(-2, 2).map(lambda ms: 1_700_000_000_000 + ms) | st.sampled_from((0, 253_402_300_799_999))


@st.composite
def record(draw: Any) -> tuple[str, bytes | None, bytes | None, Headers]:
    """The topic, key, value and headers of a record, nearly an event of its topic or not at all."""
    topic = draw(st.sampled_from(sorted(OF_TOPIC)))
    told, more = draw(nearly(OF_TOPIC[topic])), draw(headers) if draw(st.integers(0, 3)) == 0 else []
    if isinstance(told, dict) and draw(st.booleans()):  # an event of the project, at any time
        told = {**told, "workspace_id": "w", "project_id": "p", "timestamp": draw(times)}
    packed = draw(st.booleans())
    if packed:
        more = [*more, ("content-type", b"application/msgpack")]
    plain = as_msgpack(told) if packed else as_json(told)
    match draw(st.integers(0, 9)):
        case 0:
            value: bytes | None = draw(st.none() | st.binary(max_size=200))
        case 1 | 2:
            value = draw(edited(st.just(plain)))
        case _:
            value = plain
    project = told.get("project_id") if isinstance(told, dict) else "p"
    key = project.encode(errors="surrogatepass") if isinstance(project, str) else b"p"
    return topic, draw(st.none() | st.binary(max_size=4)) if draw(st.integers(0, 9)) == 0 else key, value, more
