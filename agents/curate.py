"""The agents: one for each source topic, all of one kind; every record ends in one outcome."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import faust
from faust.types.tuples import Message

from agents.decide import decide
from streams.decode import decode
from streams.errors import MalformedEvent
from streams.partition import partition_of
from streams.record import Record
from streams.rejection import rejection
from streams.settings import Settings
from streams.topics import REJECTED, SOURCES
from tables.partition import Applied, At
from tables.rows import Change, Rows
from tables.state import State

log = logging.getLogger("activeset.agents")

# Publishes a record and returns when Kafka has it.
Publish = Callable[[Record], Awaitable[object]]
# Told about an error that must end the worker, the record in hand unfinished.
Fatal = Callable[[BaseException], Awaitable[None]]
# Told what happened, and how often.
Count = Callable[[str, int], None]


class Outcome(StrEnum):
    """What became of a record."""

    HEARD = "heard"
    MOVED = "moved"  # it came in the wrong partition, and was published again in its own
    REJECTED = "rejected"  # it is no event, and was published to `rejected_events` with the reason
    SKIPPED = "skipped"  # it came again, or its partition has moved to another worker, which reads it


@dataclass(frozen=True)
class Curator:
    """What the agents need: where to apply, how to publish, and whom to tell."""

    settings: Settings
    state: State
    publish: Publish
    fatal: Fatal
    count: Count

    def declare(self, app: faust.App) -> None:
        """Put an agent on every source topic."""
        for topic in SOURCES:
            # The agent's name is part of the consumer group's identity, and so a literal: the topic's own.
            name = self.settings.name(topic.name)
            app.agent(
                app.topic(name, key_serializer="raw", value_serializer="raw", allow_empty=True),
                name=f"activeset.{topic.name}",
                sink=[self.counted],
            )(self.agent(topic.name))

    def counted(self, outcome: Any) -> None:
        """Count an outcome, once its record is dealt with."""
        self.count(outcome, 1)

    def agent(self, topic: str) -> Callable[[Any], AsyncIterator[Outcome]]:
        """The body of the agent of a topic.

        An error that is not the record's fault ends the worker with the record unacknowledged: Faust would skip it.
        """

        async def body(stream: Any) -> AsyncIterator[Outcome]:
            async for event in stream.events():
                try:
                    outcome = await self.hear(event.message, topic)
                except Exception as why:  # told to the worker, which ends: nothing is swallowed
                    await self.fatal(why)
                    raise
                yield outcome

        return body

    async def hear(self, message: Message, topic: str) -> Outcome:
        """Deal with one record: events of this partition are applied, those of others moved there, all else rejected.

        Decoded here and not by Faust's codec: a bad record must reach `rejected_events`, not stop or skip the agent.
        Whatever becomes of it, the progress row tells that it is done, so that it is dealt with once.

        topic: its name without a prefix.
        """
        record = received(message)
        outcome = Outcome.HEARD

        async def decided(rows: Rows) -> list[Change]:
            nonlocal outcome
            try:
                event = decode(record, topic)
                home = partition_of(event.project_id.encode(), self.settings.partitions)
                if home == record.partition:
                    return await decide(event, rows, message.offset, self.count)
            except MalformedEvent as why:
                outcome = Outcome.REJECTED
                log.warning("rejected %s, partition %d, offset %d: %s", topic, record.partition, message.offset, why)
                await self.publish(rejection(record, message.offset, why, self.settings.name(REJECTED.name)))
                return []
            outcome = Outcome.MOVED
            await self.publish(record._replace(partition=home))
            return []

        at = At(topic, message.partition, message.offset, message.generation_id)
        applied = await self.state.apply(at, decided)
        return outcome if applied is Applied.NOW else Outcome.SKIPPED


def received(message: Message) -> Record:
    """The record of a Faust message."""
    headers: Any = message.headers or []  # aiokafka's pairs; Faust's type allows more
    timestamp_s: Any = message.timestamp  # none in the oldest format, and a client may leave it out: -1 ms
    if timestamp_s is not None and timestamp_s < 0:
        timestamp_s = None
    return Record(message.topic, message.partition, message.key, message.value, list(headers), timestamp_s)
