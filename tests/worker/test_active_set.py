import asyncio
import json
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError

from agents.curate import Outcome
from streams.errors import BadQuery, NotReady, UnknownProject, UnknownTask
from streams.record import Record
from tables.ranking import Ranking
from tables.rows import Kind, prefix_of
from tables.state import State
from tests.worker.conftest import GENERATION, HOME, NOW, PROJECT, TASK, WORKSPACE, Disk, House, a_member, no_ends
from web.query import Query

EVERY = Query(None, 100)
DELETED = {"dataset_storage_id": "s", "media_id": "m1", "media_type": "image"}
AGAIN = {"dataset_storage_id": "s", "media": [{"media_type": "image", "media_id": "m1"}]}


def annotated(image: str, state: str = "annotated", task: str = TASK, at: int = NOW) -> dict[str, object]:
    return {"media_id": image, "states": {task: state}, "timestamp": at}


async def test_the_least_certain_media_come_first(house: House) -> None:
    await house.tells("m1", "m2", "m3")
    await house.says("model_activations", task_id=TASK, model_id="model-1")
    await house.infers({"m1": 0.2, "m2": 0.9, "m3": 0.5})

    assert await house.shown() == ["m2", "m3", "m1"]
    assert await house.shown(limit=1) == ["m2"]


async def test_an_annotated_medium_leaves_the_active_set_and_comes_back_when_that_is_undone(house: House) -> None:
    await house.tells("m1", "m2")

    await house.says("annotation_updates", **annotated("m1"))
    assert await house.shown() == ["m2"]

    await house.says("annotation_updates", **annotated("m1", "none", at=NOW - 1))  # an older one, late
    assert await house.shown() == ["m2"]
    await house.says("annotation_updates", **annotated("m1", "none", at=NOW + 1))
    assert sorted(await house.shown()) == ["m1", "m2"]


async def test_topics_may_come_in_any_order(house: House) -> None:
    await house.infers({"m1": 0.2, "m2": 0.9, "m3": 0.5})
    await house.says("annotation_updates", **annotated("m2"))
    await house.says("model_activations", task_id=TASK, model_id="model-1")
    with pytest.raises(UnknownProject):
        await house.shown()

    await house.tells("m1", "m2", "m3")

    assert await house.shown() == ["m3", "m1"]


async def test_the_active_models_scores_come_before_an_earlier_models_and_those_before_none(house: House) -> None:
    await house.tells("m1", "m2", "m3")
    await house.infers({"m1": 0.2, "m2": 0.9}, "model-1")
    await house.infers({"m1": 0.1}, "model-2", timestamp=NOW + 1)
    await house.says("model_activations", task_id=TASK, model_id="model-2")

    answer = await house.sets.shown(PROJECT, EVERY)

    assert [(item["id"], item["active_learning"]["tier"]) for item in answer["active_set"]] == [
        ("m1", "active_model"),
        ("m2", "earlier_model"),
        ("m3", "not_scored"),
    ]


async def test_a_batch_counts_when_its_last_chunk_has_come(house: House) -> None:
    await house.tells("m1", "m2", "m3", "m4")
    await house.says("model_activations", task_id=TASK, model_id="model-1")

    await house.infers({"m1": 0.2, "m2": 0.3}, chunk=0, last=False)
    answer = await house.sets.shown(PROJECT, EVERY)
    assert {item["active_learning"]["tier"] for item in answer["active_set"]} == {"not_scored"}

    await house.infers({"m3": 0.9}, chunk=1, last=True)
    assert await house.shown() == ["m3", "m2", "m1", "m4"]


async def test_why_a_medium_was_chosen_is_told(house: House) -> None:
    await house.tells("m1", "m2")
    await house.says("model_activations", task_id=TASK, model_id="model-1")
    await house.infers({"m1": 0.5, "m2": 0.25}, labels=["cat", "dog"])

    answer = await house.sets.shown(PROJECT, Query(TASK, 1))

    [item] = [{**each} for each in answer["active_set"]]
    told: Any = item.pop("active_learning")
    assert item == {
        "id": "m1" if told["reasons"][0]["label"] == "cat" else "m2",
        "dataset_id": "s",
        "name": item["id"],
        "type": "image",
        "upload_time": "2026-01-01T00:00:00+00:00",
        "media_information": {"display_url": "", "height": 0, "width": 0},
        "thumbnail": "",
        "annotation_state_per_task": [{"task_id": TASK, "state": "none"}],
    }
    assert told == {
        "score": 0.0,
        "rank": 1,
        "tier": "active_model",
        "choice": {"by": "score", "without_features": True},
        "reasons": [
            {
                "task_id": TASK,
                "tier": "active_model",
                "score": 0.0,
                "extractors": {
                    "margin": {"utility": {"cat": 0.5, "dog": 0.25}[told["reasons"][0]["label"]], "score": 0.0}
                },
                "label": told["reasons"][0]["label"],
                "model_id": "model-1",
                "scored_at": "2026-01-01T00:00:00+00:00",
            }
        ],
    }
    assert answer["as_of"] == {
        "inference_artifacts": 0,
        "media_uploads": 0,
        "model_activations": 0,
        "project_updates": 0,
    }


