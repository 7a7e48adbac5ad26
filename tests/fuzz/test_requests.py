"""Whatever is asked over HTTP: the answer is of the contract, or a problem that says what is wrong. Never 5xx."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.pulse import Pulse
from streams.app import new_app
from streams.errors import BadQuery
from streams.settings import Settings
from tables.state import State
from tests.fuzz.strange import as_json, edited, fuzz, nearly, strange, texts
from tests.worker.conftest import (
    GENERATION,
    PATHS,
    PROJECT,
    TASK,
    WORKSPACE,
    App,
    Disk,
    House,
    ListChangelog,
    Served,
    a_member,
    hold,
    no_ends,
)
from web import views
from web.door import Door
from web.query import LARGEST, query, user
from web.routes import LEASE, RENEW, ROUTES, SKIP, Route

FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None
BODIES: dict[str, list[Any]] = {
    LEASE.name: [
        {"user_id": "ann", "limit": 2, "task_id": TASK, "ttl_s": 60, "request_id": "r1"},
        {"user_id": "ann"},
        {"user_id": "bob", "request_id": "r1"},
    ],
    RENEW.name: [{"user_id": "ann", "ttl_s": 60}, {"user_id": "ann"}],
    SKIP.name: [
        {"user_id": "ann", "for": "me"},
        {"user_id": "ann", "for": "good", "media": [{"media_type": "image", "media_id": "m1"}]},
    ],
}


class Asked(NamedTuple):
    """A request, as it is written."""

    method: str
    target: bytes
    headers: Sequence[tuple[str, bytes]] = ()
    body: bytes = b""

    def written(self) -> bytes:
        """It on the wire; the connection ends with its answer."""
        told = [("Host", b"x"), ("Connection", b"close"), ("Content-Length", b"%d" % len(self.body)), *self.headers]
        lines = b"".join(name.encode() + b": " + text + b"\r\n" for name, text in told)
        return self.method.encode() + b" " + self.target + b" HTTP/1.1\r\n" + lines + b"\r\n" + self.body


known = {
    "project": st.just(PROJECT),
    "workspace": st.just(WORKSPACE),
    "organization": st.just("o"),
    "lease": st.sampled_from(("r1", "r2", "elsewhere")),
    "medium": st.sampled_from(
        ("image:m1", "image:nobody", "frame:v1:0", "frame:v1:4294967295", "frame:v1:-1", "image:")
    ),
}
pieces = st.one_of(
    texts.map(lambda text: quote(text, safe="", errors="surrogatepass").encode()),
    st.binary(max_size=8).map(lambda raw: quote_from_bytes(raw, safe="").encode()),
    st.text("abc:%/.;=&+é?#[]{}\"'<>|\\^`~", max_size=10).map(lambda text: text.encode()),
    st.sampled_from((b"%00", b"%2F", b"%2e%2e", b"..", b"%", b"%zz", b"%ED%A0%80", b"%F0%9F%98%80" * 60, b"x" * 9000)),
).map(lambda raw: re.sub(rb"[\x00-\x20\x7f]", b"", raw))
numbers = st.integers() | st.sampled_from((0, 1, LARGEST, LARGEST + 1, 2**63, 10**300, -(10**4000)))
values = st.one_of(
    numbers.map(lambda number: b"%d" % number),
    st.floats().map(lambda number: repr(number).encode()),
    st.sampled_from((TASK.encode(), b"ann", b"", b"1e2", b"+5", b"0x10", b"\xd9\xa3", b"%D9%A3", b"1_000", b"%201")),
    pieces,
)
header_names = st.sampled_from(
    ("If-None-Match", "Accept", "Authorization", "Content-Type", "X-Forwarded-For", "Cookie", "Range", "Origin", "Host")
)
rare = st.sampled_from(
    (
        ("Content-Encoding", b"gzip"),
        ("Expect", b"100-continue"),
        ("Expect", b"200-ok"),
        ("Activeset-Forwarded", b"1"),
        ("Transfer-Encoding", b"chunked"),
        ("Content-Length", b"3"),
        ("Upgrade", b"websocket"),
        ("Connection", b"Upgrade"),
        ("Accept-Encoding", b"br, gzip;q=x"),
    )
)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
header_values = printable.map(lambda text: text.encode("latin-1")) | st.just(b'W/"x", *') | st.just(b"application/json")
headers = st.lists(st.tuples(header_names, header_values), max_size=2)


@st.composite
def asked(draw: Any) -> Asked:
    """A request that is nearly one of a route, or none at all."""
    route: Route = draw(st.sampled_from(ROUTES))
    path = b""
    for part in re.split(r"({\w+})", route.path):
        if part.startswith("{"):
            path += draw(known[part[1:-1]]).encode() if draw(st.integers(0, 5)) else draw(pieces)
        else:
            path += part.encode()
    if draw(st.integers(0, 19)) == 0:
        path = b"/" + draw(pieces)
    names = st.sampled_from((*route.parameters, *route.needed, "limit", "task_id", "user_id", "colour")).map(str.encode)
    told = draw(st.lists(st.tuples(names | pieces, values), max_size=3))
    if route.needed and draw(st.booleans()):
        told = [(b"user_id", b"ann")]
    if told and (not route.body or draw(st.integers(0, 3)) == 0):
        path += b"?" + b"&".join(name + b"=" + value for name, value in told)
    method = (
        route.method if draw(st.integers(0, 9)) else draw(st.sampled_from(("HEAD", "PUT", "OPTIONS", "GET", "POST")))
    )
    more = draw(headers) if draw(st.integers(0, 3)) == 0 else []
    if draw(st.integers(0, 29)) == 0:
        more.append(draw(rare))
    body = b""
    if route.body or draw(st.integers(0, 9)) == 0:
        whole = nearly(BODIES.get(route.name, [{}])).map(as_json)
        body = draw(st.one_of(whole, whole, whole, edited(whole), strange.map(as_json), st.binary(max_size=40)))
        if draw(st.integers(0, 9)):
            more.append(("Content-Type", b"application/json"))
    return Asked(method, path, more, body)


def closed(disk: Disk) -> None:
    """Close the databases: what a test has failed with holds them."""
    for each in disk.opened.values():
        each.close()


@pytest.fixture
async def server() -> AsyncIterator[Served]:
    """A worker's web server, over a project with media and a chunk, without Kafka; one for all that a test asks."""
    settings, changelog = Settings(topic_prefix="staging.", broker="127.0.0.1:1"), ListChangelog()
    async with AsyncExitStack() as stack:
        disk = Disk(Path(stack.enter_context(TemporaryDirectory(dir=FOLDER))))
        stack.callback(closed, disk)
        state = State(settings, disk, changelog, no_ends)
        await state.take(range(8), GENERATION, a_member)
        stack.push_async_callback(state.leave)
        house = House(settings, state, changelog, disk)
        app: Any = new_app(settings)
        app.__class__ = App  # one that looks as if it had joined
        app.tables.recovery.completed.set()
        app.tables.recovery.restored = app.rebalancing_count
        app.rebalancing, app.others, app.reached = False, {}, {}
        for each in state.partitions:
            each.caught_up = True
        door = Door(app, settings, state, Pulse(60), house.fatal)
        stack.push_async_callback(door.close)
        views.declare(door, house.sets, house.metrics)
        app.web.init_server()
        await house.tells(*(f"m{n}" for n in range(12)))
        await house.infers({f"m{n}": n / 12 for n in range(6)})
        server = Served(app.web.web_app)
        await stack.enter_async_context(server)
        yield server


