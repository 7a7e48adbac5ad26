"""What a worker tells who watches it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiokafka.errors import KafkaConnectionError
from prometheus_client.parser import text_string_to_metric_families

from agents.ends import Ends, reason_of
from agents.watch import Stalled
from agents.worker import Worker, build
from streams.errors import CorruptStore, MalformedEvent
from streams.record import Record
from streams.settings import Settings
from streams.topics import SOURCES
from tables.leases import Live
from tables.state import State
from tests.worker.conftest import (
    GENERATION,
    HOME,
    NOW,
    PROJECT,
    TASK,
    App,
    Client,
    Disk,
    House,
    a_member,
    artifacts,
    message,
    no_ends,
)
from tests.worker.test_curate import Stream
from tests.worker.test_leases import LEASES, asks, skip
from tests.worker.test_views import MARKS, SAFE
from web.routes import ROUTES

IMAGE = {"media_type": "image", "media_id": "m1"}


@pytest.fixture
async def idle(tmp_path: Path) -> Worker:
    """A worker that has not joined."""
    return build(Settings(broker="127.0.0.1:1", data_dir=tmp_path))


@pytest.fixture
async def asking(idle: Worker) -> AsyncIterator[TestClient[Any, Any]]:
    """Asks it."""
    idle.app.web.init_server()
    served: Any = idle.app.web
    async with TestClient(TestServer(served.web_app)) as client:
        yield client


async def told(client: TestClient[Any, Any], name: str, **labels: str) -> float | None:
    """The value of a series; none if there is none."""
    text = await (await client.get("/metrics")).text()
    return valued(text, name, **labels)


def valued(text: str, name: str, **labels: str) -> float | None:
    """The value of a series in a scraped text."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return None


async def test_metrics_are_told_as_prometheus_reads_them(client: Client) -> None:
    answer = await client.get("/metrics")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {each.name: each for each in text_string_to_metric_families(await answer.text())}
    assert {"activeset_records", "activeset_lag_records", "activeset_ready", "process_resident_memory_bytes"} <= {
        *families
    }
    assert all(each.documentation for each in families.values())
    ours = [each for each in families.values() if each.name.startswith("activeset_")]
    assert {each.type for each in ours} == {"counter", "gauge", "histogram"}
    assert all(each.name.endswith("_seconds") for each in ours if each.type == "histogram")


async def test_head_is_answered_and_what_does_not_ask_is_refused(client: Client) -> None:
    assert [(await client.request(method, "/metrics")).status for method in ("HEAD", "POST")] == [200, 405]


async def test_a_worker_that_has_not_joined_tells_that_it_is_not_ready(asking: TestClient[Any, Any]) -> None:
    assert await told(asking, "activeset_ready") == 0
    assert await told(asking, "activeset_live") == 1
    assert await told(asking, "activeset_partitions", state="owned") == 0
    assert await told(asking, "activeset_records_total", topic="media_uploads", outcome="rejected") == 0


async def test_several_workers_in_a_process_count_each_for_itself(tmp_path: Path) -> None:
    one, other = [build(Settings(broker="127.0.0.1:1", data_dir=tmp_path / name)) for name in ("1", "2")]

    one.count("gaps", 3)

    texts = [each.metrics.text().decode() for each in (one, other)]
    assert [valued(text, "activeset_gaps_total") for text in texts] == [3, 0]


async def test_records_are_counted_by_topic_and_by_what_became_of_them(
    app: App, client: Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"workspace_id": "w", "project_id": PROJECT, "timestamp": NOW}
    good = msgspec.json.encode({**about, "task_id": TASK, "model_id": "m"})

    def record(value: bytes, partition: int = HOME, key: bytes = PROJECT.encode()) -> Record:
        return Record("staging.model_activations", partition, key, value, [])

    heard = [(record(good), 0), (record(good), 0), (record(b"oops"), 1), (record(good, 0), 0)]
    working = asyncio.ensure_future(
        house.curator.agent("model_activations")(Stream(*(message(each, offset) for each, offset in heard)))
    )
    while len(house.finished) < len(heard):
        await asyncio.sleep(0)

    for outcome, count in (("heard", 1), ("skipped", 1), ("rejected", 1), ("moved", 1)):
        assert await told(client, "activeset_records_total", topic="model_activations", outcome=outcome) == count, (
            outcome
        )
    assert await told(client, "activeset_rejected_records_total", reason="encoding") == 1
    working.cancel()


