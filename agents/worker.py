"""The worker: the one place where the parts are joined."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from faust.types.tuples import Message

from agents.curate import Curator
from agents.sensor import Sensor
from agents.watch import Watch
from streams.app import new_app
from streams.clock import Clock
from streams.errors import BadSettings, NotReady
from streams.offsets import Offsets
from streams.overrides import OurApp, now_s
from streams.record import Record
from streams.settings import Settings
from tables import state
from tables.partition import LEAVE_S
from tables.state import State
from web import views
from web.active_set import ActiveSets
from web.door import Door
from web.metrics import Metrics

ASK_S = 0.1


@dataclass
class Worker:
    """One worker: its application, what its agents have done, and the error that must end it, if one came."""

    app: OurApp
    settings: Settings
    state: State = field(init=False)
    curator: Curator = field(init=False)
    watch: Watch = field(init=False)
    metrics: Metrics = field(default_factory=Metrics)
    door: Door = field(init=False)
    offsets: Offsets = field(init=False)
    taking: asyncio.Task[None] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    fatal: asyncio.Future[BaseException] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def send(self, record: Record) -> "asyncio.Future[int]":
        """Hand a record to Kafka, after those before it; the answer is its offset, when Kafka has it."""
        headers: Any = record.headers  # Faust's type knows no header without a value
        # Faust cuts to milliseconds; half of one keeps 0.123 from becoming 0.122.
        timestamp_s = None if record.timestamp_s is None else record.timestamp_s + 0.0005
        sent = await self.app.producer.send(
            record.topic, record.key, record.value, record.partition, timestamp_s, headers
        )

        async def offset() -> int:
            return int((await sent).offset)

        return asyncio.ensure_future(offset())

    async def publish(self, record: Record) -> int:
        """Publish a record and return its offset when Kafka has it."""
        return await (await self.send(record))

    async def take(self, partitions: Iterable[int], generation: int) -> None:
        """Take over and restore partitions; what prevents that ends the worker.

        Raises:
            NotReady: they went meanwhile.
        """
        taking = self.taking = asyncio.create_task(self._take(partitions, generation))
        try:
            await asyncio.wait([taking])
        except asyncio.CancelledError:
            taking.cancel()
            await asyncio.wait([taking])
            raise
        if taking.cancelled():
            raise NotReady("the partitions went while they were restored")
        why = taking.exception()
        if isinstance(why, NotReady):
            raise why
        if why is not None:
            await self.die(why)

    async def _take(self, partitions: Iterable[int], generation: int) -> None:
        self._check_partitions()
        await self.state.take(partitions, generation, self.member)

    async def member(self) -> None:
        """Wait until Kafka takes this worker for a member; another rebalance, which comes if it does not, ends that."""
        while self.app.unheard_s() >= self.door.silent_s:
            await asyncio.sleep(ASK_S)

    def _check_partitions(self) -> None:
        """See that no topic has been given more partitions: records would be sent to and fro.

        Raises:
            BadSettings: one has.
        """
        more = {tp.topic for tp in self.app.assignor.assigned_actives() if tp.partition >= self.settings.partitions}
        if more:
            raise BadSettings(
                f"ACTIVESET_PARTITIONS is {self.settings.partitions}, and these topics have more now: "
                f"{', '.join(sorted(more))}; the number is fixed once the topics are there"
            )

    async def revoked(self, *_: object, **__: object) -> None:
        """Let go, as Faust asks for it."""
        await self.leave()

    async def leave(self) -> bool:
        """Let go of the partitions that are revoked, which with Faust's protocol are all, also of those that come.

        The answer tells whether all that was folded is written.
        """
        self.door.moved()
        if self.taking is not None:
            self.taking.cancel()
            await asyncio.wait([self.taking], timeout=LEAVE_S)
        return await self.state.leave()

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record to apply of a topic, by its name in Kafka."""
        return self.state.position(topic.removeprefix(self.settings.topic_prefix), partition)

    def finish(self, message: Message) -> None:
        """Tell Faust that a record is done with."""
        message.ack(self.app.consumer)

    def count(self, what: str, times: int) -> None:
        """Count what happened, for who watches and to tell in the end."""
        if times:
            self.counts[what] += times
            if what in self.metrics.of:
                self.metrics.of[what].inc(times)

    def doom(self, why: BaseException) -> None:
        """End the worker."""
        if not self.fatal.done():
            self.fatal.set_result(why)

    async def die(self, why: BaseException) -> NoReturn:
        """End the worker and never come back, so that what is in hand goes no further."""
        self.doom(why)
        await asyncio.Event().wait()
        raise AssertionError("an event nobody sets")

    async def keep_watch(self) -> None:
        """See that the worker gets on; it ends if it does not."""
        try:
            await self.watch.keep()
        except Exception as why:  # noqa: BLE001 - told to the worker, which ends
            self.doom(why)


def build(settings: Settings) -> Worker:
    """A worker with all its parts joined, connected to nothing yet; needs a running event loop."""
    worker = Worker(new_app(settings), settings)
    app = worker.app
    worker.offsets = Offsets(settings.broker)
    clock = Clock(lambda: time.time_ns() // 1_000_000, now_s)
    worker.state = state.declare(app, settings, worker.offsets, clock)
    worker.state.wrote = worker.metrics.wrote
    app.sensors.add(Sensor(settings.topic_prefix, worker.metrics.registry))
    app.keeper = worker
    app.on_partitions_revoked.connect(worker.revoked)
    worker.curator = Curator(
        settings, worker.state, worker.send, app.read_again, worker.finish, worker.doom, worker.count, worker.metrics
    )
    worker.curator.declare(app)
    worker.watch = Watch(app, settings, worker.state, worker.curator)
    sets = ActiveSets(settings, worker.state, worker.publish, clock.now_ms, worker.metrics.served)
    worker.door = Door(app, settings, worker.state, worker.watch, worker.doom)
    views.declare(worker.door, sets, worker.metrics)
    return worker
