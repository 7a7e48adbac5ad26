"""A voice: tells of one project, event by event, and knows when it was heard."""

import json
from typing import Any

from confluent_kafka import Producer

from tests.broker.load import BEGINNING, medium
from tests.broker.programs import Program
from tests.chaos.fleet import asked

PROJECT = "project-1"
HOME = 6  # its partition


class Voice:
    """Tells of one project, event by event."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "log_level": 2})
        self._prefix = prefix
        self._clock = BEGINNING

    def tell(self, topic: str, **event: Any) -> int:
        """Publish an event, as it happened a millisecond after the last one, unless it tells when; its offset."""
        self._clock += 1
        about = {"workspace_id": "w", "project_id": PROJECT, "timestamp": self._clock, "dataset_storage_id": "s"}
        offsets: list[int] = []
        self._producer.produce(
            self._prefix + topic,
            json.dumps({**about, **event}).encode(),
            PROJECT.encode(),
            on_delivery=lambda _, record: offsets.append(record.offset() or 0),
        )
        assert self._producer.flush(20) == 0
        return offsets[0]

    def annotate(self, state: str) -> int:
        """The same image again and again: the row of an event is what the next one replaces."""
        return self.tell("annotation_updates", **medium("m1"), states={"t1": state})


async def applied(worker: Program, topic: str, offset: int) -> bool:
    """Whether a worker's answers are true up to a record."""
    status, body = await asked(worker, f"/v1/projects/{PROJECT}/active-set?limit=1")
    return bool(status == 200 and body["as_of"].get(topic, -1) >= offset)
