import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError, validators

from streams import events
from streams.decode import UPLOAD_BYTES, decode
from streams.errors import MalformedEvent
from streams.events import OF_TOPIC, ModelActivated
from streams.record import Record
from streams.schema import FOLDER, RULES, ecma, references, schema, schemas, written
from tests.core.test_decode import (
    ABSENT,
    EVENTS,
    FRAME,
    HALF,
    IMAGE,
    PICK,
    STORED,
    TASK,
    TOPICS,
    VIDEO,
    WHOLE,
    Path,
    Told,
    places,
    replaced,
    told,
)


def whole(_: object, pattern: str, value: object, __: object) -> Iterator[ValidationError]:
    """The keyword `pattern` as ECMA-262 reads it: for Python, `$` is also before a last line break."""
    if isinstance(value, str) and not re.search(pattern.removesuffix("$") + r"\Z", value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


SCHEMAS = schemas()
Validator = validators.extend(Draft202012Validator, {"pattern": whole})
VALIDATORS = {topic: Validator(each) for topic, each in SCHEMAS.items()}

# The examples, and the other forms that an event of their topics may have.
EXAMPLES: dict[str, tuple[str, Told]] = {
    **{topic: (topic, event) for topic, event in EVENTS.items()},
    "an image uploaded by itself": ("media_uploads", {**STORED, **IMAGE, "name": "M", "media_information": {"x": 1}}),
    "a video uploaded by itself": ("media_uploads", {**STORED, **VIDEO, "thumbnail": None, "media": None}),
    "a medium deleted by itself": ("media_deletions", {**STORED, "media_type": "video", "media_id": "v"}),
    "an annotated image": ("annotation_updates", {**WHOLE, **IMAGE, "states": {}}),
    "an image by default": ("annotation_updates", {**WHOLE, "media_id": "m", "states": {"t": "none"}}),
    "lists for tensors": ("inference_artifacts", told("inference_artifacts", features=[[0.5, 1], [2, [3]]])),
    "a renewal": (
        "active_set_events",
        {**WHOLE, "change": "renewed", "request_id": "r", "user_id": "u", "expires_at": 7},
    ),
    "a release": ("active_set_events", {**WHOLE, "change": "released", "request_id": "r", "user_id": "u"}),
    "a skip": (
        "active_set_events",
        {
            **WHOLE,
            "change": "skipped",
            "request_id": "r",
            "user_id": "u",
            "media": [{"medium": {"media_type": "image", "media_id": "m"}, "uploaded_at": 7}],
            "skip_for": "others",
        },
    ),
    "a reset": ("active_set_events", {**WHOLE, "change": "reset", "request_id": "r"}),
}

# What members are replaced with.
STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 0.5, 1_000_000, 1_000_001, 2**32 - 1, 2**32, 253_402_300_800_000, 2**64, -(2**63)),
    *(
        "",
        "x",
        "a/b",
        "a\n",
        "\n",
        "a\x00",
        "\x7f",
        "a b.c:d%é\u2028",
        ".",
        "..",
        "...",
        ".a",
        "..\u2028",
        "😀" * 200,
        "x" * 201,
        "AA==",
        "A=A=",
        "A-_A",
    ),
    *("none", "image", "video", "video_frame", "granted", "reset", "min", "external:x", "external:", "<f4"),
    *([], ["x"], [""], [None], [0], [[0]], [["x", None]], [[[[[[[0]]]]]]], [IMAGE], [VIDEO], [FRAME], [TASK], [PICK]),
    *({}, {"x": 1}, {"": 1}, {"a/b": 1}, {"x": "none"}, {"a/b": "none"}, {"x": [1]}, {"x": {}}, {"external:x": 1}),
    *(IMAGE, VIDEO, FRAME, TASK, PICK, HALF),
]
# What objects get besides.
MORE: list[Told] = [{"colour": {"deep": [None, "red"]}}, {"a/b": 1}, {"media": []}, IMAGE, FRAME, VIDEO]


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


