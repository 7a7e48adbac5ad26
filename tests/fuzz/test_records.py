"""Whatever is in a record: it is an event, or it is rejected with a sentence. Nothing else comes of it."""

import math
import resource
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.decide import ROW_BYTES, Decider
from streams.artifacts import columns
from streams.decode import decode
from streams.errors import BadQuery, MalformedEvent, UnknownProject, UnknownTask
from streams.events import OF_TOPIC, ArtifactsInferred, Event
from streams.moves import moved, origin_of
from streams.record import MESSAGE_BYTES, UNREADABLE, Headers, Record, heard
from streams.rejection import rejection
from tables.ranking import Ranking
from tables.rows import Kind, prefix_of
from tests.core.table import NOW, Table
from tests.core.test_decode import IMAGE, STORED, VIDEO
from tests.core.test_lenient import CODECS, PACK, batch, fetched
from tests.core.test_lenient import record as wire
from tests.fuzz.strange import OF_TOPIC as EVENTS
from tests.fuzz.strange import as_json, as_msgpack, edited, fuzz, headers, nearly, record

MORE_BYTES = 1536 * 1024 * 1024  # addresses, most of which are never used

Sent = tuple[str, bytes | None, bytes | None, Headers]


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Who takes more memory than that ends with a MemoryError, which is nobody's answer."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def decoded(sent: Sent) -> Event | None:
    """The event of a record; none if it is none."""
    topic, key, value, more = sent
    told = Record(topic, 0, key, value, more, None)
    try:
        event = decode(told, topic)
        if origin_of(more, "kafka/changelog") is not None:
            assert moved(told, 7, 3, "kafka/changelog").partition == 3
    except MalformedEvent as why:
        refused = rejection(told, 7, why, "rejected_events")
        assert refused.weight() < MESSAGE_BYTES
        return None
    assert event.project_id.encode() == key
    return event


@fuzz(1200)
@given(sent=record())
def test_a_record_is_an_event_or_rejected(sent: Sent) -> None:
    decoded(sent)


@fuzz(300)
@given(
    topic=st.sampled_from(sorted(OF_TOPIC)),
    value=st.none() | st.binary(max_size=400) | st.text(max_size=100).map(lambda text: text.encode(errors="replace")),
    key=st.none() | st.binary(max_size=8),
    more=headers,
)
def test_any_bytes_at_all_are_rejected(topic: str, value: bytes | None, key: bytes | None, more: Headers) -> None:
    assert decoded((topic, key, value, more)) is None


small = st.integers(0, 3)
ARTIFACTS: list[Any] = EVENTS["inference_artifacts"]


@st.composite
def artifacts(draw: Any) -> dict[str, Any]:
    """A chunk whose columns are of lengths and shapes that nearly fit, with any numbers in them."""
    rows, numbers = draw(small), st.floats() | st.floats(0, 1)

    def column(*shape: int) -> Any:
        shape = (rows if draw(st.integers(0, 9)) else draw(small), *shape)
        count = math.prod(shape)
        flat = draw(st.lists(numbers, min_size=count, max_size=count))
        if draw(st.booleans()):
            return {"dtype": "<f8", "shape": [*shape], "data": struct.pack(f"<{count}d", *flat)}
        return nested(flat, shape)

    classes = draw(small)
    event: dict[str, Any] = {
        **ARTIFACTS[0],
        "subset": draw(st.sampled_from(("seen", "unseen"))),
        "chunk": draw(small),
        "last": draw(st.booleans()),
        "multi_label": draw(st.booleans()),
        "novelty": draw(st.booleans()),
        "media": [{"media_type": "image", "media_id": f"m{draw(small)}"} for _ in range(rows)],
        "labels": draw(st.none() | st.just(["l", "k", None][:rows])),
        "probabilities": draw(st.sampled_from((0, 1, 2))),
        "classes": draw(st.none() | st.just(["l", "k", "j"][:classes])),
        "utilities": {name: column() for name in draw(st.sets(st.sampled_from(("own", "other"))))},
    }
    passes = event["probabilities"]
    event["probabilities"] = [None, column(classes), column(draw(small), classes)][passes]
    event["features"] = draw(st.none() | st.just(0)) and column(*draw(st.lists(small, max_size=4)))
    if event["features"] is None and draw(st.booleans()):
        event["features"] = column(*draw(st.lists(small, max_size=4)))
    return event


