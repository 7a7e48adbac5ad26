import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from streams.errors import CorruptStore
from streams.offsets import Place
from tests.worker.conftest import HOME, PROJECT, TASK, WORKSPACE, App, Client, House
from web import problems
from web.door import Door
from web.openapi import FILE

SAFE = f"/v1/projects/{PROJECT}/active-set"
MARKS = f"/api/v1/organizations/o/workspaces/{WORKSPACE}/projects/{PROJECT}/datasets/active"
THEIRS = {
    "active_set": [],
    "as_of": {"theirs": 7},
    "lag": {},
    "order": {"current": True},
}


async def test_both_routes_answer_with_items_and_only_getis_marks(client: Client, house: House) -> None:
    await house.tells("m1", "m2")

    answers = [await client.get(path, params={"limit": 1}) for path in (SAFE, SAFE, MARKS, SAFE)]

    told = [(answer.status, answer.headers["Cache-Control"]) for answer in answers]
    assert told == [(200, "no-cache"), (200, "no-cache"), (200, "no-store"), (200, "no-cache")]
    first, second, marked, after = [(await answer.json())["active_set"][0]["id"] for answer in answers]
    assert first == second == marked != after


@pytest.mark.parametrize(
    ("path", "status", "code", "told"),
    [
        (f"{SAFE}?limit=0", 400, "bad_request", "limit must be 1..1000, not '0'"),
        (f"{SAFE}?limit=1001", 400, "bad_request", "limit must be 1..1000, not '1001'"),
        (f"{SAFE}?limit={10**20}", 400, "bad_request", "limit must be 1..1000, not '1000"),
        (f"{SAFE}?limit=%2B5", 400, "bad_request", "limit must be 1..1000, not '+5'"),
        (f"{SAFE}?limit=ten", 400, "bad_request", "limit must be 1..1000, not 'ten'"),
        (f"{SAFE}?limit=1&limit=2", 400, "bad_request", "limit must be given once"),
        (f"{SAFE}?colour=red", 400, "bad_request", "'colour'"),
        (f"{SAFE}?task_id=", 400, "bad_request", "task_id must be the id of a task"),
        (f"{SAFE}?task_id=crop", 400, "bad_request", "task_id must be a task that can be trained"),
        (f"{MARKS}?limit=-1", 400, "bad_request", "limit must be 1 or more, not '-1'"),
        (f"{SAFE}?task_id=t9", 404, "task_not_found", "no task 't9'"),
        ("/v1/projects/nobody/active-set", 404, "project_not_found", "no project 'nobody'"),
        ("/v1/projects/%00/active-set", 404, "project_not_found", "no project"),
        ("/v1/projects/a%2Fb/active-set", 404, "project_not_found", "without slashes and control characters"),
        (f"/v1/projects/{'p' * 10_000}/active-set", 404, "project_not_found", "no project"),
        (f"/v1/projects/{'%20' * 10_000}/active-set", 404, "project_not_found", "no project"),
        ("/v1/projects/../active-set", 404, "not_found", "nothing here"),
        ("/v1/projects/%2E%2E/active-set", 404, "not_found", "nothing here"),
        (f"{SAFE}/{'x' * 65 * 1024}", 400, "bad_request", "the first line must be at most 65536 bytes"),
        (MARKS.replace("/w/", "/x/"), 404, "project_not_found", "workspace 'x'"),
    ],
)
async def test_a_wrong_question_is_answered_with_what_is_wrong(
    client: Client, house: House, path: str, status: int, code: str, told: str
) -> None:
    tasks = [{"task_id": TASK}, {"task_id": "crop", "trainable": False}]
    await house.says("project_updates", dataset_storage_id="s", tasks=tasks)

    answer = await client.get(path)

    body = await answer.json(content_type="application/problem+json")
    assert (answer.status, body["status"], body["error_code"]) == (status, status, code)
    assert told in body["detail"]
    assert body["message"] == body["detail"]
    assert "Retry-After" not in answer.headers


async def test_an_id_may_have_whatever_an_event_may_give_it(client: Client, house: House) -> None:
    project, image = "{a}:[é]%?#&+ b", "m{1}"
    await house.says("project_updates", project_id=project, dataset_storage_id="s", tasks=[{"task_id": TASK}])
    await house.says("media_uploads", project_id=project, dataset_storage_id="s", media_type="image", media_id=image)

    of_project = URL("/v1/projects") / project
    answers = [await client.get(path) for path in (of_project / "active-set", of_project / "media" / f"image:{image}")]

    assert [answer.status for answer in answers] == [200, 200]
    assert (await answers[0].json())["active_set"][0]["id"] == image