@pytest.mark.parametrize(
    ("topic", "event", "reason"),
    [
        ("model_activations", {"task_id": 1}, "schema"),
        ("media_uploads", {"dataset_storage_id": "s", **IMAGE, "name": "x" * 70_000}, "too_large"),
        ("inference_artifacts", artifacts({"m1": 0.5}, utilities={"u": [1.0, 2.0]}), "columns"),
        ("inference_artifacts", artifacts({"m1": 0.5}, features={"dtype": "<f8", "shape": [9], "data": ""}), "columns"),
    ],
)
async def test_what_is_rejected_is_counted_by_a_few_fixed_reasons(
    house: House, topic: str, event: dict[str, Any], reason: str
) -> None:
    await house.says(topic, **event)

    assert valued(house.metrics.text().decode(), "activeset_rejected_records_total", reason=reason) == 1


def test_no_reason_shows_what_was_rejected() -> None:
    assert MalformedEvent("limit must be 1, not 'secret'").fault == "schema"


async def test_rows_transactions_and_scoring_are_counted(client: Client, house: House) -> None:
    await house.tells("m1", "m2")
    await house.infers({"m1": 0.9, "m2": float("nan")}, probabilities=[[0.5, 0.5], [0.5, 0.5]])

    rows = sum(len(each) for each in house.changelog.rows.values())
    assert await told(client, "activeset_rows_written_total") == rows > 0
    assert await told(client, "activeset_transactions_total") == 3
    assert await told(client, "activeset_scoring_seconds_count") == 1


async def test_what_agents_count_is_counted_for_who_watches(idle: Worker) -> None:
    for what, name in (
        ("gaps", "gaps"),
        ("rows left out", "rows_left_out"),
        ("extractors failed", "extractor_failures"),
    ):
        idle.count(what, 2)

        assert valued(idle.metrics.text().decode(), f"activeset_{name}_total") == 2


async def test_lag_is_told_of_the_partitions_that_are_here(client: Client, house: House, app: App) -> None:
    await house.tells("m1")
    home = house.state.owned(HOME)
    home.ends = {topic.name: 0 for topic in SOURCES} | {"media_uploads": 4, "model_activations": 2}
    app.reached["staging.model_activations", HOME] = 2  # behind the marker of a transaction

    lag = {topic: await told(client, "activeset_lag_records", topic=topic, partition=str(HOME)) for topic in (
        "media_uploads", "model_activations", "project_updates")}  # fmt: skip

    assert lag == {"media_uploads": 3, "model_activations": 0, "project_updates": 0}
    assert await told(client, "activeset_partitions", state="ready") == 8
    await house.state.leave()
    assert await told(client, "activeset_lag_records", topic="media_uploads", partition=str(HOME)) is None
    assert await told(client, "activeset_partitions", state="restored") == 0


