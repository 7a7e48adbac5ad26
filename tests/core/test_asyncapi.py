import json
from collections.abc import Iterator
from typing import Any

from streams.asyncapi import FILE, asyncapi, written
from streams.topics import CHANGELOG, TOPICS

TOLD = asyncapi()


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
