import asyncio
from collections import Counter
from typing import Any

import pytest
from yarl import URL

from streams.offsets import Place
from tests.worker.conftest import NOW, PROJECT, TASK, Client, House
from tests.worker.test_leases import LEASES, asks, skip
from tests.worker.test_views import SAFE

ABOUT = f"/v1/projects/{PROJECT}"
SCORED_AT = "2026-01-01T00:00:00+00:00"


async def got(client: Client, path: str, status: int = 200) -> Any:
    answer = await client.get(URL(path, encoded=True))
    assert answer.status == status, await answer.text()
    return await answer.json()


async def told(house: House) -> None:
    """Four images, of which three have scores of the active model, and one is annotated."""
    await house.tells("m1", "m2", "m3", "m4")
    await house.says("model_activations", task_id=TASK, model_id="model-1")
    await house.infers({"m1": 0.2, "m2": 0.9, "m3": 0.5})
    await house.says("annotation_updates", media_id="m3", states={TASK: "annotated"}, timestamp=NOW)


async def test_a_medium_tells_where_it_stands_and_why(client: Client, house: House) -> None:
    await told(house)

    answer = await got(client, f"{ABOUT}/media/image:m1?task_id={TASK}")

    [reason] = answer.pop("reasons")
    assert answer.pop("order") == {"current": True}
    assert answer.pop("as_of").keys() == {
        "annotation_updates",
        "inference_artifacts",
        "media_uploads",
        "model_activations",
        "project_updates",
    }
    assert answer == {
        "medium": {"media_type": "image", "media_id": "m1"},
        "state": "available",
        "held_until": None,
        "rank": 2,
        "score": pytest.approx(2 / 3),
        "tier": "active_model",
        "choice": {"by": "score"},
        "annotation_state_per_task": [{"task_id": TASK, "state": "none"}],
        "lag": {},
    }
    assert reason == {
        "task_id": TASK,
        "tier": "active_model",
        "score": pytest.approx(2 / 3),
        "extractors": {"margin": {"utility": pytest.approx(0.2), "score": pytest.approx(2 / 3)}},
        "label": "a",
        "model_id": "model-1",
        "scored_at": SCORED_AT,
    }


async def test_ranks_are_those_of_the_active_set(client: Client, house: House) -> None:
    await house.tells(*[f"m{n}" for n in range(9)])
    await house.infers({f"m{n}": n / 10 for n in range(9)})
    for n, whom in enumerate(("me", "others", "good")):
        await asks(client, user_id="ann", limit=1, request_id=f"r{n}")
        _, lease = await asks(client, user_id="ann", limit=1, request_id=f"r{n}")
        await asks(client, f"{LEASES}/r{n}/skips", **skip("ann", lease["lease"]["media"][0], whom))
    await asks(client, user_id="bob", limit=1)
    shown = [item["id"] for item in (await got(client, SAFE))["active_set"]]

    ranks = {n: (await got(client, f"{ABOUT}/media/image:m{n}"))["rank"] for n in range(9)}

    assert [f"m{n}" for n in sorted(range(9), key=lambda n: ranks[n] or 99)][: len(shown)] == shown
    assert sorted(rank for rank in ranks.values() if rank) == [*range(1, len(shown) + 1)]


async def test_a_medium_that_cannot_be_had_tells_why(client: Client, house: House) -> None:
    await told(house)
    await asks(client, user_id="ann", limit=1, ttl_s=60, request_id="r1")
    await asks(client, user_id="ann", limit=1, request_id="r2")
    m1 = {"media_type": "image", "media_id": "m1"}
    await asks(client, f"{LEASES}/r2/skips", **skip("ann", m1, "good"))

    answers = {n: await got(client, f"{ABOUT}/media/image:m{n}") for n in (1, 2, 3)}

    assert {n: (each["state"], each["rank"]) for n, each in answers.items()} == {
        1: ("skipped", None),
        2: ("held", None),
        3: ("annotated", None),
    }
    assert answers[2]["held_until"] == "2026-01-01T00:01:00+00:00"