async def test_what_is_still_to_be_restored_is_told_while_it_is(
    client: Client, house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await house.tells(*(f"m{n}" for n in range(20)))
    seen: list[dict[int, int]] = []
    state = State(house.settings, Disk(tmp_path / "new"), house.changelog, no_ends)
    (tmp_path / "new").mkdir()
    read = house.changelog.read

    async def watched(*of: Any) -> Any:
        async for part in read(*of):
            seen.append(dict(state.restoring))
            yield part

    monkeypatch.setattr(house.changelog, "read", watched)
    await state.take(range(8), GENERATION, a_member)

    rows = len(house.changelog.rows[HOME])
    assert [each[HOME] for each in seen][:2] == [rows, rows - 3]
    assert (state.restoring, state.restored) == ({}, sum(len(each) for each in house.changelog.rows.values()))
    await state.leave()


async def test_requests_are_counted_by_the_templates_of_their_routes(client: Client, house: House) -> None:
    await house.tells("m1")
    for path in (SAFE, f"{SAFE}?limit=0", "/v1/projects/secret/active-set", "/secret", MARKS):
        await client.get(path)
    await client.request("PROPFIND", SAFE)
    text = await (await client.get("/metrics")).text()

    def requests(route: str, method: str, status: str) -> float | None:
        return valued(text, "activeset_http_requests_total", route=route, method=method, status=status)

    safe = "/v1/projects/{project}/active-set"
    assert [requests(safe, "GET", status) for status in ("200", "400", "404")] == [1, 1, 1]
    assert requests("unknown", "GET", "404") == 1
    assert requests("unknown", "unknown", "405") == 1
    assert valued(text, "activeset_http_request_seconds_count", route=safe, method="GET") == 3
    sets = {
        (marks, status): valued(text, "activeset_active_sets_total", marks=marks, status=status)
        for marks in ("yes", "no")
        for status in ("200", "400", "404")
    }
    assert sets == {("no", "200"): 1, ("no", "400"): 1, ("no", "404"): 1, ("yes", "200"): 1,
                    ("yes", "400"): None, ("yes", "404"): None}  # fmt: skip
    assert "secret" not in text.lower()
    assert PROJECT not in text


async def test_what_another_worker_answers_is_counted_as_forwarded_and_as_no_set(app: App, client: Client) -> None:
    app.others = dict.fromkeys(range(8), "http://127.0.0.1:1")

    assert (await client.get(SAFE)).status == 503

    assert await told(client, "activeset_http_forwarded_requests_total") == 1
    assert await told(client, "activeset_active_sets_total", marks="no", status="503") is None


async def test_every_route_has_a_template_of_its_own(client: Client) -> None:
    for route in ROUTES:
        path = route.path.format(project="p", medium="image:m", lease="l", organization="o", workspace="w")
        await client.request(route.method, path)
    text = await (await client.get("/metrics")).text()

    assert 'route="unknown"' not in text
    assert all(f'route="{route.path}"' in text for route in ROUTES)


async def test_the_age_of_orders_is_told_and_whether_they_were_current(client: Client, house: House) -> None:
    await house.tells("m1")
    await client.get(SAFE)
    later = NOW + 90_000
    object.__setattr__(house.sets, "now", lambda: later)
    await client.get(SAFE)

    text = await (await client.get("/metrics")).text()

    def served(le: str, current: str = "yes") -> float | None:
        return valued(text, "activeset_order_age_seconds_bucket", le=le, current=current)

    assert [served(le) for le in ("0.1", "60.0", "300.0", "+Inf")] == [1, 1, 2, 2]
    assert served("+Inf", "no") == 0


async def test_leases_are_counted_until_they_end_or_are_given_back(client: Client, house: House) -> None:
    await house.tells(*(f"m{n}" for n in range(8)))
    counts = []
    for name, ttl_s in (("r1", 60), ("r2", 600), ("r3", 600), ("r4", 600)):
        await asks(client, user_id="ann", limit=1, request_id=name, ttl_s=ttl_s)
        counts.append(await told(client, "activeset_leases"))
    await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann", ttl_s=120)
    await client.delete(f"{LEASES}/r3?user_id=ann")
    _, last = await asks(client, user_id="ann", limit=1, request_id="r4")
    await asks(client, f"{LEASES}/r4/skips", **skip("ann", last["lease"]["media"][0], "me"))
    counts.append(await told(client, "activeset_leases"))

    live = house.state.owned(HOME).leases
    counts += [live.count(NOW + after_s * 1000) for after_s in (60, 120, 600)]

    assert counts == [1, 2, 3, 4, 2, 2, 1, 0]


async def test_a_new_owner_counts_the_leases_of_a_project_once_somebody_asks_for_it(
    client: Client, house: House
) -> None:
    await house.tells("m1", "m2")
    await asks(client, user_id="ann", limit=1)
    await house.state.take(range(8), GENERATION, a_member)
    for each in house.state.partitions:
        each.caught_up = True

    before = await told(client, "activeset_leases")
    await client.get(SAFE)

    assert (before, await told(client, "activeset_leases")) == (0, 1)


def row(end: int) -> bytes:
    """A lease that ends then."""
    return b"\0" * 8 + end.to_bytes(8, "little") + b"\0" * 8 + b'{"media":[1]}'


def key(number: int) -> bytes:
    return b"\0\1p\x0e" + number.to_bytes(8, "big")


def test_leases_that_are_renewed_again_and_again_while_nobody_counts_take_no_room() -> None:
    live = Live()
    for end in range(1, 10_000):
        live.update([(key(1), row(end)), (key(2), row(end)), (b"\0\1p\x09" + b"0" * 12, b"a grant")])
    live.update([(key(2), None)])

    assert len(live._ends) < 200
    assert [live.count(9998), live.count(9999)] == [1, 0]
    assert live._ends == []


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        (KafkaConnectionError(), "kafka"),
        (CorruptStore("x"), "disk"),
        (OSError(28, "No space left on device"), "disk"),
        (Stalled("x"), "stalled"),
        (KeyError("x"), "bug"),
    ],
)
def test_what_ends_a_worker_is_kept_for_those_who_ask_the_next_one(
    tmp_path: Path, why: BaseException, reason: Any
) -> None:
    Ends(tmp_path).begin()  # and is killed
    second = Ends(tmp_path)
    second.begin()
    second.note(reason_of(why))

    third = Ends(tmp_path)

    assert +second.counts == {"killed": 1}
    assert +third.counts == {"killed": 1, reason: 1}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"told": "x"}', '{"told": [1]}'])
def test_a_file_of_ends_that_cannot_be_read_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "ends.json").write_text(text)

    ends = Ends(tmp_path)
    ends.note("told")

    assert +Ends(tmp_path).counts == {"told": 1}


def test_a_folder_that_takes_no_more_is_no_reason_to_end_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Ends(tmp_path / "not there").note("told")

    assert "cannot be kept" in caplog.text
