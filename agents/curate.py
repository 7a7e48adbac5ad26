"""The agents: one for each source topic, all of one kind; every record ends in one outcome."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from typing import Any

import faust
from faust.types.tuples import Message

from agents.decide import Count, Decider
from streams.decode import decode
from streams.errors import REFUSALS, MalformedEvent, NotReady
from streams.moves import moved, origin_of
from streams.partition import partition_of
from streams.record import Record, heard
from streams.rejection import rejection
from streams.settings import Settings
from streams.topics import REJECTED, SOURCES
from tables.gaps import Verdict
from tables.partition import Applied, At, Fold, Partition
from tables.rows import Change, Rows
from tables.state import NEEDED, State
from web.metrics import Metrics

log = logging.getLogger("activeset.agents")

# Hands a record to Kafka, after those before it; the answer is its offset, when Kafka has it.
Send = Callable[[Record], Awaitable["asyncio.Future[int]"]]
# Told about an error that must end the worker, the record in hand unfinished.
Fatal = Callable[[BaseException], object]


class Outcome(StrEnum):
    """What became of a record."""

    HEARD = "heard"
    MOVED = "moved"  # it came in the wrong partition, and was published again in its own
    REJECTED = "rejected"  # it is no event, and was published to `rejected_events` with the reason
    SKIPPED = "skipped"  # it came again, or its partition has moved to another worker, which reads it
    POSTPONED = "postponed"  # others are missing before it: it is read again after them


@dataclass(frozen=True)
class Curator:
    """What the agents need: where to apply, how to publish, and whom to tell.

    again: has a topic (its name in Kafka) and partition read again from an offset on.
    in_hand: the record of each topic that is looked at; heard: how many were.
    finish: tells Faust that a record is done with. metrics: where is counted what became of records.
    """

    settings: Settings
    state: State
    send: Send
    again: Callable[[str, int, int], object]
    finish: Callable[[Message], object]
    fatal: Fatal
    count: Count
    metrics: Metrics = field(default_factory=Metrics)
    in_hand: dict[str, Message] = field(default_factory=dict)
    heard: Counter[str] = field(default_factory=Counter)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @cached_property
    def _decider(self) -> Decider:
        return Decider(self.count, self.metrics.scoring.time)

    def declare(self, app: faust.App) -> None:
        """Put an agent on every source topic."""
        for topic in SOURCES:
            for outcome in Outcome:
                self.metrics.records.labels(topic.name, outcome)  # 0 so far
            # The agent's name is part of the consumer group's identity, and so a literal: the topic's own.
            name = self.settings.name(topic.name)
            app.agent(
                app.topic(name, key_serializer="raw", value_serializer="raw", allow_empty=True),
                name=f"activeset.{topic.name}",
            )(self.agent(topic.name))

    def agent(self, topic: str) -> Callable[[Any], Awaitable[None]]:
        """The body of the agent of a topic.

        It goes on when a record is folded, and finishes it when it is written. An error that is not the record's fault
        ends the worker with the record unacknowledged: Faust would skip it.
        """

        async def body(stream: Any) -> None:
            async for event in stream.events():
                message = event.message
                message.incref()  # until it is written
                try:
                    heard = await self.hear(message, topic)
                except Exception as why:  # told to the worker, which ends: nothing is swallowed
                    self.fatal(why)
                    await asyncio.Event().wait()
                    raise
                heard.add_done_callback(partial(self._finished, message, topic))

        return body

    def _finished(self, message: Message, topic: str, heard: "asyncio.Future[Outcome]") -> None:
        why = heard.exception()
        if why is not None:
            self.fatal(why)
            return
        self.count(heard.result(), 1)
        self.metrics.records.labels(topic, heard.result()).inc()
        self.finish(message)

    async def idle(self) -> None:
        """Wait until no record is being looked at."""
        while self.in_hand:
            self._idle.clear()
            await self._idle.wait()

    async def hear(self, message: Message, topic: str) -> "asyncio.Future[Outcome]":
        """Deal with one record: events of this partition are applied, those of others moved there, all else rejected.

        Decoded here and not by Faust's codec: a bad record must reach `rejected_events`, not stop or skip the agent.
        Whatever becomes of it, the progress row tells that it is done, so that it is dealt with once. Returns when the
        next record of the topic can be dealt with; the answer tells what became of this one, once it is written.

        topic: its name without a prefix.
        """
        self.in_hand[topic] = message
        try:
            return await self._heard(message, topic)
        finally:
            self.in_hand.pop(topic, None)
            self.heard[topic] += 1
            if not self.in_hand:
                self._idle.set()

    async def _heard(self, message: Message, topic: str) -> "asyncio.Future[Outcome]":
        at = At(topic, message.partition, message.offset, message.generation_id)
        partition = self.state.here(at.partition, at.generation)
        if partition is None:
            return done(Outcome.SKIPPED)
        match partition.judge(at):
            case Verdict.SKIP:
                return done(Outcome.SKIPPED)
            case Verdict.WAIT:
                return done(Outcome.POSTPONED)
            case Verdict.READ_AGAIN:
                first = partition.folded(topic) + 1
                log.info("%s, partition %d: %d is missing before %d", topic, at.partition, first, at.offset)
                self.again(message.topic, at.partition, first)
                return done(Outcome.POSTPONED)
            case Verdict.APPLY_AFTER_GAP:
                self.count("gaps", 1)
            case Verdict.APPLY:
                pass
        record = received(message)
        if topic not in NEEDED:  # artifacts, which may lag
            await self.state.turns.after_others()
            if partition.closed:
                return done(Outcome.SKIPPED)
        try:
            outcome, at, fold = await self._decided(record, at, partition)
            applied = await partition.apply(at, fold)
        except MalformedEvent as why:
            # Not what is wrong: that may show some of the event. `python -m agents rejected` tells it.
            log.warning("rejected %s, partition %d, offset %d: %s", topic, at.partition, at.offset, why.fault)
            self.metrics.rejected.labels(why.fault).inc()
            outcome = Outcome.REJECTED
            sent = await self.send(rejection(record, at.offset, why, self.settings.name(REJECTED.name)))
            applied = await partition.apply(at._replace(origin=None), nothing, sent)
        except NotReady:  # the partition went meanwhile
            return done(Outcome.SKIPPED)
        return told(applied, outcome)

    async def _decided(self, record: Record, at: At, partition: Partition) -> tuple[Outcome, At, Fold]:
        """What becomes of a record, where it stands, and what it does to the rows."""
        event = decode(record, at.topic)
        home = partition_of(event.project_id.encode(), self.settings.partitions)
        origin = origin_of(record.headers, self.state.origin)
        if home == at.partition:
            fold = await self._decider.decide(event, partition.rows, heard(record, at.offset, event))
            return Outcome.HEARD, at._replace(origin=origin), fold
        if origin is not None:
            raise MalformedEvent(
                f"it was moved from partition {origin.partition} to {at.partition}, and belongs to {home}: "
                "somebody counts other partitions than we do",
                "misplaced",
            )
        # One by one: what follows one that could not be moved must not come before it.
        try:
            await (await self.send(moved(record, at.offset, home, self.state.origin)))
        except REFUSALS as why:
            raise MalformedEvent(
                f"it belongs to partition {home}, where Kafka does not take it: {why!r}", "misplaced"
            ) from why
        return Outcome.MOVED, at, nothing


def done(outcome: Outcome) -> "asyncio.Future[Outcome]":
    """An outcome that is there already."""
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    future.set_result(outcome)
    return future


def told(applied: "asyncio.Future[Applied]", outcome: Outcome) -> "asyncio.Future[Outcome]":
    """What became of a record, once its event is written."""
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def tell(applied: "asyncio.Future[Applied]") -> None:
        why = applied.exception()
        if why is not None:
            future.set_exception(why)
        else:
            future.set_result(outcome if applied.result() is Applied.NOW else Outcome.SKIPPED)

    applied.add_done_callback(tell)
    return future


def nothing(_: Rows) -> list[Change]:
    """The fold of a record that changes no rows."""
    return []


def received(message: Message) -> Record:
    """The record of a Faust message."""
    headers: Any = message.headers or []  # aiokafka's pairs; Faust's type allows more
    timestamp_s: Any = message.timestamp  # none in the oldest format, and a client may leave it out: -1 ms
    if timestamp_s is not None and timestamp_s < 0:
        timestamp_s = None
    return Record(message.topic, message.partition, message.key, message.value, list(headers), timestamp_s)
