"""The topics as AsyncAPI 3.0: who writes and reads which, and how Kafka keeps them; `make schemas` writes it."""

import json
from pathlib import Path
from typing import Any

from streams import VERSION
from streams.record import MESSAGE_BYTES
from streams.schema import FOLDER
from streams.settings import Settings
from streams.topics import REJECTED, SOURCES, Topic

Told = dict[str, Any]
FILE = Path(__file__).with_name("asyncapi.yaml")
WRITTEN_BY_WORKERS = ("active_set_events", REJECTED.name)
KEY = {"type": "string", "description": "the project's id, in UTF-8; it decides the partition, as murmur2 has it"}
MOVED = {
    "type": "string",
    "description": "where a worker found the record, `<partition>:<offset>:<mark>`, if that was a wrong partition",
}
OF_REJECTED = {
    "topic": "where it came, by its name in Kafka",
    "partition": "where it came",
    "offset": "where it came",
    "length": "of the whole value, in bytes",
    "sha256": "of the whole value",
    "error": "what is wrong, at most 2 KiB",
}


def asyncapi() -> Told:
    """The whole document."""
    topics = (*SOURCES, REJECTED)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Activeset",
            "version": VERSION,
            "description": "What Activeset hears and says over Kafka. Names may have a prefix, ACTIVESET_TOPIC_PREFIX; "
            "partitions and replicas are those of ACTIVESET_PARTITIONS and ACTIVESET_REPLICATION.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: channel(topic) for topic in topics},
        "operations": {
            **{f"hear_{topic.name}": operation(topic, "receive") for topic in SOURCES},
            **{f"say_{topic.name}": operation(topic, "send") for topic in topics if topic.name in WRITTEN_BY_WORKERS},
        },
        "components": {"messages": {topic.name: message(topic) for topic in topics}},
    }


def channel(topic: Topic) -> Told:
    """A topic, and how Kafka keeps it."""
    config = dict(topic.config)
    return {
        "address": topic.name,
        "description": topic.meaning,
        "messages": {topic.name: {"$ref": f"#/components/messages/{topic.name}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": Settings().partitions,
                "replicas": Settings().replication,
                "topicConfiguration": {
                    "cleanup.policy": config["cleanup.policy"].split(","),
                    "retention.ms": int(config["retention.ms"]),
                    "max.message.bytes": MESSAGE_BYTES,
                },
                "bindingVersion": "0.5.0",
            }
        },
    }


def message(topic: Topic) -> Told:
    """A record of a topic. An event may be MessagePack as well, if the header `content-type` says so."""
    about: Told = {"name": topic.name, "title": topic.meaning}
    bindings = {"kafka": {"key": KEY, "bindingVersion": "0.5.0"}}
    if topic is REJECTED:
        headers = {name: {"type": "string", "description": told} for name, told in OF_REJECTED.items()}
        return {
            **about,
            "contentType": "application/octet-stream",
            "headers": {"type": "object", "properties": headers, "required": [*headers]},
            "payload": {"type": "string", "format": "binary", "description": "the bytes, cut at 64 KiB"},
            "bindings": bindings,
        }
    media_types = ["application/json", "application/msgpack"]
    known: Told = {"content-type": {"type": "string", "enum": media_types}, "activeset-moved-from": MOVED}
    return {
        **about,
        "contentType": "application/json",
        "headers": {"type": "object", "properties": known},
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"./{FOLDER.name}/{topic.name}.json"},
        },
        "bindings": bindings,
    }


def operation(topic: Topic, action: str) -> Told:
    """What workers do with a topic."""
    where = f"#/channels/{topic.name}"
    return {"action": action, "channel": {"$ref": where}, "messages": [{"$ref": f"{where}/messages/{topic.name}"}]}


def written(told: object, depth: int = 0) -> str:
    """A document as YAML: objects and lists by indentation, everything else as JSON, which is YAML."""
    pad = "  " * depth
    if isinstance(told, dict) and told:
        return "".join(f"{pad}{json.dumps(name)}:{below(value, depth)}" for name, value in told.items())
    if isinstance(told, list) and told:
        return "".join(f"{pad}- {json.dumps(each, ensure_ascii=False)}\n" for each in told)
    return f"{pad}{json.dumps(told, ensure_ascii=False)}\n"


def below(value: object, depth: int) -> str:
    """What stands behind a name."""
    if isinstance(value, dict | list) and value:
        return "\n" + written(value, depth + 1)
    return f" {json.dumps(value, ensure_ascii=False)}\n"


if __name__ == "__main__":
    FILE.write_text(written(asyncapi()))
