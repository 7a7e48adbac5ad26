import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.artifacts import columns
from streams.decode import UPLOAD_BYTES, decode
from streams.errors import MalformedEvent
from streams.events import (
    OF_TOPIC,
    ActiveLearning,
    AnnotationUpdated,
    ArtifactsInferred,
    Event,
    Granted,
    Label,
    MediaDeleted,
    ModelActivated,
    Passed,
    Pick,
    ProjectDeleted,
    ProjectUpdated,
    Released,
    Renewed,
    Reset,
    Skipped,
    Task,
    TaskLearning,
    Upload,
    Uploads,
)
from streams.media import Image, Video, VideoFrame
from streams.record import RECORD_BYTES, Headers, Record
from streams.tensors import Tensor

JSON: Headers = []
MSGPACK: Headers = [("content-type", b"application/msgpack")]
KINDS = pytest.mark.parametrize("kind", [JSON, MSGPACK], ids=["json", "msgpack"])

Told = dict[str, Any]
WHOLE: Told = {"workspace_id": "w", "project_id": "p", "timestamp": 1_700_000_000_000}
STORED: Told = {**WHOLE, "dataset_storage_id": "d"}
IMAGE: Told = {"media_type": "image", "media_id": "m"}
FRAME: Told = {"media_type": "video_frame", "media_id": "v", "frame_index": 30}
VIDEO: Told = {"media_type": "video", "media_id": "v", "frame_count": 300, "frame_stride": 30}
TENSOR = Tensor(dtype="<f2", shape=[2, 1], data=b"\x00\x3c\x00\x40")
TASK: Told = {"task_id": "t", "title": "T", "task_type": "detection", "multi_label": True, "labels": [{"id": "l"}]}

SETTINGS: Told = {
    "preset": "random",
    "inter_task_reduce": "max",
    "tasks": {
        "t": {
            "preset": "geti",
            "extractors": {"fre": 1, "external:own": 0.5},
            "intra_task_reduce": "min",
            "stratify": False,
        }
    },
}

# A whole plausible event of each topic, and what it is decoded as.
EVENTS: dict[str, Told] = {
    "project_updates": {**STORED, "name": "P", "tasks": [TASK], "active_learning": SETTINGS},
    "project_deletions": WHOLE,
    "media_uploads": {**STORED, "media": [{**IMAGE, "name": "M", "uploader_id": {"x": [1.5, None]}}, VIDEO]},
    "media_deletions": {**STORED, "media": [IMAGE, {"media_type": "video", "media_id": "v"}]},
    "annotation_updates": {**WHOLE, **FRAME, "states": {"t": "annotated", "u": "to_revisit"}, "user_id": "me"},
    "model_activations": {**WHOLE, "task_id": "t", "model_id": "n"},
    "inference_artifacts": {
        **STORED,
        "task_id": "t",
        "model_id": "n",
        "batch_id": "b",
        "subset": "unseen",
        "chunk": 7,
        "last": True,
        "no_prediction": [{**IMAGE, "media_id": "blind"}],
        "media": [IMAGE, FRAME],
        "labels": ["l", None],
        "probabilities": [[0.25, 0.75], [1, 0]],
        "classes": ["l", "k"],
        "features": msgspec.structs.asdict(TENSOR),
        "utilities": {"own": [0.5, -1]},
    },
    "active_set_events": {
        **WHOLE,
        "change": "granted",
        "request_id": "r",
        "task_id": "t",
        "user_id": "me",
        "expires_at": 1_700_000_060_000,
        "media": [{"medium": IMAGE, "rank": 1, "score": 0.5}],
    },
}


def kept(medium: Told) -> bytes:
    return msgspec.json.encode({**medium, "dataset_storage_id": "d"})


