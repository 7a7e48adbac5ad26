from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from streams.app import new_app
from streams.settings import Settings
from tests.worker.conftest import PROJECT, TASK, WORKSPACE, House
from web import views

Client = TestClient[web.Request, web.Application]
SAFE = f"/v1/projects/{PROJECT}/active-set"
MARKS = f"/api/v1/organizations/o/workspaces/{WORKSPACE}/projects/{PROJECT}/datasets/active"


@pytest.fixture
async def app() -> Any:
    """An application that looks as if it had joined."""
    app: Any = new_app(Settings(broker="127.0.0.1:1"))
    app.tables.recovery.completed.set()
    app.rebalancing = False
    return app


@pytest.fixture
async def client(app: Any, house: House) -> AsyncIterator[Client]:
    views.declare(app, house.sets)
    app.web.init_server()
    async with TestClient(TestServer(app.web.web_app)) as client:
        yield client


async def test_both_routes_answer_with_items_and_only_getis_marks(client: Client, house: House) -> None:
    await house.tells("m1", "m2")

    answers = [await client.get(path, params={"limit": 1}) for path in (SAFE, SAFE, MARKS, SAFE)]

    assert {(answer.status, answer.headers["Cache-Control"]) for answer in answers} == {(200, "no-store")}
    first, second, marked, after = [(await answer.json())["active_set"][0]["id"] for answer in answers]
    assert first == second == marked != after


@pytest.mark.parametrize(
    ("path", "status", "code", "told"),
    [
        (f"{SAFE}?limit=0", 400, "bad_request", "limit must be 1..1000, not '0'"),
        (f"{SAFE}?limit=1001", 400, "bad_request", "limit must be 1..1000, not 1001"),
        (f"{SAFE}?limit=ten", 400, "bad_request", "limit must be 1..1000, not 'ten'"),
        (f"{SAFE}?limit=1&limit=2", 400, "bad_request", "limit must be given once"),
        (f"{SAFE}?colour=red", 400, "bad_request", "'colour'"),
        (f"{SAFE}?task_id=", 400, "bad_request", "task_id must be the id of a task"),
        (f"{SAFE}?task_id=crop", 400, "bad_request", "task_id must be a task that can be trained"),
        (f"{MARKS}?limit=-1", 400, "bad_request", "limit must be 1..1000"),
        (f"{SAFE}?task_id=t9", 404, "task_not_found", "no task 't9'"),
        ("/v1/projects/nobody/active-set", 404, "project_not_found", "no project 'nobody'"),
        ("/v1/projects/%00/active-set", 404, "project_not_found", "no project"),
        ("/v1/projects/a%2Fb/active-set", 404, "project_not_found", "no project"),
        (f"/v1/projects/{'p' * 5000}/active-set", 404, "project_not_found", "no project"),
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


async def test_getis_route_is_lenient_as_geti_is(client: Client, house: House) -> None:
    await house.tells(*(f"m{n}" for n in range(1200)))

    answer = await client.get(f"{MARKS}?limit=5000&limit=3&colour=red")

    assert answer.status == 200
    assert len((await answer.json())["active_set"]) == 1000


async def test_head_does_not_mark(client: Client, house: House) -> None:
    await house.tells("m1")

    refused = await client.head(MARKS)

    assert (refused.status, refused.headers["Allow"]) == (405, "GET")
    assert (await client.head(SAFE)).status == 200
    assert house.published == []


@pytest.mark.parametrize("unready", ["rebalancing", "not restored", "not ours"])
async def test_a_worker_that_may_not_know_says_so_and_never_that_there_is_nothing(
    app: Any, client: Client, house: House, unready: str
) -> None:
    await house.tells("m1")
    if unready == "rebalancing":
        app.rebalancing = True
    elif unready == "not restored":
        app.tables.recovery.completed.clear()
    else:
        await house.state.leave()

    for path in (SAFE, MARKS, "/v1/projects/nobody/active-set"):
        answer = await client.get(path)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert (await answer.json(content_type="application/problem+json"))["error_code"] == "not_ready"


async def test_ids_may_be_whatever_a_url_can_carry(client: Client, house: House) -> None:
    project = "prøject 1 ?&#%"
    await house.says("project_updates", project_id=project, dataset_storage_id="s")

    answer = await client.get("/v1/projects/pr%C3%B8ject%201%20%3F%26%23%25/active-set")

    assert (await answer.json())["active_set"] == []