class Answer(NamedTuple):
    """An answer as it came; status 0 if the connection was closed without one."""

    status: int
    media_type: str
    body: bytes


async def answered(server: Served, request: Asked) -> Answer:
    """The answer on a connection of its own; one that says that a body may come is passed over."""
    assert server.port is not None
    reads, writes = await asyncio.open_connection(server.host, server.port)
    writes.write(request.written())
    if any(name == "Transfer-Encoding" for name, _ in request.headers):
        writes.write_eof()  # what is chunked may have no end
    raw = b""
    with suppress(ConnectionResetError):  # a body that is too large is refused unread
        while part := await reads.read(2**16):
            raw += part
    writes.close()
    raw = raw.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    if found is None:
        assert not raw, raw
        return Answer(0, "", b"")
    media_type = re.search(rb"(?i)content-type: ([^;\r]*)", head)
    return Answer(int(found[1]), media_type[1].decode() if media_type else "", body)


def check(request: Asked, answer: Answer) -> None:
    """See that an answer is one that the contract knows."""
    assert answer.status < 500, answer
    if request.method == "HEAD" or answer.status in (0, 204, 304):
        assert not answer.body or answer.status == 400  # of what is no HTTP nobody knows the method
        return
    if answer.status >= 400:
        assert answer.media_type == "application/problem+json"
        assert answer.body, (request, answer)
        told = json.loads(answer.body)
        assert told["status"] == answer.status
        assert told["detail"]
        assert told["error_code"]
    target = request.target.partition(b"?")[0].decode("latin-1")
    if re.search(r"(?i)/(\.|%2e){1,2}(/|$)", target):
        return  # another path is meant
    for path, methods in PATHS:
        if path.fullmatch(target) and request.method in methods:
            responses = methods[request.method]["responses"]
            assert str(answer.status) in responses, (request, answer)
            hold(responses[str(answer.status)], answer.body, answer.media_type)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # some bodies are
@fuzz(800)
@given(requests=st.lists(asked(), min_size=1, max_size=12))
async def test_whatever_is_asked_is_answered_as_the_contract_says(server: Served, requests: list[Asked]) -> None:
    for request in requests:
        check(request, await answered(server, request))
    assert (await answered(server, Asked("GET", b"/readyz"))).status == 200  # nobody has stopped it


@fuzz(400)
@given(
    parameters=st.lists(st.tuples(st.sampled_from(("limit", "task_id", "user_id")) | texts, texts | numbers.map(str)))
)
def test_parameters_are_a_question_or_what_is_wrong_is_said(parameters: list[tuple[str, str]]) -> None:
    for strict in (True, False):
        try:
            found = query(parameters, strict=strict)
        except BadQuery:
            continue
        assert 1 <= found.limit <= LARGEST
        assert found.task_id != ""
    with suppress(BadQuery):
        assert 1 <= len(user(parameters)) <= 200
