"""What Faust does, for whoever watches: records handed to agents, commits, and how partitions move.

Not Faust's own sensor for Prometheus (0.15.3), though it counts the same: its setup puts a page of its own beside ours;
the latencies of its requests and rebalances are measured from their ends; requests that are answered with an error
count as 500; rebalances are a gauge that is 0 between two; records that we finish ourselves stay active for ever; it
counts none that we send, for we send past its topics; and its times are milliseconds. Requests, and what became of
records, are counted in web/metrics.py.
"""

from time import perf_counter
from typing import Any

import faust
from faust.types import TP
from faust.types.tuples import Message
from prometheus_client import CollectorRegistry, Counter, Histogram


class Sensor(faust.Sensor):
    """Told by Faust what it does; the numbers are in a registry."""

    def __init__(self, topic_prefix: str, registry: CollectorRegistry) -> None:
        """topic_prefix: what stands before the topics' names in Kafka, and is left out here."""
        super().__init__()
        self._topic_prefix = topic_prefix
        self._read = Counter(
            "activeset_kafka_read_records",
            "Records that Faust has handed to an agent, by topic; those that come again are counted again.",
            ("topic",),
            registry=registry,
        )
        self._event = Histogram(
            "activeset_kafka_event_seconds",
            "Seconds from handing a record to an agent until the agent takes the next one: what it changes is known "
            "then, and not written yet.",
            registry=registry,
        )
        self._commit = Histogram(
            "activeset_kafka_commit_seconds", "Seconds that a commit of the group's offsets took.", registry=registry
        )
        self._assignments = Counter(
            "activeset_kafka_assignments",
            "How often this worker, as the leader of the group, has assigned partitions, by how that ended.",
            ("outcome",),
            registry=registry,
        )
        self._rebalances = Counter(
            "activeset_kafka_rebalances", "How often partitions have begun to move.", registry=registry
        )
        self._rebalance = Histogram(
            "activeset_kafka_rebalance_seconds",
            "Seconds from the beginning of a rebalance until records flow again, with restoring; one that another "
            "one ends is not counted.",
            buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800),
            registry=registry,
        )

    def on_message_in(self, tp: TP, offset: int, message: Message) -> None:
        """A record goes to an agent."""
        self._read.labels(tp.topic.removeprefix(self._topic_prefix)).inc()

    def on_stream_event_in(self, tp: TP, offset: int, stream: Any, event: Any) -> dict[str, float]:
        """An agent begins with a record."""
        return {"began": perf_counter()}

    def on_stream_event_out(
        self,
        tp: TP,
        offset: int,
        stream: Any,
        event: Any,
        state: dict[str, float] | None = None,
    ) -> None:
        """An agent goes on to the next one."""
        if state is not None:
            self._event.observe(perf_counter() - state["began"])

    def on_commit_initiated(self, consumer: Any) -> float:
        """Offsets are about to be committed."""
        return perf_counter()

    def on_commit_completed(self, consumer: Any, state: float) -> None:
        """They are."""
        self._commit.observe(perf_counter() - state)

    def on_assignment_completed(self, assignor: Any, state: Any) -> None:
        """Partitions are assigned."""
        self._assignments.labels("completed").inc()

    def on_assignment_error(self, assignor: Any, state: Any, exc: BaseException) -> None:
        """They could not be."""
        self._assignments.labels("failed").inc()

    def on_rebalance_start(self, app: Any) -> dict[str, float]:
        """Partitions begin to move."""
        self._rebalances.inc()
        return {"began": perf_counter()}

    def on_rebalance_end(self, app: Any, state: dict[str, float]) -> None:
        """Records flow again."""
        self._rebalance.observe(perf_counter() - state["began"])