async def test_getis_route_is_lenient_as_geti_is(client: Client, house: House) -> None:
    await house.tells(*(f"m{n}" for n in range(1200)))

    answer = await client.get(f"{MARKS}?limit={10**20}&limit=3&colour=red")

    assert answer.status == 200
    assert len((await answer.json())["active_set"]) == 1000


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("product_info", 200, {"product-version": "2.13.0"}),
        ("personal_access_tokens/organization", 200, {"organizationId": "activeset"}),
        ("organizations/activeset/balance", 204, None),
    ],
)
async def test_what_getis_client_asks_at_its_login_is_answered(
    client: Client, path: str, status: int, told: object
) -> None:
    answer = await client.get(f"/api/v1/{path}", headers={"x-api-key": "any"})

    body = await answer.read()
    assert (answer.status, json.loads(body) if body else None) == (status, told)
    assert (await client.head(f"/api/v1/{path}")).status == status
    assert (await client.post(f"/api/v1/{path}")).status == 405


async def test_head_does_not_mark(client: Client, house: House) -> None:
    await house.tells("m1")

    refused = await client.head(MARKS)

    assert (refused.status, refused.headers["Allow"]) == (405, "GET")
    assert (await client.head(SAFE)).status == 200
    assert house.published == []


UNREADY: dict[str, Callable[[App, House], object]] = {
    "it rebalances": lambda app, _: setattr(app, "rebalancing", True),
    "it has not restored": lambda app, _: setattr(app, "joined", False),
    "kafka has not heard of it": lambda app, _: setattr(app, "unheard", 10.0),
    "it has not caught up": lambda _, house: setattr(house.state.owned(HOME), "caught_up", False),
    "nobody has it": lambda app, _: app.others.update({HOME: None}),  # type: ignore[dict-item]
    "it is given and not taken": lambda _, house: house.state._owned.clear(),
}


@pytest.mark.parametrize("unready", UNREADY)
async def test_a_worker_that_may_not_know_says_so_and_never_that_there_is_nothing(
    app: App, client: Client, house: House, unready: str
) -> None:
    await house.tells("m1")
    partitions = dict(house.state._owned)
    UNREADY[unready](app, house)

    for path in (SAFE, MARKS, SAFE.replace(PROJECT, "project-1"), f"{SAFE}?task_id=unknown"):
        answer = await client.get(path)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert (await answer.json(content_type="application/problem+json"))["error_code"] == "not_ready"
    assert (await client.get("/readyz")).status == (200 if unready == "nobody has it" else 503)
    house.state._owned.update(partitions)