DECODED: dict[str, Event] = {
    "project_updates": ProjectUpdated(
        **STORED,
        name="P",
        tasks=[Task(task_id="t", title="T", task_type="detection", multi_label=True, labels=[Label(id="l")])],
        active_learning=ActiveLearning(
            preset="random",
            inter_task_reduce="max",
            tasks={
                "t": TaskLearning(
                    preset="geti", extractors={"fre": 1.0, "external:own": 0.5}, intra_task_reduce="min", stratify=False
                )
            },
        ),
    ),
    "project_deletions": ProjectDeleted(**WHOLE),
    "media_uploads": Uploads(
        **STORED,
        uploads=[
            Upload(Image("m"), 0, 1, kept(EVENTS["media_uploads"]["media"][0])),
            Upload(Video("v"), 300, 30, kept(VIDEO)),
        ],
    ),
    "media_deletions": MediaDeleted(**STORED, media=[Image("m"), Video("v")]),
    "annotation_updates": AnnotationUpdated(
        **WHOLE, **FRAME, states={"t": "annotated", "u": "to_revisit"}, user_id="me"
    ),
    "model_activations": ModelActivated(**WHOLE, task_id="t", model_id="n"),
    "inference_artifacts": ArtifactsInferred(
        **STORED,
        task_id="t",
        model_id="n",
        batch_id="b",
        subset="unseen",
        chunk=7,
        last=True,
        no_prediction=[Image("blind")],
        media=[Image("m"), VideoFrame("v", 30)],
        labels=["l", None],
        probabilities=[[0.25, 0.75], [1.0, 0.0]],
        classes=["l", "k"],
        features=TENSOR,
        utilities={"own": [0.5, -1.0]},
    ),
    "active_set_events": Granted(
        **WHOLE,
        request_id="r",
        task_id="t",
        user_id="me",
        media=[Pick(medium=Image("m"), rank=1, score=0.5)],
        expires_at=1_700_000_060_000,
    ),
}
TOPICS = pytest.mark.parametrize("topic", OF_TOPIC)
ABSENT: Any = object()  # a change to this takes the member away


def pruned(value: Any) -> Any:
    """Without the members that are absent."""
    if isinstance(value, dict):
        return {name: pruned(each) for name, each in value.items() if each is not ABSENT}
    return value


def told(topic: str, **changes: object) -> Told:
    event: Told = pruned({**EVENTS[topic], **changes})
    return event


def heard(value: bytes | None, topic: str, headers: Headers, key: bytes | None = b"p") -> Event:
    return decode(Record(f"prefix.{topic}", 0, key, value, headers), topic)


def encoded(event: object, kind: Headers) -> bytes:
    return msgspec.msgpack.encode(event) if kind else msgspec.json.encode(event)


def outcome(value: bytes, topic: str, headers: Headers, key: bytes | None = b"p") -> Event | MalformedEvent:
    try:
        event = heard(value, topic, headers, key)
        if isinstance(event, ArtifactsInferred):
            columns(event)
    except MalformedEvent as why:
        return why
    return event


def test_there_is_an_example_of_each_topic() -> None:
    assert EVENTS.keys() == DECODED.keys() == OF_TOPIC.keys()


@KINDS
@TOPICS
def test_an_event_is_the_same_in_json_and_messagepack(topic: str, kind: Headers) -> None:
    assert heard(encoded(EVENTS[topic], kind), topic, kind) == DECODED[topic]


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Type", b"Application/MsgPack; v=1")],
        [("content-type", b"application/x-msgpack")],
        [("content-type", b"application/vnd.msgpack")],
        [("content-type", b"application/json"), ("trace", b"\xff"), *MSGPACK],
    ],
)
def test_the_last_content_type_counts_by_any_of_its_names(headers: Headers) -> None:
    value = encoded(WHOLE, MSGPACK)

    assert heard(value, "project_deletions", headers) == ProjectDeleted(**WHOLE)


@KINDS
@TOPICS
def test_members_that_nobody_knows_are_ignored(topic: str, kind: Headers) -> None:
    unknown = {"colour": {"deep": [[], {}, None, "red"]}, "frame": 2**63}

    assert heard(encoded({**EVENTS[topic], **unknown}, kind), topic, kind) == DECODED[topic]


def test_members_that_nobody_knows_are_ignored_inside_too() -> None:
    tasks = [{**TASK, "colour": "red", "labels": [{"id": "l", "colour": "red"}]}]

    project = encoded(told("project_updates", tasks=tasks), JSON)
    deletion = encoded(told("media_deletions", media=[{**IMAGE, **VIDEO, "media_id": "v", "name": "N"}]), JSON)

    assert heard(project, "project_updates", JSON) == DECODED["project_updates"]
    assert heard(deletion, "media_deletions", JSON) == MediaDeleted(**STORED, media=[Video("v")])


