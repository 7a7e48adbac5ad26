"""The agents: one for each source topic, all of one kind; every record ends in one outcome."""

from collections.abc import AsyncIterator, Awaitable, Callable
from enum import StrEnum
from typing import Any

import faust
from faust.types.tuples import Message

from streams.errors import MalformedEvent
from streams.events import decode
from streams.partition import partition_of
from streams.record import Record
from streams.rejection import rejection
from streams.settings import Settings
from streams.topics import REJECTED, SOURCES

# Publishes a record and returns when Kafka has it.
Publish = Callable[[Record], Awaitable[object]]
# Told about an error that must end the worker, the record in hand unfinished.
Fatal = Callable[[BaseException], Awaitable[None]]


class Outcome(StrEnum):
    """What became of a record."""

    HEARD = "heard"
    MOVED = "moved"  # it came in the wrong partition, and was published again in its own
    REJECTED = "rejected"  # it is no event, and was published to `rejected_events` with the reason


def declare(
    app: faust.App, settings: Settings, *, publish: Publish, fatal: Fatal, sink: Callable[[Outcome], None]
) -> None:
    """Put an agent on every source topic.

    sink: told every outcome, once its record is dealt with.
    """
    for topic in SOURCES:
        # The agent's name is part of the consumer group's identity, and so a literal: the topic's own.
        app.agent(
            app.topic(settings.name(topic.name), key_serializer="raw", value_serializer="raw", allow_empty=True),
            name=f"activeset.{topic.name}",
            sink=[sink],
        )(agent(settings, publish, fatal))


def agent(settings: Settings, publish: Publish, fatal: Fatal) -> Callable[[Any], AsyncIterator[Outcome]]:
    """The body of an agent.

    An error that is not the record's fault ends the worker with the record unacknowledged: Faust would skip it.
    """

    async def body(stream: Any) -> AsyncIterator[Outcome]:
        async for event in stream.events():
            try:
                outcome = await hear(event.message, settings, publish)
            except Exception as why:  # told to the worker, which ends: nothing is swallowed
                await fatal(why)
                raise
            yield outcome

    return body


async def hear(message: Message, settings: Settings, publish: Publish) -> Outcome:
    """Check one record: events of this partition are heard, those of others moved there, all else rejected.

    Decoded here and not by Faust's codec: a bad record must reach `rejected_events`, not stop or skip the agent.
    """
    record = received(message)
    try:
        decode(record)
    except MalformedEvent as why:
        await publish(rejection(record, message.offset, why, settings.name(REJECTED.name)))
        return Outcome.REJECTED
    assert record.key is not None  # decode has seen that it is the project's id
    home = partition_of(record.key, settings.partitions)
    if home == record.partition:
        return Outcome.HEARD
    await publish(record._replace(partition=home))
    return Outcome.MOVED


def received(message: Message) -> Record:
    """The record of a Faust message."""
    headers: Any = message.headers or []  # aiokafka's pairs; Faust's type allows more
    timestamp_s: Any = message.timestamp  # none in the oldest format, and a client may leave it out: -1 ms
    if timestamp_s is not None and timestamp_s < 0:
        timestamp_s = None
    return Record(message.topic, message.partition, message.key, message.value, list(headers), timestamp_s)