async def test_each_medium_of_a_project_is_counted_where_it_is(client: Client, house: House) -> None:
    names = [f"m{n}" for n in range(8)]
    await house.tells(*names, tasks=(TASK, "t2"))
    _, lease = await asks(client, user_id="ann", limit=4, request_id="r1")
    for medium, whom in zip(lease["lease"]["media"], ("me", "others", "good"), strict=False):
        await asks(client, f"{LEASES}/r1/skips", **skip("ann", medium, whom))
    left = [each for each in names if each not in {each["media_id"] for each in lease["lease"]["media"]}]
    await house.says("annotation_updates", media_id=left[0], states={TASK: "annotated", "t2": "annotated"})
    await house.says("annotation_updates", media_id=left[1], states={TASK: "annotated"})
    await house.says("annotation_updates", media_id=left[2], states={TASK: "to_revisit", "t2": "annotated"})

    counts = (await got(client, ABOUT))["media"]

    states = [(await got(client, f"{ABOUT}/media/image:{each}"))["state"] for each in names]
    assert counts == {"total": 8, "available": 2, "held": 1, "skipped": 2, "annotated": 1, "begun": 2}
    assert Counter(states) == {name: count for name, count in counts.items() if name != "total"}
    assert len(await house.shown(None)) == counts["available"]
    assert (await got(client, f"{ABOUT}/media/image:{left[1]}?task_id={TASK}"))["state"] == "annotated"


async def test_a_frame_is_named_by_its_video_and_index(client: Client, house: House) -> None:
    await told(house)
    video = {"media_type": "video", "media_id": "v:1", "frame_count": 9, "frame_stride": 4}
    await house.says("media_uploads", dataset_storage_id="s", **video)

    answer = await got(client, f"{ABOUT}/media/frame:v:1:8")

    assert answer["medium"] == {"media_type": "video_frame", "media_id": "v:1", "frame_index": 8}
    assert (answer["state"], answer["tier"]) == ("available", "not_scored")
    await got(client, f"{ABOUT}/media/frame:v:1:7", 404)


async def test_a_project_tells_how_far_it_is(client: Client, house: House) -> None:
    await told(house)
    await asks(client, user_id="ann", limit=1)

    answer = await got(client, ABOUT)

    assert answer["media"] == {"total": 4, "available": 2, "held": 1, "skipped": 0, "annotated": 1, "begun": 0}
    [task] = answer["tasks"]
    assert task == {
        "task_id": TASK,
        "title": "",
        "task_type": "classification",
        "trainable": True,
        "states": {"none": 3, "partially_annotated": 0, "annotated": 1, "to_revisit": 0},
        "tiers": {"active_model": 2, "earlier_model": 0, "not_scored": 1},
        "coverage": pytest.approx(2 / 3),
        "scores": {"edges": [n / 10 for n in range(11)], "counts": [1, 0, 0, 0, 0, 0, 1, 0, 0, 0]},
        "labels": {"pool": [{"label": "a", "media": 2}], "annotated": [{"label": "a", "media": 1}]},
        "scored_at": SCORED_AT,
        "active_model": "model-1",
        "batches": {"complete": 1, "coming": 0},
    }


async def test_what_is_annotated_is_told_by_the_labels_that_people_gave_where_they_are_known(
    client: Client, house: House
) -> None:
    await told(house)
    await house.says("annotation_updates", media_id="m2", states={TASK: "annotated"}, timestamp=NOW)
    seen: dict[str, Any] = {"subset": "seen", "batch_id": "next", "labels": ["b", "b"], "last": False}
    await house.infers({"m3": 0.5, "m4": 0.5}, timestamp=NOW + 1, **seen)

    [task] = (await got(client, ABOUT))["tasks"]

    # A model said `a` of m2 and of m3, and a person `b` of m3; nobody has annotated m4.
    assert {each["label"]: each["media"] for each in task["labels"]["annotated"]} == {"a": 1, "b": 1}
    assert task["labels"]["pool"] == [{"label": "a", "media": 1}]


async def test_a_project_of_which_little_is_known_is_told_all_the_same(client: Client, house: House) -> None:
    await house.says(
        "project_updates", dataset_storage_id="s", tasks=[{"task_id": "crop", "trainable": False}, {"task_id": "t1"}]
    )

    crop, task = (await got(client, ABOUT))["tasks"]

    assert crop == {"task_id": "crop", "title": "", "task_type": "", "trainable": False}
    assert (task["coverage"], task["active_model"], task["scored_at"]) == (None, None, None)


