"""The life of a worker: how it starts, is kept, and ends in time, with a status that tells whether all is in order."""

import asyncio
import errno
import faulthandler
import gc
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NoReturn

import numpy as np

from agents.ends import Ends, Reason, reason_of
from agents.worker import Worker, build
from streams import tls, topics
from streams.errors import ActivesetError, BadSettings
from streams.lock import held_soon
from streams.port import try_to_listen
from streams.settings import Settings

log = logging.getLogger("activeset.worker")

GARBAGE = 10_000  # objects more than before, when the collector looks for cycles: a chunk makes thousands without any
SWITCH_S = 0.001  # after which a thread that computes makes way for the event loop; Python has 5 ms
STOP_S = 13.0  # with what comes before and after it, less than 15
HANDOVER_S = 15.0  # a worker that was told to stop may still have the folder for so long
LEFT: list[Worker] = []  # kept to the end: connections that are collected would say that nobody closed them


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
        ends = Ends(settings.worker_dir)
        for reason, count in ends.counts.items():
            worker.metrics.ends.labels(reason).inc(count)
        ends.begin()
        status, reason = await work(worker, stopping)
        ends.note(reason)
        return status


async def prepare(settings: Settings, stack: AsyncExitStack) -> None:
    """See to what a worker needs before it is built: its certificate, its folder, its port, the topics."""
    await stack.enter_async_context(checked(settings))
    await topics.declare(settings)


async def work(worker: Worker, stopping: "asyncio.Future[Any]") -> tuple[int, Reason]:
    """Start a worker and keep it until it is told to stop (0) or must end (1), and why."""
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
            why = ending.exception()
            return (failed(why), reason_of(why)) if why is not None else (int(not ending.result()), "told")
        if not worker.fatal.done() and not crashed.done():
            log.error("not stopped after %.0f s: ending anyway, Kafka will replay what was in hand", STOP_S)
            return 1, "late"
    # A clean stop would acknowledge the record in hand. Kafka replays it to whoever owns the partition next.
    why = worker.fatal.result() if worker.fatal.done() else worker.app.crash_reason
    return failed(why) or 1, reason_of(why)


def failed(why: BaseException | None) -> int:
    """The exit status of an error, which is told; 0 if there is none."""
    if why is None:
        return 0
    log.critical("the worker ends: %s", why, exc_info=why)
    return why.exit_status if isinstance(why, ActivesetError) else 1


@asynccontextmanager
async def checked(settings: Settings) -> AsyncIterator[None]:
    """The worker's certificate, folder and port, looked at before anything starts; the folder is ours in the block.

    Raises:
        BadSettings: the certificate cannot be used, the folder cannot be written or another worker has it, or the port
            cannot be listened on.
    """
    tls.check(settings)
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


async def end(worker: Worker, starting: asyncio.Task[None]) -> bool:
    """Finish the records in hand, commit and leave the group; whoever waits for it sees to it that it ends.

    The answer tells whether all that was in hand is written.
    """
    written = await finish(worker)
    told = ", ".join(f"{count} {what}" for what, count in sorted(worker.counts.items()))
    log.info("records since the start: %s", told or "none")
    await worker.app.stop()
    await starting
    await worker.state.leave()
    await asyncio.gather(worker.door.close(), worker.offsets.close(), worker.state.close())
    return written


async def finish(worker: Worker) -> bool:
    """Take no more records, and have those in hand written and told to Faust, for it to commit them."""
    app: Any = worker.app
    if app.settled():
        app.consumer.stop_flow()
        app.flow_control.suspend()
        app.flow_control.clear()
        await worker.curator.idle()
    return await worker.leave()


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
    np.unique(np.empty(0))  # the first time it loads a part of numpy, some 20 ms
    # What is loaded stays: the collector need not look through it again, which takes some 20 ms each time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)
    sys.setswitchinterval(SWITCH_S)
    status = asyncio.Runner().run(run(settings))
    logging.shutdown()
    # Threads of Faust and aiokafka, and a loop full of tasks, are left as they are: whatever must be kept is in Kafka.
    os._exit(status)