# What no keyword can tell: the mistakes that only a decoder finds, and what it says of them.
UNSAID: dict[str, tuple[str, Told, str]] = {
    "a task is there twice": ("project_updates", {"tasks": [TASK, {"task_id": "t"}]}, "is there twice"),
    "a whole number with a fraction": ("project_deletions", {"timestamp": raw("1.0")}, "Expected `int`, got `float`"),
    "a number is no double": ("active_set_events", {"media": [{**PICK, "score": raw("1e400")}]}, "out of range"),
    "base64 is cut short": ("inference_artifacts", {"features": {**HALF, "data": "AAA"}}, "Invalid base64"),
    "a video has too many frames": ("media_uploads", {"media": [{**VIDEO, "frame_count": 10**8}]}, "must make at most"),
    "an upload is too large": ("media_uploads", {"media": [{**IMAGE, "x": "x" * UPLOAD_BYTES}]}, "at most 65536 bytes"),
    "an upload has an endless number": ("media_uploads", {"media": [{**IMAGE, "x": raw("9" * 400)}]}, "as JSON: "),
    "an upload is too deep": ("media_uploads", {"media": [{**IMAGE, "x": raw("[" * 300 + "]" * 300)}]}, "as JSON: Rec"),
}
# Of these, a change may make one by chance.
BY_CHANCE = [
    UNSAID[name][2] for name in ("a task is there twice", "base64 is cut short", "a video has too many frames")
]


def mistake(topic: str, value: bytes) -> str | None:
    """Why a worker does not take it, if it does not; the record has the key that belongs to it."""
    project = json.loads(value).get("project_id")
    key = project.encode() if isinstance(project, str) else b"p"
    try:
        decode(Record(topic, 0, key, value, []), topic)
    except MalformedEvent as why:
        return str(why)
    return None


def is_valid(topic: str, value: bytes) -> bool:
    return bool(VALIDATORS[topic].is_valid(json.loads(value)))


def agree(topic: str, value: bytes) -> bool:
    """Whether a value is valid if and only if it is an event, or is none for a reason that no keyword can tell."""
    why = mistake(topic, value)
    unsaid = why is not None and any(reason in why for reason in BY_CHANCE)
    return unsaid or is_valid(topic, value) == (why is None)


def without(value: Any, where: Path) -> Any:
    """The value without the member in one place."""
    copy = value.copy()
    if len(where) == 1:
        del copy[where[0]]
    else:
        copy[where[0]] = without(value[where[0]], where[1:])
    return copy


def member(value: Any, where: Path) -> Any:
    """What is in one place of a value."""
    return member(value[where[0]], where[1:]) if where else value


def mutations(event: Told) -> Iterator[Told]:
    """The event with one place changed, in each way that there is."""
    for where in ((), *places(event)):
        if where:
            yield without(event, where)
            yield from (replaced(event, where, strange) for strange in STRANGE)
        here = member(event, where)
        if isinstance(here, dict):
            yield from (replaced(event, where, {**here, **more}) for more in MORE)


@TOPICS
def test_the_schema_that_is_committed_is_that_of_the_types(topic: str) -> None:
    path = FOLDER / f"{topic}.json"

    assert path.is_file(), "make schemas"
    assert path.read_text() == written(SCHEMAS[topic]), "make schemas"


def test_there_is_a_schema_of_each_topic_and_no_other() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{topic}.json" for topic in OF_TOPIC}, "make schemas"


