"""A voice: tells of one project, event by event, and knows when it was heard."""

import json
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.broker.load import BEGINNING, medium
from tests.broker.programs import Program
from tests.chaos.fleet import asked

PROJECT = "project-1"
HOME = 6  # its partition


class Voice:
    """Tells of one project, event by event."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._kafka = kafka
        self._producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "log_level": 2})
        self._prefix = prefix
        self._clock = BEGINNING

    def tell(self, topic: str, partition: int = HOME, **event: Any) -> int:
        """Publish an event, as it happened a millisecond after the last one, unless it tells when; its offset."""
        return self._publish(topic, partition, [self._event(event)])

    def annotate(self, state: str, times: int = 1) -> int:
        """The same image again and again: the row of an event is what the next one replaces; the last offset."""
        event = {**medium("m1"), "states": {"t1": state}}
        return self._publish("annotation_updates", HOME, [self._event(event) for _ in range(times)])

    def again(self, topic: str, offset: int) -> int:
        """Publish a record once more, as it stands in the project's partition; the offset of the copy."""
        consumer = Consumer({"bootstrap.servers": self._kafka, "group.id": "voice", "log_level": 2})
        try:
            consumer.assign([TopicPartition(self._prefix + topic, HOME, offset)])
            record = consumer.poll(20)
        finally:
            consumer.close()
        assert record is not None
        assert record.error() is None
        return self._publish(topic, HOME, [record.value() or b""], record.headers())

    def _event(self, event: dict[str, Any]) -> bytes:
        self._clock += 1
        about = {"workspace_id": "w", "project_id": PROJECT, "timestamp": self._clock, "dataset_storage_id": "s"}
        return json.dumps({**about, **event}).encode()

    def _publish(self, topic: str, partition: int, values: list[bytes], headers: Any = None) -> int:
        """Publish records; the offset of the last one."""
        offsets: list[int] = []
        for value in values:
            self._producer.produce(
                self._prefix + topic,
                value,
                PROJECT.encode(),
                partition,
                on_delivery=lambda _, record: offsets.append(record.offset() or 0),
                headers=headers or [],
            )
        assert self._producer.flush(20) == 0
        return max(offsets)


async def applied(worker: Program, topic: str, offset: int) -> bool:
    """Whether a worker's answers are true up to a record."""
    status, body = await asked(worker, f"/v1/projects/{PROJECT}/active-set?limit=1")
    return bool(status == 200 and body["as_of"].get(topic, -1) >= offset)
