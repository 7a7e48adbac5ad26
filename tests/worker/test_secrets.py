"""What is in records and requests does not come into the log, at whatever level."""

import asyncio
import base64
import json
import logging
import struct
from typing import Any

import pytest

from agents.curate import Outcome
from streams.logs import Json
from streams.partition import partition_of
from streams.record import Headers, Record
from tests.worker.conftest import HOME, NOW, PROJECT, TASK, Client, House, artifacts
from tests.worker.test_leases import LEASES
from tests.worker.test_views import MARKS, SAFE

MARK = "hush-hush"
NO_NUMBER = {"dtype": "<f8", "shape": [1, 1], "data": base64.b64encode(struct.pack("<d", float("nan"))).decode()}
MOVED: Headers = [("activeset-moved-from", MARK.encode())]
ABOUT = {"workspace_id": MARK, "project_id": PROJECT, "timestamp": NOW}
BAD: list[tuple[str, bytes | None, Any, Headers]] = [
    ("media_uploads", b"p", MARK, []),
    ("media_uploads", b"p", f"{{{MARK}", []),
    ("media_uploads", b"p", b"\xff" + MARK.encode(), []),
    ("media_uploads", MARK.encode(), {**ABOUT, "dataset_storage_id": MARK, "media": []}, []),
    ("media_uploads", PROJECT.encode(), {**ABOUT, "dataset_storage_id": MARK, "media": [{MARK: MARK}]}, []),
    ("media_uploads", b"p", {}, [("content-type", MARK.encode())]),
    ("media_uploads", b"p", {}, [(f"{MARK}\udce9", MARK.encode())]),
    ("annotation_updates", PROJECT.encode(), {**ABOUT, "media_id": "m", "states": {MARK: MARK}}, []),
    ("annotation_updates", PROJECT.encode(), {**ABOUT, "media_id": f"{MARK}/", "states": {}}, []),
    ("active_set_events", PROJECT.encode(), {**ABOUT, "change": MARK, "request_id": MARK}, []),
    ("project_updates", PROJECT.encode(), {**ABOUT, "dataset_storage_id": "s", "tasks": [{"task_id": MARK}] * 2}, []),
    ("inference_artifacts", PROJECT.encode(), {**ABOUT, **artifacts({"m1": 0.5}, classes=[MARK] * 3)}, []),
    ("inference_artifacts", PROJECT.encode(), {**ABOUT, **artifacts({MARK: 0.5}, utilities={MARK: [1, 2]})}, []),
    ("inference_artifacts", PROJECT.encode(), {**ABOUT, **artifacts({"m1": 0.5})}, MOVED),
]


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    """All that is said at `debug`."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "activeset")


def said(caplog: pytest.LogCaptureFixture) -> str:
    """The log, as JSON with all that it has."""
    return "\n".join(Json().format(each) for each in caplog.records)


@pytest.mark.parametrize(("topic", "key", "value", "headers"), BAD)
async def test_what_is_rejected_is_not_shown(
    house: House, caplog: pytest.LogCaptureFixture, topic: str, key: bytes | None, value: Any, headers: Headers
) -> None:
    raw = value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()

    outcome = await house.hear(Record(topic, HOME, key, raw, headers), topic)

    assert outcome == Outcome.REJECTED
    assert f"rejected {topic}, partition {HOME}, offset 0: " in said(caplog)
    assert MARK not in said(caplog)


async def test_of_events_only_ids_are_shown_where_somebody_must_look(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await house.says("media_uploads", dataset_storage_id="s", media_type="image", media_id="m1", name=MARK)
    await house.says("annotation_updates", media_id="m1", states={TASK: "annotated"}, user_id=MARK)
    await house.infers({MARK: 0.5}, labels=[MARK], features=NO_NUMBER)
    away = (partition_of(PROJECT.encode(), 8) + 1) % 8
    moved = {**ABOUT, "task_id": TASK, "model_id": MARK}
    await house.hear(Record("t", away, PROJECT.encode(), json.dumps(moved).encode(), []), "model_activations")
    await house.hear(Record("t", HOME, PROJECT.encode(), json.dumps(moved).encode(), []), "model_activations", 70)

    assert "left out 1 of 1 rows" in said(caplog)
    assert MARK not in said(caplog)


async def test_what_is_asked_is_not_shown_also_where_it_ends_in_a_bug(
    client: Client, house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {"Authorization": f"Bearer {MARK}", "x-api-key": MARK, "Cookie": f"session={MARK}"}
    await house.tells("m1")

    async def ask() -> list[int]:
        body = {"user_id": MARK, "request_id": MARK, MARK: MARK}
        answers = [
            await client.get(f"{SAFE}?token={MARK}", headers=secret),
            await client.get(f"{MARKS}?limit=1&token={MARK}", headers=secret),
            await client.post(LEASES, json=body, headers=secret),
            await client.post(LEASES, data=MARK, headers={**secret, "Content-Type": "application/json"}),
        ]
        return [answer.status for answer in answers]

    assert await ask() == [400, 200, 400, 400]
    monkeypatch.setattr("web.views.query", lambda *_, **__: 1 / 0)
    assert await ask() == [500, 500, 400, 400]

    assert "ZeroDivisionError" in said(caplog)
    assert MARK not in said(caplog)


@pytest.mark.parametrize(
    "raw",
    [
        f"{MARK}\r\n\r\n",
        f"GET /{MARK} {MARK}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\n{MARK}\0: {MARK}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {MARK}\r\n\r\n",
        f"POST {LEASES} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{MARK}\r\n",
    ],
)
async def test_what_is_no_http_is_not_shown(client: Client, caplog: pytest.LogCaptureFixture, raw: str) -> None:
    answers, asks = await asyncio.open_connection(client.host, client.port)
    asks.write(raw.encode())
    asks.write_eof()

    await answers.read()

    asks.close()
    assert MARK not in said(caplog)
