"""The agents: one for each source topic, all of one kind; every record ends in one outcome."""

from collections.abc import AsyncIterator, Awaitable, Callable
from enum import StrEnum
from typing import Any

import faust
from faust.types.tuples import Message

from streams.errors import MalformedEvent
from streams.events import Headers, decode
from streams.partition import partition_of
from streams.rejection import rejection
from streams.settings import Settings
from streams.topics import REJECTED, SOURCES

# Publishes one record and returns when Kafka has it: topic, partition, key, value, headers.
Publish = Callable[[str, int, bytes | None, bytes | None, Headers], Awaitable[object]]
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
    headers = sent(message)
    try:
        decode(message.key, message.value, headers)
    except MalformedEvent as why:
        key, value, told = rejection(message.topic, message.partition, message.offset, message.key, message.value, why)
        await publish(settings.name(REJECTED.name), message.partition, key, value, told)
        return Outcome.REJECTED
    assert message.key is not None  # decode has seen that it is the project's id
    home = partition_of(message.key, settings.partitions)
    if home == message.partition:
        return Outcome.HEARD
    await publish(message.topic, home, message.key, message.value, headers)
    return Outcome.MOVED


def sent(message: Message) -> Headers:
    """The headers as they came, in order; Kafka allows a header without a value."""
    pairs: Any = message.headers or []  # aiokafka's pairs of str and bytes; Faust's type allows more
    return [(name, value or b"") for name, value in pairs]