@TOPICS
def test_a_schema_is_one_of_draft_2020_12_and_tells_what_it_is_of(topic: str) -> None:
    of_topic = SCHEMAS[topic]

    Draft202012Validator.check_schema(of_topic)

    assert of_topic["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert of_topic["$id"] == f"urn:activeset:events:{topic}"
    assert of_topic["title"]
    assert of_topic["description"]


@TOPICS
def test_a_schema_refers_to_nothing_outside_and_has_nothing_that_it_does_not_need(topic: str) -> None:
    assert {*references(SCHEMAS[topic])} == {*SCHEMAS[topic].get("$defs", {})}


@TOPICS
def test_a_schema_has_nothing_that_only_python_or_openapi_knows(topic: str) -> None:
    text = written(SCHEMAS[topic])

    assert not [foreign for foreign in (r"\\A", r"\\Z", "(?", '"discriminator"', "\\n    ") if foreign in text]


@pytest.mark.parametrize("pattern", ["a", r"\Aa", r"a\Z", r"\A(?P<x>a)\Z", r"\Aa\Z|\Ab\Z"])
def test_a_pattern_that_ecma_262_may_read_otherwise_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern must be"):
        ecma(pattern)


def test_a_new_member_of_an_event_is_in_its_schema() -> None:
    class ModelRenamed(ModelActivated, frozen=True, kw_only=True):
        name: str

    renamed = schema("model_names", ModelRenamed)

    assert renamed["properties"]["name"] == {"type": "string"}
    assert "name" in renamed["required"]


def test_an_event_that_checks_itself_has_its_rules_in_the_schema() -> None:
    types = [each for each in vars(events).values() if isinstance(each, type) and issubclass(each, msgspec.Struct)]

    assert {each for each in types if hasattr(each, "__post_init__")} <= {*RULES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_valid(name: str) -> None:
    topic, event = EXAMPLES[name]

    VALIDATORS[topic].validate(json.loads(msgspec.json.encode(event)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_event_with_one_change_is_valid_if_and_only_if_it_is_still_an_event(name: str) -> None:
    topic, event = EXAMPLES[name]
    values = [msgspec.json.encode(each) for each in mutations(event)]

    assert {is_valid(topic, value) for value in values} == {True, False}
    assert not [value for value in values if not agree(topic, value)]


# No number like 1.0, of which the schema has nothing to say.
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(0, 1, exclude_min=True, exclude_max=True)
ANYTHING = st.recursive(
    SCALARS | st.text(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", EXAMPLES)
@given(data=st.data(), new=ANYTHING)
def test_an_event_with_anything_in_one_place_is_valid_if_and_only_if_it_is_still_an_event(
    name: str, data: st.DataObject, new: object
) -> None:
    topic, event = EXAMPLES[name]
    where = data.draw(st.sampled_from([*places(event)]))

    value = msgspec.json.encode(replaced(event, where, new))

    assert agree(topic, value)


@pytest.mark.parametrize(
    ("topic", "changes", "taken"),
    [
        ("media_uploads", {**IMAGE}, False),
        ("media_uploads", {"media_id": None}, False),
        ("media_uploads", {"media": None, **IMAGE}, True),
        ("media_uploads", {"media": ABSENT}, False),
        ("media_uploads", {"media": ABSENT, **IMAGE}, True),
        ("media_uploads", {"media": ABSENT, **VIDEO}, True),
        ("media_uploads", {"media": ABSENT, **VIDEO, "frame_count": ABSENT}, False),
        ("media_uploads", {"media": ABSENT, **VIDEO, "frame_count": None}, False),
        ("media_uploads", {"media": ABSENT, **VIDEO, "frame_stride": ABSENT}, True),
        ("media_uploads", {"media": [{**VIDEO, "frame_stride": None}]}, True),
        ("media_uploads", {"media": [{**IMAGE, "frame_count": None}]}, True),
        ("media_uploads", {"media_type": 7, "frame_count": "many"}, True),
        ("media_deletions", {"media_id": "m"}, False),
        ("media_deletions", {"media_id": None, "media_type": "video"}, True),
        ("media_deletions", {"media_type": "frame"}, False),
        ("media_deletions", {"media": ABSENT}, False),
        ("media_deletions", {"media": None, "media_id": None}, False),
        ("media_deletions", {"media": None, "media_id": "m"}, True),
        ("annotation_updates", {"media_type": ABSENT}, False),
        ("annotation_updates", {"media_type": "image"}, False),
        ("annotation_updates", {"media_type": "image", "frame_index": None}, True),
        ("annotation_updates", {"frame_index": None}, False),
        ("project_updates", {"tasks": [{"task_id": str(i)} for i in range(100)]}, True),
        ("project_updates", {"tasks": [{"task_id": str(i)} for i in range(101)]}, False),
        ("inference_artifacts", {"utilities": {str(i): [0.5, 1] for i in range(8)}}, True),
        ("inference_artifacts", {"utilities": {str(i): [0.5, 1] for i in range(9)}}, False),
        ("inference_artifacts", {"features": {**HALF, "data": "AAA\n"}}, False),
        ("active_set_events", {"change": "reset", "media": 7}, True),
        ("active_set_events", {"media": [PICK] * 1000}, True),
        ("active_set_events", {"media": [PICK] * 1001}, False),
    ],
)
def test_a_rule_of_several_members_is_in_the_schema(topic: str, changes: Told, taken: bool) -> None:
    value = msgspec.json.encode(told(topic, **changes))

    assert (mistake(topic, value) is None) is taken
    assert is_valid(topic, value) is taken


@pytest.mark.parametrize("name", UNSAID)
def test_what_no_keyword_can_tell_is_left_to_the_decoder(name: str) -> None:
    topic, changes, reason = UNSAID[name]

    value = msgspec.json.encode(told(topic, **changes))

    assert is_valid(topic, value)
    assert reason in str(mistake(topic, value))
