import json
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from streams.asyncapi import FILE, asyncapi, written
from streams.decode import JSON
from streams.errors import MalformedEvent
from streams.moves import moved
from streams.record import Record
from streams.rejection import rejection
from streams.topics import CHANGELOG, REJECTED, SOURCES, TOPICS

TOLD = asyncapi()
RECORD = Record("media_uploads", 3, b"p", b"{", [("content-type", JSON.encode())])


def headers(record: Record) -> dict[str, str]:
    return {name: (text or b"").decode() for name, text in record.headers}


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["$ref"]] if "$ref" in node else []
        node = [*node.values()]
    if isinstance(node, list):
        for each in node:
            yield from references(each)


def test_the_document_that_is_committed_is_that_of_the_topics() -> None:
    assert FILE.read_text() == written(TOLD), "make schemas"


def test_every_topic_but_the_changelog_is_a_channel_with_its_retention() -> None:
    assert TOLD["channels"].keys() == {topic.name for topic in TOPICS} - {CHANGELOG.name}

    for topic in TOPICS:
        if topic is not CHANGELOG:
            kafka = TOLD["channels"][topic.name]["bindings"]["kafka"]
            assert str(kafka["topicConfiguration"]["retention.ms"]) == dict(topic.config)["retention.ms"]


def test_every_reference_leads_somewhere() -> None:
    found = [*references(TOLD)]

    for ref in found:
        where, _, path = ref.partition("#/")
        node: Any = json.loads((FILE.parent / where).read_text()) if where else TOLD
        for name in path.split("/") if path else []:
            node = node[name]
        assert node
    assert len(found) > len(TOPICS)


def test_the_headers_of_a_record_that_was_moved_are_those_of_its_channel() -> None:
    found = headers(moved(RECORD, 77, 5, "kafka-1"))

    for topic in SOURCES:
        told = TOLD["components"]["messages"][topic.name]["headers"]
        assert found.keys() == told["properties"].keys()
        Draft202012Validator(told).validate(found)


def test_the_headers_of_a_rejection_are_those_of_its_channel() -> None:
    found = headers(rejection(RECORD, 77, MalformedEvent("value is no event"), REJECTED.name))

    told = TOLD["components"]["messages"][REJECTED.name]["headers"]
    assert [*found] == [*told["properties"]] == told["required"]
    Draft202012Validator(told).validate(found)