@pytest.mark.parametrize("path", [SAFE, ABOUT, f"{ABOUT}/media/image:m1"])
async def test_a_safe_answer_that_a_client_has_already_is_not_sent_again(
    client: Client, house: House, path: str
) -> None:
    await told(house)
    first = await client.get(path)

    again = await client.get(path, headers={"If-None-Match": f'"x", {first.headers["ETag"]}'})
    await house.says("annotation_updates", media_id="m1", states={TASK: "annotated"})
    after = await client.get(path, headers={"If-None-Match": first.headers["ETag"]})

    assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert after.status == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/media/m1", 404, "media_not_found"),
        ("/media/video:v1", 404, "media_not_found"),
        ("/media/frame:v1", 404, "media_not_found"),
        ("/media/frame:v1:-1", 404, "media_not_found"),
        ("/media/frame:v1:4294967296", 404, "media_not_found"),
        ("/media/frame:v1:%C2%B2", 404, "media_not_found"),
        ("/media/image:", 404, "media_not_found"),
        ("/media/image:%00", 404, "media_not_found"),
        ("/media/image:a%2Fb", 404, "media_not_found"),
        ("/media/..%2F..", 404, "media_not_found"),
        (f"/media/image:{'m' * 5000}", 404, "media_not_found"),
        ("/media/image:m9", 404, "media_not_found"),
        ("/media/frame:v1:0", 404, "media_not_found"),
        ("/media/image:m1?limit=1", 400, "bad_request"),
        ("/media/image:m1?task_id=", 400, "bad_request"),
        ("/media/image:m1?task_id=t1&task_id=t1", 400, "bad_request"),
        ("/media/image:m1?task_id=t9", 404, "task_not_found"),
        ("?limit=1", 400, "bad_request"),
        ("x", 404, "project_not_found"),
        ("%00", 404, "project_not_found"),
    ],
)
async def test_a_wrong_question_about_a_medium_or_a_project_is_answered_with_what_is_wrong(
    client: Client, house: House, path: str, status: int, code: str
) -> None:
    await told(house)

    answer = await got(client, ABOUT + path, status)

    assert answer["error_code"] == code


async def test_what_kafka_has_of_uploads_is_applied_before_a_medium_is_called_unknown(
    client: Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await told(house)

    async def one_more(places: list[Place]) -> dict[Place, int]:
        return {place: house.ends[place[0].removeprefix("staging.")] + 1 for place in places}

    monkeypatch.setattr(house.state, "_ends", one_more)
    asking = asyncio.ensure_future(got(client, f"{ABOUT}/media/image:m5"))
    await asyncio.wait([asking], timeout=0.05)
    assert not asking.done()

    await house.says("media_uploads", dataset_storage_id="s", media_type="image", media_id="m5")

    assert (await asking)["state"] == "available"


async def test_a_project_and_a_medium_that_were_just_told_are_both_known(
    client: Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one_more(places: list[Place]) -> dict[Place, int]:
        return dict.fromkeys(places, 1)

    monkeypatch.setattr(house.state, "_ends", one_more)
    asking = asyncio.ensure_future(got(client, f"{ABOUT}/media/image:m1"))
    await house.tells()
    await asyncio.wait([asking], timeout=0.05)
    assert not asking.done()

    await house.says("media_uploads", dataset_storage_id="s", media_type="image", media_id="m1")

    assert (await asking)["rank"] == 1


async def test_an_active_model_that_has_sent_nothing_yet_is_told(client: Client, house: House) -> None:
    await house.tells("m1")

    await house.says("model_activations", task_id=TASK, model_id="model-1")

    [task] = (await got(client, ABOUT))["tasks"]
    assert (task["active_model"], task["coverage"]) == ("model-1", 0.0)


async def test_a_medium_that_was_deleted_is_not_found(client: Client, house: House) -> None:
    await told(house)
    await got(client, f"{ABOUT}/media/image:m1")

    await house.says("media_deletions", dataset_storage_id="s", media_type="image", media_id="m1", timestamp=NOW + 1)

    await got(client, f"{ABOUT}/media/image:m1", 404)