@KINDS
@pytest.mark.parametrize(
    ("medium", "wanted"),
    [
        (IMAGE, (Image("m"), 0, 1)),
        (VIDEO, (Video("v"), 300, 30)),
        ({**VIDEO, "frame_stride": ABSENT}, (Video("v"), 300, 1)),
        ({**IMAGE, "uploader_id": "me", "media_information": {"width": 640, "é": [None]}}, (Image("m"), 0, 1)),
    ],
)
def test_an_upload_keeps_what_was_told_in_either_form(medium: Told, wanted: object, kind: Headers) -> None:
    medium = pruned(medium)

    in_a_list = heard(encoded(told("media_uploads", media=[medium]), kind), "media_uploads", kind)
    alone = heard(encoded(told("media_uploads", media=ABSENT, **medium), kind), "media_uploads", kind)

    assert isinstance(in_a_list, Uploads)
    assert isinstance(alone, Uploads)
    for [upload] in (in_a_list.uploads, alone.uploads):
        assert (upload.medium, upload.frame_count, upload.frame_stride) == wanted
        assert json.loads(upload.told) == {**medium, "dataset_storage_id": "d"}


def test_a_deletion_tells_of_one_or_of_a_list() -> None:
    one = told("media_deletions", media=ABSENT, media_type="video", media_id="v")
    image = told("media_deletions", media=ABSENT, media_id="m")

    found = [heard(encoded(each, JSON), "media_deletions", JSON) for each in (one, image, EVENTS["media_deletions"])]

    assert [each.which() for each in found if isinstance(each, MediaDeleted)] == [
        [Video("v")],
        [Image("m")],
        [Image("m"), Video("v")],
    ]


def test_an_annotation_is_of_an_image_or_of_a_frame() -> None:
    image = told("annotation_updates", media_type=ABSENT, media_id="m", frame_index=ABSENT)

    found = [heard(encoded(each, JSON), "annotation_updates", JSON) for each in (image, EVENTS["annotation_updates"])]

    assert [each.medium for each in found if isinstance(each, AnnotationUpdated)] == [Image("m"), VideoFrame("v", 30)]


PASSED = {"medium": IMAGE, "uploaded_at": 1}
LEASE: dict[str, Any] = {"request_id": "r", "user_id": "me"}


@pytest.mark.parametrize(
    ("change", "more", "event"),
    [
        ("renewed", {"expires_at": 7}, Renewed(**WHOLE, **LEASE, expires_at=7)),
        ("released", {}, Released(**WHOLE, **LEASE)),
        (
            "skipped",
            {"media": [PASSED], "skip_for": "good"},
            Skipped(**WHOLE, **LEASE, media=[Passed(medium=Image("m"), uploaded_at=1)], skip_for="good"),
        ),
    ],
)
def test_what_becomes_of_a_lease_is_another_event_of_the_active_set(change: str, more: Told, event: Event) -> None:
    value = encoded({**WHOLE, **LEASE, "change": change, **more}, JSON)

    assert heard(value, "active_set_events", JSON) == event


def test_a_reset_is_another_event_of_the_active_set() -> None:
    value = encoded({**WHOLE, "change": "reset", "request_id": "r"}, JSON)

    assert heard(value, "active_set_events", JSON) == Reset(**WHOLE, request_id="r")


@KINDS
@pytest.mark.parametrize(
    ("topic", "changes"),
    [
        ("project_deletions", {"workspace_id": "😀" * 200, "timestamp": 0}),
        ("project_deletions", {"workspace_id": "a b.c:d%é\u2028", "timestamp": 253_402_300_799_999}),
        ("project_updates", {"tasks": [{"task_id": str(i)} for i in range(100)]}),
        ("project_updates", {"tasks": ABSENT, "name": ABSENT, "active_learning": {}}),
        ("media_uploads", {"media": []}),
        ("media_uploads", {"media": [{**VIDEO, "frame_count": 2**32 - 1, "frame_stride": 2**32 - 1}]}),
        ("annotation_updates", {"frame_index": 2**32 - 1, "states": {}}),
        ("inference_artifacts", {"chunk": 999_999, "last": ABSENT}),
        ("inference_artifacts", {"utilities": {f"u{i}": [0, 1] for i in range(8)}}),
        ("inference_artifacts", {"labels": [["l", "k"], []]}),
        ("active_set_events", {"task_id": None, "user_id": None, "expires_at": None, "media": []}),
    ],
)
def test_what_is_just_allowed_is_an_event(topic: str, changes: Told, kind: Headers) -> None:
    assert isinstance(heard(encoded(told(topic, **changes), kind), topic, kind), Event)