async def test_what_an_upload_told_is_shown_again(house: House) -> None:
    await house.tells()
    told = {"name": "A cat", "thumbnail": "/t/1", "media_information": {"width": 640, "height": 480}, "colour": "red"}
    await house.says("media_uploads", dataset_storage_id="s", media_type="image", media_id="m1", **told)

    [item] = (await house.sets.shown(PROJECT, EVERY))["active_set"]

    assert told.items() <= {**item, "media_information": told["media_information"]}.items()
    assert item["media_information"] == {"display_url": "", "width": 640, "height": 480}


async def test_what_an_image_told_of_frames_is_not_shown_as_ours(house: House) -> None:
    await house.tells()
    await house.says("media_uploads", dataset_storage_id="s", media_type="image", media_id="m1", active_frames="x")

    [item] = (await house.sets.shown(PROJECT, EVERY))["active_set"]

    assert "active_frames" not in item


async def test_the_frames_of_a_video_are_one_item(house: House) -> None:
    await house.tells("m1")
    video = {"media_type": "video", "media_id": "v1", "frame_count": 100, "frame_stride": 30}
    await house.says("media_uploads", dataset_storage_id="s", **video)
    frames = [{"media_type": "video_frame", "media_id": "v1", "frame_index": each} for each in (7, 30)]
    await house.infers({"m1": 0.5}, media=[*frames, {"media_type": "image", "media_id": "m1"}],
                       labels=["a"] * 3, probabilities=[[0.5, 0.5], [0.9, 0.1], [0.7, 0.3]])  # fmt: skip
    await house.says(
        "annotation_updates", media_type="video_frame", media_id="v1", frame_index=60, states={TASK: "annotated"}
    )

    answer = await house.sets.shown(PROJECT, EVERY)

    items = {item["id"]: item for item in answer["active_set"]}
    assert list(items) == ["v1", "m1"]
    assert items["v1"]["type"] == "video"
    assert items["v1"]["active_frames"][:2] == [7, 30]
    assert sorted(items["v1"]["active_frames"]) == [0, 7, 30, 90]
    assert [each["rank"] for each in items["v1"]["active_learning"]["frames"]] == [1, 3, 4, 5]
    assert items["v1"]["media_information"]["frame_count"] == 100
    assert items["v1"]["media_information"]["display_url"] == "v1"


async def test_what_was_suggested_is_not_suggested_again_until_nothing_else_is_left(house: House) -> None:
    await house.tells("m1", "m2", "m3")
    await house.infers({"m1": 0.2, "m2": 0.9, "m3": 0.5})

    rounds = [await house.suggested(limit=2) for _ in range(3)]

    assert rounds == [["m2", "m3"], ["m1"], ["m2", "m3"]]
    changes = [json.loads(record.value or b"")["change"] for record in house.published]
    assert changes == ["granted", "granted", "reset", "granted"]


async def test_looking_marks_nothing_and_does_not_show_what_was_suggested(house: House) -> None:
    await house.tells("m1", "m2")
    await house.infers({"m1": 0.2, "m2": 0.9})
    await house.suggested(limit=1)

    assert [await house.shown(), await house.shown()] == [["m1"], ["m1"]]


async def test_requests_at_the_same_moment_get_different_media(house: House) -> None:
    images = [f"m{n}" for n in range(30)]
    await house.tells(*images)

    sets = await asyncio.gather(*(house.suggested(limit=3) for _ in range(10)))

    assert sorted(image for each in sets for image in each) == sorted(images)