@pytest.mark.parametrize("path", [SAFE, f"{SAFE}?task_id=unknown"])
async def test_what_was_true_when_an_answer_was_begun_must_be_so_when_it_is_made(
    app: App, client: Client, house: House, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.tells("m1")
    shown = house.sets.written

    async def frozen_meanwhile(*asked: Any) -> Any:
        try:
            return await shown(*asked)
        finally:
            app.unheard = 10.0

    monkeypatch.setattr(type(house.sets), "written", staticmethod(frozen_meanwhile))

    assert (await client.get(path)).status == 503


async def test_what_kafka_has_of_projects_is_applied_before_one_is_called_unknown(
    client: Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one_more(places: list[Place]) -> dict[Place, int]:
        return dict.fromkeys(places, 1)

    monkeypatch.setattr(house.state, "_ends", one_more)
    asking = asyncio.ensure_future(client.get(SAFE))
    await asyncio.wait([asking], timeout=0.05)
    assert not asking.done()

    await house.tells("m1")

    assert (await asking).status == 200


async def test_what_kafka_has_of_projects_and_is_not_applied_soon_makes_nobody_unknown(
    app: App, client: Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one_more(places: list[Place]) -> dict[Place, int]:
        return dict.fromkeys(places, 1)

    monkeypatch.setattr(house.state, "_ends", one_more)
    monkeypatch.setattr("web.door.HEARSAY_S", 0.05)

    assert (await client.get(SAFE)).status == 503
    app.reached["staging.project_updates", HOME] = 1  # only a marker of somebody's transaction is there
    assert (await client.get(SAFE)).status == 404


async def test_a_damaged_store_ends_the_worker_and_answers_503(
    client: Client, house: House, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed: list[BaseException] = []
    door.doom = doomed.append

    async def damaged(*_: Any) -> Any:
        raise CorruptStore("a file of RocksDB is damaged")

    monkeypatch.setattr(type(house.sets), "written", staticmethod(damaged))

    assert (await client.get(SAFE)).status == 503
    assert [type(each) for each in doomed] == [CorruptStore]


@pytest.fixture
async def other(app: App) -> AsyncIterator[list[web.Request]]:
    """Another worker, which owns the project; the requests it got."""
    got: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        got.append(request)
        return web.json_response(THEIRS, headers={"Who": "other"})

    served = web.Application()
    served.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(served) as server:
        app.others[HOME] = str(server.make_url("/"))
        yield got


@pytest.mark.parametrize("path", [f"{SAFE}?limit=7", f"{MARKS}?limit=7"])
async def test_a_request_for_a_project_of_another_worker_is_answered_by_that_one(
    client: Client, house: House, other: list[web.Request], path: str
) -> None:
    answer = await client.get(path)

    assert (answer.status, answer.headers["Who"]) == (200, "other")
    assert await answer.json() == THEIRS
    assert [str(each.rel_url) for each in other] == [path]
    assert house.published == []


async def test_a_request_is_forwarded_once_at_most(client: Client, other: list[web.Request]) -> None:
    answer = await client.get(SAFE, headers={"Activeset-Forwarded": "1"})

    assert answer.status == 503
    assert other == []


async def test_an_owner_that_does_not_answer_is_given_up_when_the_partitions_move(
    app: App, client: Client, door: Door
) -> None:
    asked = asyncio.Event()

    async def never(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    served = web.Application()
    served.router.add_get("/{path:.*}", never)
    async with TestServer(served) as server:
        app.others[HOME] = str(server.make_url("/"))
        asking = asyncio.ensure_future(client.get(SAFE))
        await asked.wait()

        door.moved()

        assert (await asking).status == 503


async def test_a_wrong_question_is_answered_by_whoever_is_asked(client: Client, other: list[web.Request]) -> None:
    assert (await client.get(f"{SAFE}?limit=0")).status == 400
    assert (await client.get("/v1/projects/a%2Fb/active-set")).status == 404
    assert other == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "code"),
    [
        ("GET", SAFE, {"Content-Encoding": "gzip"}, None, 415, "unsupported_media_type"),
        ("GET", MARKS, {"Content-Encoding": "identity"}, b"x", 415, "unsupported_media_type"),
        ("GET", SAFE, {}, bytes(65 * 1024), 413, "request_entity_too_large"),
        ("GET", f"{SAFE}?task_id={'t' * 5000}", {}, None, 414, "request_uri_too_long"),
        ("POST", SAFE, {}, b"{}", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", {}, None, 404, "not_found"),
        ("GET", SAFE, {"Expect": "foo"}, None, 417, "expectation_failed"),
        ("GET", "/v1/nothing", {"Expect": "foo"}, None, 417, "expectation_failed"),
    ],
)
async def test_what_is_not_let_in_is_told_as_a_problem_and_not_forwarded(
    client: Client,
    other: list[web.Request],
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes | None,
    status: int,
    code: str,
) -> None:
    answer = await client.request(method, URL(path, encoded=True), headers=headers, data=body)

    told = await answer.json(content_type="application/problem+json")
    assert (answer.status, told["status"], told["error_code"]) == (status, status, code)
    assert told["message"]
    assert other == []


async def test_a_bug_is_told_as_a_problem_and_logged(
    client: Client, house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(*_: Any) -> Any:
        raise KeyError("oops")

    monkeypatch.setattr(type(house.sets), "written", staticmethod(buggy))

    answer = await client.get(SAFE)

    assert (answer.status, answer.content_type) == (500, "application/problem+json")
    assert "oops" in caplog.text


async def test_a_worker_that_does_not_get_on_is_not_live(client: Client, door: Door) -> None:
    alive: Any = door.alive
    assert (await client.get("/livez")).status == 200

    for now in range(0, 70, 10):
        alive.beat(now, busy=True, done=0)

    assert (await client.get("/livez")).status == 503


async def test_ids_may_be_whatever_a_url_can_carry(client: Client, house: House) -> None:
    project = "prøject 1 ?&#%"
    await house.says("project_updates", project_id=project, dataset_storage_id="s")

    answer = await client.get("/v1/projects/pr%C3%B8ject%201%20%3F%26%23%25/active-set")

    assert (await answer.json())["active_set"] == []


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What an operator is told."""
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.INFO]


async def heard(client: Client, *parts: bytes) -> tuple[bytes, dict[str, Any]]:
    """The first line of the answer to a request in bytes, and its problem; nothing, if there is no answer."""
    answers, asks = await asyncio.open_connection(client.host, client.port)
    for each in parts:
        asks.write(each)
    line, _, rest = (await asyncio.wait_for(answers.readuntil(b"}"), 10)).partition(b"\r\n")
    asks.close()
    head, _, body = rest.partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head
    return line, json.loads(body)


ROOT = "the first line must name a path"


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + bytes(9000).replace(b"\0", b"x") + b"\r\n\r\n", "each header 8192"),
        (b"junk\r\n\r\n", "junk"),
        (b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n", "Content-Length"),
        (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", ROOT),
        (b"GET http://x:99999/livez HTTP/1.1\r\nHost: x\r\n\r\n", ROOT),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", "chunk size"),
    ],
    ids=["header", "junk", "length", "star", "port", "chunk"],
)
async def test_what_is_no_request_is_answered_with_a_problem_and_no_news_for_an_operator(
    client: Client, caplog: pytest.LogCaptureFixture, raw: bytes, told: str
) -> None:
    line, problem = await heard(client, raw)

    assert line == b"HTTP/1.0 400 Bad Request"
    assert (problem["status"], problem["error_code"]) == (400, "bad_request")
    assert told in problem["message"]
    assert said(caplog) == []


CHUNKED = b"%s %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
LEASES = f"/v1/projects/{PROJECT}/leases".encode()


@pytest.mark.parametrize("path", [LEASES, b"/livez", b"/nothing"])
async def test_a_body_that_does_not_come_is_waited_for_a_time(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    monkeypatch.setattr("web.problems.BODY_S", 0.05)

    line, problem = await heard(client, CHUNKED % (b"POST", path), b"5\r\nhello\r\n")

    assert line == b"HTTP/1.1 408 Request Timeout"
    assert problem["message"] == "the body must be here within 0.05 s"


async def test_headers_that_do_not_end_are_waited_for_a_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.server.HEAD_S", 0.05)
    answers, asks = await asyncio.open_connection(client.host, client.port)

    asks.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ")

    assert await asyncio.wait_for(answers.read(), 10) == b""
    asks.close()


async def test_a_connection_may_be_idle_before_and_between_requests(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.server.HEAD_S", 0.05)
    answers, asks = await asyncio.open_connection(client.host, client.port)

    for part in (b"GET /livez HT", b"TP/1.1\r\nHost: x\r\n\r\n"):
        asks.write(part)
    await answers.readuntil(b"}")
    await asyncio.sleep(0.1)  # twice as long as headers may take
    asks.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")

    assert await asyncio.wait_for(answers.readuntil(b"}"), 10)
    asks.close()


async def test_a_client_that_leaves_within_its_body_is_no_news_for_an_operator(
    client: Client, house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.tells("m1")
    begun, answered, read = asyncio.Event(), asyncio.Event(), problems.read

    async def watched(request: web.Request) -> None:
        begun.set()
        try:
            await read(request)
        finally:
            answered.set()

    monkeypatch.setattr(problems, "read", watched)
    _, asks = await asyncio.open_connection(client.host, client.port)
    asks.write(CHUNKED % (b"POST", LEASES) + b"5\r\nhello\r\n")
    await asyncio.wait_for(begun.wait(), 10)

    asks.close()

    await asyncio.wait_for(answered.wait(), 5)
    assert said(caplog) == []


@pytest.mark.parametrize("forwarded", [False, True])
async def test_a_body_that_becomes_too_large_is_refused_whoever_owns_the_project(
    app: App, client: Client, house: House, other: list[web.Request], forwarded: bool
) -> None:
    await house.tells("m1")
    if not forwarded:
        app.others.clear()

    line, problem = await heard(
        client, CHUNKED % (b"GET", SAFE.encode()), b"10000\r\n" + bytes(0x10000) + b"\r\n1\r\nx\r\n0\r\n\r\n"
    )

    assert (line, problem["status"]) == (b"HTTP/1.1 413 Request Entity Too Large", 413)
    assert other == []


async def test_any_line_of_if_none_match_may_have_the_tag(client: Client) -> None:
    tag = (await client.get("/openapi.json")).headers["ETag"]

    answer = await client.get("/openapi.json", headers=[("If-None-Match", '"x"'), ("If-None-Match", tag)])

    assert answer.status == 304


async def test_the_contract_is_told_and_has_every_route(client: Client) -> None:
    answer = await client.get("/openapi.json")

    assert answer.headers["ETag"]
    assert await answer.json() == json.loads(FILE.read_text())