def nested(flat: list[float], shape: tuple[int, ...]) -> Any:
    """Numbers as lists in lists."""
    if len(shape) == 1:
        return flat
    step = math.prod(shape[1:])
    return [nested(flat[n * step : (n + 1) * step], shape[1:]) for n in range(shape[0])]


@fuzz(1000)
@given(told=artifacts() | nearly(ARTIFACTS))
def test_columns_are_arrays_that_fit_together_or_rejected(told: Any) -> None:
    event = decoded(("inference_artifacts", b"p", as_msgpack(told), [("content-type", b"application/msgpack")]))
    if not isinstance(event, ArtifactsInferred):
        return
    try:
        found = columns(event)
    except MalformedEvent:
        return

    assert len(found.media) == len(found.labels) == len(event.media) - found.left_out
    for array in (found.probabilities, found.passes, found.features, *found.utilities.values()):
        assert array is None or len(array) == len(found.media)


PACKED: Headers = [("content-type", b"application/msgpack")]
# A project with media, of which most of what follows tells.
BEGINNING: list[Sent] = [
    ("project_updates", b"p", as_json({**STORED, "tasks": [{"task_id": "t", "task_type": "classification"}]}), []),
    (
        "media_uploads",
        b"p",
        as_json({**STORED, "media": [VIDEO, *[{**IMAGE, "media_id": f"m{n}"} for n in range(4)]]}),
        [],
    ),
]


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # some records are
@fuzz(500)
@given(
    sent=st.lists(
        record() | artifacts().map(lambda told: ("inference_artifacts", b"p", as_msgpack(told), PACKED)),
        min_size=1,
        max_size=6,
    )
)
async def test_what_is_an_event_is_folded_swept_and_ranked_or_rejected(sent: list[Sent]) -> None:
    table, decider, projects = Table(), Decider(lambda *_: None), dict[str, set[str | None]]()
    for offset, each in enumerate([*BEGINNING, *sent]):
        event = decoded(each)
        if event is None:
            continue
        projects.setdefault(event.project_id, {None, "t"}).add(getattr(event, "task_id", None))
        try:
            fold = await decider.decide(event, table, heard(Record(each[0], 0, *each[1:]), offset, event))
            changes = fold(table)
        except MalformedEvent:
            continue
        assert all(len(key) < ROW_BYTES and len(value or b"") <= ROW_BYTES for key, value in changes)
        table.take(changes)
    for project, tasks in projects.items():
        await ranked(table, project, tasks)
    table.sweep()
    for project, tasks in projects.items():
        await ranked(table, project, tasks)


async def ranked(table: Table, project: str, tasks: set[str | None]) -> None:
    """See that all rows of a project make orders, or that it is known why not, and that what is shown is JSON."""
    ranking = Ranking(project, table, 1000)
    for kind in Kind:
        ranking.update([*table.scan(prefix_of(project, kind))])
    for task in tasks:
        for now in (NOW, NOW + 10**9):
            try:
                places, _ = await ranking.best(task, 10, now, seed="r")
            except (UnknownProject, UnknownTask, BadQuery):
                continue
            assert len(orjson.dumps([place.reasons for place in places])) >= 2


@fuzz(500)
@given(
    kind=st.sampled_from(CODECS),
    values=st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    broken=edited(st.just(b"")),
    data=st.data(),
)
def test_a_batch_is_read_or_one_record_stands_for_it(
    kind: int, values: list[bytes], broken: bytes, data: st.DataObject
) -> None:
    plain = b"".join(wire(at, value) for at, value in enumerate(values))
    sent = data.draw(edited(st.just(PACK[kind](plain))) | edited(st.just(plain)).map(PACK[kind]))

    records = fetched(batch(sent + broken, len(values), kind))

    assert records[-1].offset == len(values) - 1
    assert [each.offset for each in records] == sorted({each.offset for each in records})
    for each in records:
        decoded(("media_uploads", each.key, each.value, [*each.headers]))
        assert all(isinstance(name, str) or name == UNREADABLE for name, _ in each.headers)


@fuzz(200)
@given(told=nearly([event for events in EVENTS.values() for event in events]), packs=st.booleans())
def test_what_is_no_event_of_one_topic_is_none_of_another_or_a_whole_one(told: Any, packs: bool) -> None:
    value = as_msgpack(told) if packs else as_json(told)
    for topic in OF_TOPIC:
        decoded((topic, b"p", value, PACKED if packs else []))