async def test_media_that_another_worker_has_granted_are_not_answered(house: House) -> None:
    await house.tells("m1", "m2")
    await house.infers({"m1": 0.9, "m2": 0.2})
    publish = house.sets.publish

    async def somebody_is_first(record: Record) -> int:
        if record.value and b"other" not in record.value and not house.published:
            first = json.loads(record.value)
            rival = {**first, "request_id": "other", "media": first["media"][:1]}
            await house.says("active_set_events", **rival)
        return await publish(record)

    object.__setattr__(house.sets, "publish", somebody_is_first)

    assert await house.suggested(limit=2) == ["m2"]


async def test_a_grant_that_our_own_agent_does_not_apply_is_not_answered(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.tells("m1")
    monkeypatch.setattr("web.active_set.PATIENCE_S", 0.01)
    house.deaf = True

    for answer in await asyncio.gather(*(house.suggested() for _ in range(3)), return_exceptions=True):
        assert isinstance(answer, NotReady)
        assert "could not be marked" in str(answer)


async def test_what_kafka_did_not_take_is_not_answered(house: House) -> None:
    await house.tells("m1")

    async def refuses(_: Record) -> int:
        raise KafkaTimeoutError("no answer")

    object.__setattr__(house.sets, "publish", refuses)

    with pytest.raises(NotReady, match="Kafka did not take what was chosen"):
        await house.suggested()


async def test_artifacts_let_a_request_that_marks_go_first(house: House) -> None:
    await house.tells("m1")
    house.deaf = True
    request = asyncio.ensure_future(house.suggested())
    while not house.published:
        await asyncio.sleep(0)

    artifacts = asyncio.ensure_future(house.infers({"m1": 0.5}))
    await asyncio.sleep(0.05)
    assert not artifacts.done()

    await house.hear(house.published[-1], "active_set_events")
    assert await request == ["m1"]
    assert await artifacts == Outcome.HEARD


async def test_a_request_whose_partition_went_while_it_waited_publishes_nothing(house: House) -> None:
    await house.tells("m1", "m2")
    house.deaf = True
    requests = [asyncio.ensure_future(house.suggested(limit=1)) for _ in range(2)]
    while not house.published:
        await asyncio.sleep(0)

    await house.state.leave()

    assert [type(each) for each in await asyncio.gather(*requests, return_exceptions=True)] == [NotReady] * 2
    assert len(house.published) == 1


async def test_a_ranking_whose_partition_goes_while_it_is_built_is_not_answered_from(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tables.partition.SLICE", 1)
    await house.tells("m1", "m2")
    asking = asyncio.ensure_future(house.shown())
    while not house.state.owned(HOME).rankings:
        await asyncio.sleep(0)

    await house.state.leave()

    with pytest.raises(NotReady, match="went to another worker"):
        await asking


async def test_nothing_left_is_an_empty_set_with_the_reason(house: House) -> None:
    await house.tells()
    assert "no media" in (await house.sets.shown(PROJECT, EVERY))["reason"]

    await house.tells("m1")
    await house.suggested()
    assert "suggested already" in (await house.sets.shown(PROJECT, EVERY))["reason"]

    await house.says("annotation_updates", **annotated("m1"))
    for answer in (await house.sets.shown(PROJECT, EVERY), await house.sets.suggested(PROJECT, EVERY, WORKSPACE)):
        assert answer["active_set"] == []
        assert "nothing to annotate" in answer["reason"]


async def test_a_later_task_of_a_chain_takes_what_is_partly_annotated_and_a_project_only_what_is_not(
    house: House,
) -> None:
    await house.tells("m1", "m2", "m3", tasks=("t1", "t2"))
    await house.says("annotation_updates", **annotated("m1", "partially_annotated", "t1"))
    await house.says("annotation_updates", **annotated("m2", "partially_annotated", "t2"))

    assert [sorted(await house.shown(task)) for task in ("t1", "t2", None)] == [
        ["m2", "m3"],
        ["m1", "m2", "m3"],
        ["m3"],
    ]


async def test_what_is_deleted_is_not_served_until_it_is_uploaded_again(house: House) -> None:
    await house.tells("m1", "m2")
    await house.says("media_deletions", **DELETED, timestamp=NOW + 1)
    assert await house.shown() == ["m2"]

    await house.says("media_uploads", **AGAIN, timestamp=NOW + 2)
    assert sorted(await house.shown()) == ["m1", "m2"]

    await house.says("project_deletions", timestamp=NOW + 3)
    with pytest.raises(UnknownProject):
        await house.shown()


async def test_a_deletion_that_comes_late_and_is_older_than_the_upload_frees_nothing(house: House) -> None:
    await house.tells("m1", "m2")
    await house.suggested()

    await house.says("media_deletions", **DELETED, timestamp=NOW - 10)

    assert await house.shown() == []
    assert len(await house.suggested()) == 2  # nothing was left, and so all begins anew


async def test_what_was_told_of_a_medium_before_it_was_deleted_does_not_come_back_with_it(house: House) -> None:
    await house.tells("m1", "m2")
    await house.says("model_activations", task_id=TASK, model_id="model-1")
    await house.infers({"m1": 0.9, "m2": 0.1})
    assert await house.suggested(limit=1) == ["m1"]
    await house.says("annotation_updates", **annotated("m1"))

    await house.says("media_deletions", **DELETED, timestamp=NOW + 1)
    await house.says("media_uploads", **AGAIN, timestamp=NOW + 2)

    answer = await house.sets.shown(PROJECT, EVERY)
    assert [(item["id"], item["active_learning"]["tier"]) for item in answer["active_set"]] == [
        ("m2", "active_model"),
        ("m1", "not_scored"),
    ]
    assert answer["active_set"][1]["annotation_state_per_task"] == [{"task_id": TASK, "state": "none"}]
    assert await house.suggested() == ["m2", "m1"]
    assert await house.shown() == []


async def test_a_project_that_is_made_anew_begins_anew(house: House) -> None:
    await house.tells("m1", "m2")
    await house.says("model_activations", task_id=TASK, model_id="model-1")
    await house.infers({"m1": 0.9, "m2": 0.1})
    await house.suggested()
    await house.says("project_deletions", timestamp=NOW + 1)

    about = {"dataset_storage_id": "s", "timestamp": NOW + 2}
    await house.says("project_updates", tasks=[{"task_id": TASK}], **about)
    assert await house.shown() == []
    await house.says("media_uploads", **{**AGAIN, **about})

    answer = await house.sets.shown(PROJECT, EVERY)
    assert [(item["id"], item["active_learning"]["tier"]) for item in answer["active_set"]] == [("m1", "not_scored")]
    assert await house.suggested() == ["m1"]


async def test_the_former_scores_stand_until_a_batch_of_the_same_model_is_complete(house: House) -> None:
    await house.tells("m1", "m2", "m3")
    await house.says("model_activations", task_id=TASK, model_id="model-1")
    await house.infers({"m1": 0.9, "m2": 0.5, "m3": 0.1})

    await house.infers({"m1": 0.2, "m2": 0.6}, batch_id="second", last=False, timestamp=NOW + 1)
    assert await house.shown() == ["m1", "m2", "m3"]

    await house.infers({"m3": 0.9}, batch_id="second", chunk=1, timestamp=NOW + 1)
    assert await house.shown() == ["m3", "m2", "m1"]


async def test_what_is_leased_is_not_freed_by_a_request_that_finds_nothing_else(house: House) -> None:
    await house.tells("m1", "m2")
    leased = [{"medium": {"media_type": "image", "media_id": each}, "rank": 1, "score": 0.0} for each in ("m1", "m2")]
    lease = {"change": "granted", "request_id": "r", "media": leased, "expires_at": NOW + 1}
    await house.says("active_set_events", **lease)

    answer = await house.sets.suggested(PROJECT, EVERY, WORKSPACE)

    assert (answer["active_set"], answer["reason"]) == ([], "every medium that is left is leased to somebody")
    assert house.published == []


async def test_the_preset_random_takes_no_notice_of_scores(house: House) -> None:
    images = {f"m{n}": n / 100 for n in range(50)}
    await house.tells(*images, active_learning={"preset": "random"})
    await house.infers(images)

    answer = await house.sets.shown(PROJECT, EVERY)

    shown = [item["id"] for item in answer["active_set"]]
    assert sorted(shown) == sorted(images)
    assert shown not in (sorted(images, key=images.__getitem__), sorted(images, key=images.__getitem__, reverse=True))
    assert {item["active_learning"]["score"] for item in answer["active_set"]} == {1.0}


async def test_what_is_asked_of_what_is_not_there_is_an_error_that_names_it(house: House) -> None:
    crop = [{"task_id": "t1", "trainable": False}]
    await house.says("project_updates", dataset_storage_id="s", tasks=crop)

    with pytest.raises(UnknownProject, match="nobody"):
        await house.sets.shown("nobody", EVERY)
    with pytest.raises(UnknownTask, match="t9"):
        await house.sets.shown(PROJECT, Query("t9", 1))
    with pytest.raises(BadQuery, match="'t1' cannot"):
        await house.sets.shown(PROJECT, Query("t1", 1))
    with pytest.raises(UnknownProject, match="workspace 'x'"):
        await house.sets.suggested(PROJECT, EVERY, "x")


async def test_what_was_asked_of_unknown_projects_is_not_remembered(house: House) -> None:
    for n in range(10):
        with pytest.raises(UnknownProject):
            await house.sets.shown(f"nobody-{n}", EVERY)

    assert not any(house.state.owned(partition).rankings for partition in range(8))


async def test_a_row_with_a_number_that_is_not_finite_is_left_out_by_itself_and_counted(house: House) -> None:
    await house.tells("m1", "m2", "m3")
    await house.says("model_activations", task_id=TASK, model_id="model-1")
    tensor = {
        "dtype": "<f8",
        "shape": [3, 2],
        "data": "AAAAAAAA4D8AAAAAAADgPwAAAAAAAPh/AAAAAAAA4D8AAAAAAADwPwAAAAAAAAAA",
    }

    assert await house.infers({"m1": 0, "m2": 0, "m3": 0}, probabilities=tensor) == Outcome.HEARD

    answer = await house.sets.shown(PROJECT, EVERY)
    tiers = {item["id"]: item["active_learning"]["tier"] for item in answer["active_set"]}
    assert tiers == {"m1": "active_model", "m2": "not_scored", "m3": "active_model"}
    assert house.counts["rows left out"] == 1


async def test_a_ranking_that_was_rebuilt_equals_one_that_grew(house: House) -> None:
    images = {f"m{n}": n / 10 for n in range(10)}
    await house.tells(*images)
    grown = house.state.owned(HOME).rankings
    await house.shown()
    await house.infers(images)
    await house.says("annotation_updates", **annotated("m3"))
    await house.suggested(limit=2)
    assert list(grown) == [PROJECT]
    before = await house.sets.shown(PROJECT, EVERY)

    grown.clear()

    assert await house.sets.shown(PROJECT, EVERY) == before


async def test_another_worker_answers_the_same_from_the_changelog_alone(house: House, tmp_path: object) -> None:
    await house.tells("m1", "m2", "m3")
    await house.infers({"m1": 0.2, "m2": 0.9, "m3": 0.5})
    await house.suggested(limit=1)
    before = await house.sets.shown(PROJECT, EVERY)
    await house.state.leave()

    other = Disk(house.disk.folder / "other")
    state = State(house.settings, other, house.changelog, no_ends)
    await state.take(range(8), GENERATION + 1, a_member)

    assert await House(house.settings, state, house.changelog, other).sets.shown(PROJECT, EVERY) == before


async def test_suggestions_do_not_begin_anew_where_something_came_while_it_was_looked_at(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.tells("m1", "m2")
    await house.suggested()
    asking = asyncio.ensure_future(house.suggested())
    made, came = Ranking._make, False

    async def meanwhile(ranking: Ranking, task_id: str | None, now: int) -> Any:
        nonlocal came
        answer = await made(ranking, task_id, now)
        if not came:
            came = True
            third = [{"media_type": "image", "media_id": "m3"}]
            await house.says("media_uploads", dataset_storage_id="s", media=third)
        return answer

    monkeypatch.setattr(Ranking, "_make", meanwhile)

    assert await asking == ["m3"]


async def test_a_few_events_that_name_many_tasks_and_media_are_swept_in_slices(house: House) -> None:
    states = {f"task-{n}": "annotated" for n in range(100)}
    await house.says("annotation_updates", media_id="m1", states=states)
    media = [{"media_type": "image", "media_id": f"m{n}"} for n in range(2000)]

    await house.says("media_deletions", dataset_storage_id="s", media=media, timestamp=NOW + 1)
    await house.settle()

    assert not [*house.state.owned(HOME).store.scan(prefix_of(PROJECT, Kind.STATE))]


async def test_a_set_is_made_once_while_nothing_changes_and_anew_when_something_does(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.tells("m1", "m2")
    first = await house.sets.shown(PROJECT, Query(TASK, 9))

    with monkeypatch.context() as nothing:
        nothing.setattr(Ranking, "best", None)
        assert await house.sets.shown(PROJECT, Query(TASK, 9)) == first
        with pytest.raises(TypeError):
            await house.sets.shown(PROJECT, Query(TASK, 1))

    await house.says("annotation_updates", media_id="m1", states={TASK: "annotated"})
    assert await house.shown() == ["m2"]
