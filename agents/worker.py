"""The worker: the one place where the parts are joined, and how it lives and ends."""

import asyncio
import errno
import faulthandler
import logging
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from faust.types.tuples import Message

from agents.curate import Curator
from agents.watch import Watch
from streams import topics
from streams.app import new_app
from streams.errors import ActivesetError, BadSettings, NotReady
from streams.lock import held_soon
from streams.offsets import Offsets
from streams.overrides import OurApp
from streams.port import try_to_listen
from streams.record import Record
from streams.settings import Settings
from tables import state
from tables.partition import LEAVE_S
from tables.state import State
from web import views
from web.active_set import ActiveSets
from web.door import Door

log = logging.getLogger("activeset.worker")

STOP_S = 13.0  # with what comes before and after it, less than 15
ASK_S = 0.1
LEFT: list["Worker"] = []  # kept to the end: connections that are collected would say that nobody closed them
HANDOVER_S = 15.0  # a worker that was told to stop may still have the folder for so long


@dataclass
class Worker:
    """One worker: its application, what its agents have done, and the error that must end it, if one came."""

    app: OurApp
    settings: Settings
    state: State = field(init=False)
    curator: Curator = field(init=False)
    watch: Watch = field(init=False)
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

    async def leave(self, *_: object, **__: object) -> None:
        """Let go of the partitions that are revoked, which with Faust's protocol are all, also of those that come."""
        self.door.moved()
        if self.taking is not None:
            self.taking.cancel()
            await asyncio.wait([self.taking], timeout=LEAVE_S)
        await self.state.leave()

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record to apply of a topic, by its name in Kafka."""
        return self.state.position(topic.removeprefix(self.settings.topic_prefix), partition)

    def finish(self, message: Message) -> None:
        """Tell Faust that a record is done with."""
        message.ack(self.app.consumer)

    def count(self, what: str, times: int) -> None:
        """Count what happened, to tell in the end."""
        if times:
            self.counts[what] += times

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
    worker.state = state.declare(app, settings, worker.offsets.ends)
    app.keeper = worker
    app.on_partitions_revoked.connect(worker.leave)
    worker.curator = Curator(
        settings, worker.state, worker.send, app.read_again, worker.finish, worker.doom, worker.count
    )
    worker.curator.declare(app)
    worker.watch = Watch(app, settings, worker.state)
    sets = ActiveSets(settings, worker.state, worker.publish, lambda: time.time_ns() // 1_000_000)
    worker.door = Door(app, settings, worker.state, worker.watch, worker.doom)
    views.declare(worker.door, sets)
    return worker


async def run(settings: Settings) -> int:
    """Run a worker until SIGTERM, SIGINT or SIGHUP (exit status 0), or until something ends it (1).

    Raises:
        BadSettings: a setting does not fit the machine or the topics.
        KafkaUnavailable: no broker answers.
    """
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    stopping = asyncio.ensure_future(stop.wait())
    async with AsyncExitStack() as stack:
        preparing = asyncio.create_task(prepare(settings, stack))
        await asyncio.wait([preparing, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not preparing.done():
            return 0
        await preparing
        worker = build(settings)
        LEFT.append(worker)
        return await work(worker, stopping)


async def prepare(settings: Settings, stack: AsyncExitStack) -> None:
    """See to what a worker needs before it is built: its folder, its port, the topics."""
    await stack.enter_async_context(checked(settings))
    await topics.declare(settings)


async def work(worker: Worker, stopping: "asyncio.Future[Any]") -> int:
    """Start a worker and keep it until it is told to stop (0) or must end (1)."""
    starting = asyncio.create_task(start(worker))
    watching = asyncio.create_task(worker.keep_watch())
    crashed = asyncio.ensure_future(worker.app._crashed.wait())  # mode's own event; it has no public name
    ends: list[asyncio.Future[Any]] = [stopping, crashed, worker.fatal]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    if stopping.done() and not worker.fatal.done() and not crashed.done():
        log.info("stopping")
        faulthandler.dump_traceback_later(STOP_S + 1, exit=True)  # also if the event loop itself is held up
        ending = asyncio.create_task(end(worker, starting))
        # Not awaited with a timeout: Faust keeps the cancellation that comes of one to itself.
        await asyncio.wait([ending, *ends[1:]], timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
        if ending.done() and not worker.fatal.done():
            return failed(ending.exception())
        if not worker.fatal.done() and not crashed.done():
            log.error("not stopped after %.0f s: ending anyway, Kafka will replay what was in hand", STOP_S)
            return 1
    # A clean stop would acknowledge the record in hand. Kafka replays it to whoever owns the partition next.
    return failed(worker.fatal.result() if worker.fatal.done() else worker.app.crash_reason) or 1


def failed(why: BaseException | None) -> int:
    """The exit status of an error, which is told; 0 if there is none."""
    if why is None:
        return 0
    log.critical("the worker ends: %s", why, exc_info=why)
    return why.exit_status if isinstance(why, ActivesetError) else 1


@asynccontextmanager
async def checked(settings: Settings) -> AsyncIterator[None]:
    """The worker's folder and port, looked at before anything starts; the folder is ours for as long as the block runs.

    Raises:
        BadSettings: the folder cannot be written or another worker has it, or the port cannot be listened on.
    """
    folder = settings.worker_dir
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(held_soon(folder / "lock", HANDOVER_S))
            tempfile.TemporaryFile(dir=folder).close()
        except BlockingIOError as why:
            raise BadSettings(f"ACTIVESET_DATA_DIR must be a folder of this worker alone, not {folder}") from why
        except OSError as why:
            raise BadSettings(f"ACTIVESET_DATA_DIR must be a folder that can be written, not {folder}") from why
        check_port(settings)
        yield


def check_port(settings: Settings) -> None:
    """Tell in time that the web server cannot listen where it should."""
    try:
        try_to_listen(settings.web_bind, settings.web_port)
    except OSError as why:
        if why.errno in (errno.EADDRINUSE, errno.EACCES):
            must = f"ACTIVESET_WEB_PORT must be a port that is free on {settings.web_bind}, not {settings.web_port}"
        else:
            must = f"ACTIVESET_WEB_BIND must be an address of this machine, not {settings.web_bind}"
        raise BadSettings(f"{must} ({why.strerror})") from why


async def start(worker: Worker) -> None:
    """Join the group and restore the tables."""
    began = asyncio.get_running_loop().time()
    try:
        await worker.app.start()
    except Exception as why:  # noqa: BLE001 - told by `run`, which ends
        await worker.die(why)
    if worker.app.settled():
        took = asyncio.get_running_loop().time() - began
        log.info("joined in %.1f s at %s, partitions %s", took, worker.settings.url, worker.app.owned())


async def end(worker: Worker, starting: asyncio.Task[None]) -> None:
    """Finish the records in hand, commit and leave the group; whoever waits for it sees to it that it ends."""
    await finish(worker)
    told = ", ".join(f"{count} {what}" for what, count in sorted(worker.counts.items()))
    log.info("records since the start: %s", told or "none")
    await worker.app.stop()
    await starting
    await worker.state.leave()
    await asyncio.gather(worker.door.close(), worker.offsets.close())


async def finish(worker: Worker) -> None:
    """Take no more records, and have those in hand written and told to Faust, for it to commit them."""
    app: Any = worker.app
    if app.settled():
        app.consumer.stop_flow()
        app.flow_control.suspend()
        app.flow_control.clear()
        await worker.curator.idle()
    await worker.leave()


def thread_ended(why: threading.ExceptHookArgs) -> None:
    """Log that a thread of a library ended: in a line, for it happens whenever Kafka goes away."""
    if why.exc_type is SystemExit:
        return
    name = why.thread.name if why.thread else "a thread"
    log.error("%s ended: %r", name, why.exc_value, exc_info=why.exc_value if log.isEnabledFor(logging.DEBUG) else None)


def main(settings: Settings) -> NoReturn:
    """Run a worker and end the process with its exit status.

    Raises:
        BadSettings, KafkaUnavailable: as `run`.
    """
    threading.excepthook = thread_ended
    status = asyncio.Runner().run(run(settings))
    logging.shutdown()
    # Threads of Faust and aiokafka, and a loop full of tasks, are left as they are: whatever must be kept is in Kafka.
    os._exit(status)