def test_the_key_is_the_project_id_in_utf_8() -> None:
    value = encoded({**WHOLE, "project_id": "größe"}, JSON)

    assert heard(value, "project_deletions", JSON, key="größe".encode()).project_id == "größe"
    assert isinstance(outcome(value, "project_deletions", JSON, key="größe".encode("latin-1")), MalformedEvent)


def as_json(**changes: object) -> bytes:
    return json.dumps({**WHOLE, **changes}).encode()


@pytest.mark.parametrize(
    ("key", "value", "headers", "named"),
    [
        (b"p", None, JSON, "value"),
        (b"p", b"", JSON, "truncated"),
        (b"p", b"{", JSON, "truncated"),
        (b"p", b"[]", JSON, "object"),
        (b"p", b"\xff\xfe", JSON, "malformed"),
        (b"p", b'{"workspace_id": "\xff"}', JSON, "utf-8"),
        (b"p", as_json(workspace_id="\ud800"), JSON, "utf-16"),
        (b"p", b"[" * 100_000 + b"]" * 100_000, JSON, "object"),
        (b"p", b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, "nested too deep"),
        (b"p", b"\x91" * 100_000, MSGPACK, "object"),
        (b"p", b"\x81\xa1x" + b"\x91" * 100_000, MSGPACK, "nested too deep"),
        (b"p", b"\xc1", MSGPACK, "malformed"),
        (b"p", b"\xdf\xff\xff\xff\xff", MSGPACK, "truncated"),
        (b"p", b"\x81\xc0\x01", MSGPACK, "key"),
        (b"p", as_json(), MSGPACK, "application/msgpack"),
        (b"p", as_json(), [("content-type", b"text/csv")], "content-type"),
        (b"p", as_json(), [("content-type", b"\xff" * 1000)], "content-type"),
        (b"p", as_json(), [("content-type", None)], "content-type"),
        (b"p", b" " * (RECORD_BYTES + 1), JSON, "record must be at most 4128768 bytes"),
        (b"p" * (RECORD_BYTES + 1), as_json(), JSON, "record must be at most"),
        (b"p", as_json(), [("h", None)] * 300_000, "record must be at most"),
        (b"p", as_json(project_id=7), JSON, "$.project_id"),
        (b"p", as_json(project_id=""), JSON, "$.project_id"),
        (b"p", as_json(workspace_id="w" * 201), JSON, "$.workspace_id"),
        (b"p", as_json(workspace_id="a/b"), JSON, "$.workspace_id"),
        (
            b"p",
            as_json(workspace_id="a\x00b"),
            JSON,
            "without slashes and control characters, and neither . nor .. - at",
        ),
        (b".", as_json(project_id="."), JSON, "$.project_id"),
        (b"..", as_json(project_id=".."), JSON, "$.project_id"),
        (b"p", as_json(workspace_id="a\n"), JSON, "$.workspace_id"),
        (b"p", as_json(timestamp="now"), JSON, "$.timestamp"),
        (b"p", as_json(timestamp=1.5), JSON, "$.timestamp"),
        (b"p", as_json(timestamp=True), JSON, "$.timestamp"),
        (b"p", as_json(timestamp=-1), JSON, "$.timestamp"),
        (b"p", as_json(timestamp=10**18), JSON, "$.timestamp"),
        (b"p", as_json(timestamp=10**400), JSON, "$.timestamp"),
        (b"p", b'{"workspace_id": "w", "project_id": "p"}', JSON, "timestamp"),
        (b"q", as_json(), JSON, "project_id"),
        (None, as_json(), JSON, "project_id"),
        (b"\xff", as_json(), JSON, "project_id"),
    ],
)
def test_what_is_no_event_is_told_by_its_field(
    key: bytes | None, value: bytes | None, headers: Headers, named: str
) -> None:
    with pytest.raises(MalformedEvent) as why:
        heard(value, "project_deletions", headers, key)

    assert named.lower() in str(why.value).lower()
    assert len(str(why.value)) < 500


HALF: Told = {"dtype": "<f2", "shape": [2, 1], "data": "ADwAQA=="}
PICK: Told = {"medium": IMAGE, "rank": 1, "score": 0.5}


@KINDS
@pytest.mark.parametrize(
    ("topic", "changes", "named"),
    [
        ("project_updates", {"dataset_storage_id": ABSENT}, "`dataset_storage_id`"),
        ("project_updates", {"name": None}, "$.name"),
        ("project_updates", {"tasks": {"t": {}}}, "$.tasks"),
        ("project_updates", {"tasks": [{"title": "T"}]}, "task_id"),
        ("project_updates", {"tasks": [{"task_id": "a/b"}]}, "$.tasks[0].task_id"),
        ("project_updates", {"tasks": [TASK, {**TASK, "task_id": "u", "trainable": 1}]}, "$.tasks[1].trainable"),
        ("project_updates", {"tasks": [{**TASK, "labels": [{"name": "l"}]}]}, "$.tasks[0].labels[0]"),
        ("project_updates", {"tasks": [{"task_id": "u"}, TASK, TASK]}, "task_id each of its own: 't' is there twice"),
        ("project_updates", {"tasks": [{"task_id": str(i)} for i in range(101)]}, "$.tasks"),
        ("project_updates", {"active_learning": {"preset": "best"}}, "$.active_learning.preset"),
        ("project_updates", {"active_learning": None}, "$.active_learning"),
        ("project_updates", {"active_learning": {"tasks": {"t": {"extractors": {"fre": 1e-7}}}}}, "`float` >= 1e-06"),
        ("project_updates", {"active_learning": {"tasks": {"t": {"quotas": {"x": 5e-324}}}}}, "`float` >= 1e-06"),
        ("project_deletions", {"project_id": ABSENT}, "`project_id`"),
        ("project_deletions", {"workspace_id": ["w"]}, "$.workspace_id"),
        ("media_uploads", {"dataset_storage_id": "a/b"}, "$.dataset_storage_id"),
        ("media_uploads", {"media": IMAGE}, "$.media"),
        ("media_uploads", {"media": ["m"]}, "$.media[0]"),
        ("media_uploads", {"media": ABSENT}, "value: Object missing required field `media_type`"),
        ("media_uploads", {"media": None, "media_type": "image"}, "value: Object missing required field `media_id`"),
        ("media_uploads", {"media": [IMAGE, {"media_type": "image"}]}, "media[1]: Object missing required field"),
        ("media_uploads", {"media": [IMAGE, FRAME]}, "media[1]: Invalid enum value 'video_frame' - at `$.media_type`"),
        ("media_uploads", {"media": [{**IMAGE, "media_id": 7}]}, "$.media_id"),
        ("media_uploads", {"media": [{**VIDEO, "frame_count": None}]}, "media[0].frame_count must be there"),
        ("media_uploads", {"media": [{**VIDEO, "frame_count": 0}]}, "$.frame_count"),
        ("media_uploads", {"media": [{**VIDEO, "frame_stride": 2**32}]}, "$.frame_stride"),
        ("media_uploads", {"media": ABSENT, "media_type": "video", "media_id": "v"}, "value.frame_count must be there"),
        ("media_uploads", {"media": [{**IMAGE, "media_information": []}]}, "$.media_information"),
        ("media_uploads", {"media": [IMAGE, {**IMAGE, "x": "x" * UPLOAD_BYTES}]}, "media[1] must be at most 65536"),
        ("media_uploads", {"media": ABSENT, **IMAGE, "x": "x" * UPLOAD_BYTES}, "value must be at most 65536 bytes"),
        ("media_deletions", {"media": ABSENT}, "either, not both"),
        ("media_deletions", {"media_id": "m"}, "either, not both"),
        ("media_deletions", {"media": None, "media_type": "image"}, "either, not both"),
        ("media_deletions", {"media": [FRAME]}, "$.media[0].media_type"),
        ("media_deletions", {"media": [{"media_id": "m"}]}, "`media_type`"),
        ("media_deletions", {"media": ABSENT, "media_id": "v", "media_type": "video_frame"}, "$.media_type"),
        ("media_deletions", {"media": ABSENT, "media_id": ""}, "$.media_id"),
        ("annotation_updates", {"media_id": ABSENT}, "`media_id`"),
        ("annotation_updates", {"media_type": "video"}, "$.media_type"),
        ("annotation_updates", {"frame_index": ABSENT}, "frame_index must be there for a video_frame"),
        ("annotation_updates", {"media_type": "image"}, "frame_index must be there for a video_frame, and not for"),
        ("annotation_updates", {"media_type": ABSENT}, "frame_index must be there for a video_frame, and not for"),
        ("annotation_updates", {"frame_index": -1}, "$.frame_index"),
        ("annotation_updates", {"frame_index": 2**32}, "$.frame_index"),
        ("annotation_updates", {"states": ABSENT}, "`states`"),
        ("annotation_updates", {"states": {"t": "done"}}, "$.states"),
        ("annotation_updates", {"states": {"a/b": "none"}}, "$.states"),
        ("annotation_updates", {"user_id": 7}, "$.user_id"),
        ("model_activations", {"task_id": ABSENT}, "`task_id`"),
        ("model_activations", {"task_id": None}, "$.task_id"),
        ("model_activations", {"model_id": "n" * 201}, "$.model_id"),
        ("inference_artifacts", {"batch_id": ABSENT}, "`batch_id`"),
        ("inference_artifacts", {"subset": "test"}, "$.subset"),
        ("inference_artifacts", {"chunk": -1}, "$.chunk"),
        ("inference_artifacts", {"chunk": 1_000_000}, "$.chunk"),
        ("inference_artifacts", {"last": "yes"}, "$.last"),
        ("inference_artifacts", {"media": ABSENT}, "`media`"),
        ("inference_artifacts", {"media": [{**VIDEO}]}, "$.media[0].media_type"),
        ("inference_artifacts", {"media": [{**FRAME, "frame_index": 0.5}]}, "$.media[0].frame_index"),
        ("inference_artifacts", {"no_prediction": ["m"]}, "$.no_prediction[0]"),
        ("inference_artifacts", {"labels": ["l", 1]}, "$.labels[1]"),
        ("inference_artifacts", {"labels": ["l", ["k", None]]}, "$.labels[1][1]"),
        ("inference_artifacts", {"classes": ["l", ""]}, "$.classes[1]"),
        ("inference_artifacts", {"probabilities": [[0.5, "0.5"]]}, "$.probabilities[0][1]"),
        ("inference_artifacts", {"probabilities": [[0.5, None]]}, "$.probabilities[0][1]"),
        ("inference_artifacts", {"probabilities": "0.5"}, "$.probabilities"),
        ("inference_artifacts", {"features": [[[[[[[1.0]]]]]]]}, "$.features[0][0][0][0][0][0]"),
        ("inference_artifacts", {"features": {**HALF, "dtype": ">f4"}}, "$.features.dtype"),
        ("inference_artifacts", {"features": {**HALF, "dtype": "<i8"}}, "$.features.dtype"),
        ("inference_artifacts", {"features": {**HALF, "dtype": ABSENT}}, "$.features"),
        ("inference_artifacts", {"features": {**HALF, "shape": []}}, "$.features.shape"),
        ("inference_artifacts", {"features": {**HALF, "shape": [1] * 7}}, "$.features.shape"),
        ("inference_artifacts", {"features": {**HALF, "shape": [-2, -1]}}, "$.features.shape[0]"),
        ("inference_artifacts", {"features": {**HALF, "shape": [2**31, 1]}}, "$.features.shape[0]"),
        ("inference_artifacts", {"features": {**HALF, "data": [0, 0]}}, "$.features.data"),
        ("inference_artifacts", {"utilities": {"own": [[0.5], [1]]}}, "$.utilities[...][0]"),
        ("inference_artifacts", {"utilities": {"a/b": [0.5, 1]}}, "$.utilities"),
        ("inference_artifacts", {"utilities": {str(i): [0.5, 1] for i in range(9)}}, "$.utilities"),
        ("active_set_events", {"change": ABSENT}, "`change`"),
        ("active_set_events", {"change": "stolen"}, "$.change"),
        ("active_set_events", {"request_id": ABSENT}, "`request_id`"),
        ("active_set_events", {"media": ABSENT}, "`media`"),
        ("active_set_events", {"media": [{**PICK, "medium": {"media_type": "video", "media_id": "v"}}]}, "$.media[0]"),
        ("active_set_events", {"media": [{**PICK, "rank": 0}]}, "$.media[0].rank"),
        ("active_set_events", {"media": [{**PICK, "score": "high"}]}, "$.media[0].score"),
        ("active_set_events", {"media": [PICK] * 1001}, "$.media"),
        ("active_set_events", {"expires_at": -1}, "$.expires_at"),
    ],
)
def test_a_mistake_in_an_event_is_told_by_its_field(topic: str, changes: Told, named: str, kind: Headers) -> None:
    value = encoded(told(topic, **changes), kind)

    with pytest.raises(MalformedEvent) as why:
        heard(value, topic, kind)

    assert named in str(why.value)
    assert len(str(why.value)) < 500


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(msgspec.msgpack.Ext(5, b"x"), id="an extension"),
        pytest.param({None: 1}, id="a key that is null"),
        pytest.param({(1, 2): 1}, id="a key that is a list"),
        pytest.param({True: 1}, id="a key that is a truth"),
    ],
)
def test_an_upload_with_something_that_is_no_json_is_told_by_its_place(foreign: object) -> None:
    listed = told("media_uploads", media=[IMAGE, {**IMAGE, "x": foreign}])
    alone = told("media_uploads", media=ABSENT, **IMAGE, x=[foreign])

    for each, named in ((listed, "media[1]: "), (alone, "value: ")):
        with pytest.raises(MalformedEvent) as why:
            heard(encoded(each, MSGPACK), "media_uploads", MSGPACK)

        assert str(why.value).startswith(named)


@pytest.mark.parametrize("raw", [b"\x81\x80\x01", b"\xd6\xff\xff", b"\xc7\x03\xff\0\0\0", b"\xa3\xed\xa0\x80"])
def test_an_upload_with_messagepack_that_means_nothing_is_malformed(raw: bytes) -> None:
    value = encoded(told("media_uploads", media=[{**IMAGE, "x": msgspec.Raw(raw)}]), MSGPACK)

    assert isinstance(outcome(value, "media_uploads", MSGPACK), MalformedEvent)


def test_an_upload_of_just_so_many_bytes_is_taken() -> None:
    room = UPLOAD_BYTES - len(kept({**IMAGE, "x": ""}))

    just, over = (told("media_uploads", media=[{**IMAGE, "x": "x" * n}]) for n in (room, room + 1))

    assert isinstance(outcome(encoded(just, JSON), "media_uploads", JSON), Uploads)
    assert isinstance(outcome(encoded(over, JSON), "media_uploads", JSON), MalformedEvent)


@pytest.mark.parametrize("head", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"])
@TOPICS
def test_a_length_without_its_bytes_is_malformed_at_once(topic: str, head: bytes) -> None:
    for name in EVENTS[topic]:
        value = encoded(told(topic, **{name: msgspec.Raw(head * 100)}), MSGPACK)

        assert isinstance(outcome(value, topic, MSGPACK), MalformedEvent)


@TOPICS
@given(data=st.data(), key=st.none() | st.binary() | st.just(b"p"), kind=st.sampled_from([JSON, MSGPACK]))
def test_any_bytes_are_an_event_or_malformed(topic: str, data: st.DataObject, key: bytes | None, kind: Headers) -> None:
    whole = encoded(EVENTS[topic], kind)
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    spliced = whole[:first] + data.draw(st.binary()) + whole[last:]

    assert isinstance(outcome(spliced, topic, kind, key), Event | MalformedEvent)
    assert isinstance(outcome(data.draw(st.binary()), topic, kind, key), MalformedEvent)


Path = tuple[str | int, ...]


def places(value: Any, here: Path = ()) -> Iterator[Path]:
    """Where each member of an object or a list is, at any depth."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield (*here, name)
        yield from places(member, (*here, name))


def replaced(value: Any, where: Path, new: object) -> Any:
    """The value with another member in one place."""
    if not where:
        return new
    copy = value.copy()
    copy[where[0]] = replaced(value[where[0]], where[1:], new)
    return copy


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
ANYTHING = st.recursive(
    SCALARS, lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each, max_size=4), max_leaves=10
)


@TOPICS
@given(data=st.data(), new=ANYTHING, kind=st.sampled_from([JSON, MSGPACK]))
def test_an_event_with_one_member_replaced_is_an_event_or_malformed(
    topic: str, data: st.DataObject, new: object, kind: Headers
) -> None:
    where = data.draw(st.sampled_from([*places(EVENTS[topic])]))

    value = encoded(replaced(EVENTS[topic], where, new), kind)

    assert isinstance(outcome(value, topic, kind), Event | MalformedEvent)


@pytest.mark.parametrize(
    "told", [b"9" * 400, b"[" * 300 + b"]" * 300], ids=["a number without end", "lists in lists in lists"]
)
def test_an_upload_that_could_not_be_shown_again_is_told(told: bytes) -> None:
    value = json.dumps(
        {"workspace_id": "w", "project_id": "p", "timestamp": 1, "dataset_storage_id": "s", **IMAGE}
    ).encode()

    with pytest.raises(MalformedEvent, match="value: cannot be kept as JSON"):
        decode(Record("t", 0, b"p", value[:-1] + b', "x": ' + told + b"}", []), "media_uploads")


def test_an_upload_of_many_and_of_one_at_once_is_refused() -> None:
    value = json.dumps(
        {"workspace_id": "w", "project_id": "p", "timestamp": 1, "dataset_storage_id": "s", **IMAGE, "media": [IMAGE]}
    ).encode()

    with pytest.raises(MalformedEvent, match="media must be a list of media, or media_id and media_type"):
        decode(Record("t", 0, b"p", value, []), "media_uploads")


def test_a_message_of_a_long_mistake_is_short_and_names_the_field() -> None:
    event = {
        "workspace_id": "w",
        "project_id": "p",
        "timestamp": 1,
        "dataset_storage_id": "s",
        "active_learning": {"preset": "x" * 10**6},
    }

    with pytest.raises(MalformedEvent) as why:
        decode(Record("t", 0, b"p", json.dumps(event).encode(), []), "project_updates")

    assert "$.active_learning.preset" in str(why.value)
    assert len(str(why.value)) < 400


@pytest.mark.parametrize(("stride", "fits"), [(1, False), (4, False), (5, True)])
def test_a_video_has_at_most_a_million_frames(stride: int, fits: bool) -> None:
    video = {"media_type": "video", "media_id": "v", "frame_count": 5_000_000, "frame_stride": stride}
    about = {"workspace_id": "w", "project_id": "p", "timestamp": 1, "dataset_storage_id": "s"}
    record = Record("t", 0, b"p", json.dumps({**about, **video}).encode(), [])

    if fits:
        assert decode(record, "media_uploads").project_id == "p"
    else:
        with pytest.raises(MalformedEvent, match=r"value.frame_count must make at most 1000000 frames"):
            decode(record, "media_uploads")


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ({"media_information": {"height": "tall"}}, "$.media_information.height"),
        ({"media_information": {"width": 10.5}}, "$.media_information.width"),
        ({"media_information": {"duration": 0.5}}, "$.media_information.duration"),
        ({"media_information": []}, "$.media_information"),
        ({"upload_time": 5}, "$.upload_time"),
        ({"thumbnail": 5}, "$.thumbnail"),
    ],
)
def test_what_clients_read_of_an_upload_is_of_its_type(form: Told, path: str) -> None:
    for event in (told("media_uploads", media=[{**IMAGE, **form}]), {**STORED, **IMAGE, **form}):
        with pytest.raises(MalformedEvent) as why:
            heard(encoded(event, JSON), "media_uploads", JSON)

        assert path in str(why.value)
