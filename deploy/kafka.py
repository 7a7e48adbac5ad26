"""A real Apache Kafka on one machine: one node, KRaft, a child process of ours."""

import asyncio
import os
import re
import shutil
import socket
import sys
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from deploy import jars, java, process
from streams.errors import BadSettings, KafkaUnavailable
from streams.lock import held_soon
from streams.port import try_to_listen
from streams.record import MESSAGE_BYTES
from streams.settings import Settings

LOG = "kafka.log"
PROPERTIES_FILE = "server.properties"
START_S = 60.0
STOP_S = 15.0
FREE_MIB = 256  # disk that must be free; Kafka writes its indexes in advance

# A small heap, and the quick compiler only: it starts in 2 s, and a laptop's worth of events needs no more.
JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError")
LOGGING = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)

PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
log.dirs=data
num.partitions=1
message.max.bytes={message_bytes}
auto.create.topics.enable=false
offsets.topic.num.partitions=8
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# No topic loses records by age or size unless it says so itself.
log.retention.ms=-1
"""

# What Kafka says when it cannot start, and what a person can do about it.
TAKEN = r"Address already in use|BindException"
FAULTS = (
    (TAKEN, "its port was taken meanwhile: try again, or set ACTIVESET_KAFKA_PORT"),
    (
        r"No space left on device|DISK_FULL|disk full",
        "the disk is full: free some, or set ACTIVESET_STATE_DIR elsewhere",
    ),
    (
        r"Permission denied|AccessDeniedException|Read-only file system",
        "its folder cannot be written: set ACTIVESET_STATE_DIR to one that can",
    ),
    (r"UnsupportedClassVersionError", "its Java is too old: unset ACTIVESET_JAVA, or name one of 17 or newer"),
    (r"OutOfMemoryError|Could not reserve enough space", "memory is short: it needs 512 MB for its heap"),
)


@dataclass(frozen=True, slots=True)
class LocalKafka:
    """A broker that answers."""

    address: str
    process: process.Process
    java: java.Java
    log: Path

    async def lives(self) -> int:
        """Watch it.

        Raises:
            KafkaUnavailable: it ended; says why.
        """
        status = await self.process.wait()
        raise KafkaUnavailable(f"the local Kafka ended by itself (exit status {status}): {fault(self.log)}")


@asynccontextmanager
async def local_kafka(settings: Settings) -> AsyncIterator[LocalKafka]:
    """A Kafka that answers, for as long as the block runs; its data stays in `kafka/` under the state folder.

    It ends with the block: also on Ctrl-C, on an exception and, on Linux, if this process is killed. The first start
    fetches its jars, and shows how far that is.

    Raises:
        BadSettings: the port, the Java or the cache that a setting names will not do.
        KafkaUnavailable: it cannot be started; says why, and the cure.
    """
    async with AsyncExitStack() as stack:
        folder = settings.state_dir.absolute() / "kafka"
        lock = await stack.enter_async_context(locked(folder))
        runtime = java.find(settings.java)
        cache, needed = settings.cache_dir.expanduser(), jars.listed()
        if jars.missing(cache, needed):
            await fetch(cache)
        class_path = ":".join(map(str, jars.paths(cache, needed)))
        run: list[str | Path] = [runtime.path, *JVM, *LOGGING, "-cp", class_path]
        for tries_left in (2, 1, 0):
            port = settings.kafka_port or free_ports(1)[0]
            broker = await launch(run, folder, port, lock)
            await stack.enter_async_context(process.running(broker, STOP_S))
            try:
                await answers(broker, folder, port)
                break
            except KafkaUnavailable:
                # A port that was free a moment ago can be anybody's by now.
                if settings.kafka_port or not tries_left or not re.search(TAKEN, tail(folder / LOG)):
                    raise
        yield LocalKafka(f"127.0.0.1:{port}", broker, runtime, folder / LOG)


@asynccontextmanager
async def locked(folder: Path) -> AsyncIterator[int]:
    """The folder's lock, which the broker keeps for as long as it lives.

    Waits a little: a broker whose parent was killed is still putting its data in order.
    """
    async with AsyncExitStack() as stack:
        try:
            lock = await stack.enter_async_context(held_soon(folder / "lock", STOP_S))
            free = shutil.disk_usage(folder).free // 1024**2
        except BlockingIOError as why:
            raise KafkaUnavailable(
                f"another local Kafka uses {folder}: stop it, use it (ACTIVESET_BROKER), or set ACTIVESET_STATE_DIR to "
                "another folder"
            ) from why
        except OSError as why:
            raise unwritable(why) from why
        if free < FREE_MIB:
            raise KafkaUnavailable(
                f"the local Kafka needs {FREE_MIB} MiB of disk at {folder}, and {free} MiB are free: free some, or set "
                "ACTIVESET_STATE_DIR elsewhere"
            )
        yield lock


def unwritable(why: OSError) -> KafkaUnavailable:
    """What to say where the state folder will not take a file."""
    return KafkaUnavailable(
        f"the local Kafka has no folder to write to ({why}): set ACTIVESET_STATE_DIR to one that can be written"
    )


async def fetch(cache: Path) -> None:
    """Fetch the jars that are missing, in a program of its own: what that uses blocks, and ours must hear signals."""
    environ = {**os.environ, "ACTIVESET_CACHE_DIR": str(cache)}
    fetching = await process.start([sys.executable, "-m", "deploy", "fetch"], said=True, environ=environ)
    async with process.running(fetching, STOP_S):
        said, _ = await fetching.communicate()
    if fetching.returncode:
        error = BadSettings if fetching.returncode == BadSettings.exit_status else KafkaUnavailable
        raise error(said.decode().strip() or f"fetching Kafka's jars ended with exit status {fetching.returncode}")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on just now, each another one."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


async def launch(run: list[str | Path], folder: Path, port: int, lock: int) -> process.Process:
    """Start the broker, having formed its storage if this is the first time."""
    check_port(port)
    properties = PROPERTIES.format(port=port, controller=free_ports(1)[0], message_bytes=MESSAGE_BYTES)
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}  # Java reads paths in the locale's encoding
    try:
        (folder / PROPERTIES_FILE).write_text(properties)
        output = (folder / LOG).open("wb")
    except OSError as why:
        raise unwritable(why) from why
    with output:
        how: dict[str, Any] = {"output": output, "folder": folder, "environ": environ, "keeps": [lock]}
        if not (folder / "data" / "meta.properties").exists():
            cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            # With `=`, since one id in 64 begins with a hyphen and would be taken for an option.
            form = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", PROPERTIES_FILE]
            async with process.running(await process.start([*run, *form], **how), STOP_S) as forming:
                if await forming.wait():
                    raise KafkaUnavailable(f"the local Kafka could not form its storage: {fault(folder / LOG)}")
        return await process.start([*run, "kafka.Kafka", PROPERTIES_FILE], **how)


def check_port(port: int) -> None:
    """Tell in time that somebody listens on the port."""
    try:
        try_to_listen("127.0.0.1", port)
    except OSError as why:
        raise BadSettings(
            f"ACTIVESET_KAFKA_PORT must be a port that is free on 127.0.0.1, not {port} ({why.strerror}); "
            "unset it to have a free one picked"
        ) from why


async def answers(broker: process.Process, folder: Path, port: int) -> None:
    """Return when the broker answers a client.

    Raises:
        KafkaUnavailable: it ended, or does not answer in time.
    """
    asking = asyncio.create_task(asked(port))
    ending = asyncio.create_task(broker.wait())
    try:
        await asyncio.wait({asking, ending}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            raise KafkaUnavailable(f"the local Kafka ended at its start: {fault(folder / LOG)}")
        if not asking.done() or asking.exception():
            raise KafkaUnavailable(f"the local Kafka does not answer after {START_S:.0f} s: {fault(folder / LOG)}")
    finally:
        asking.cancel()
        ending.cancel()


async def asked(port: int) -> None:
    """Ask until an answer comes."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)  # aiokafka would log every try as an error
            writer.close()
            break
        except OSError:
            await asyncio.sleep(0.1)
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=int(START_S * 1000))
    try:
        await admin.start()
        await coordinator(admin)
    finally:
        await admin.close()


async def coordinator(admin: AIOKafkaAdminClient) -> None:
    """Ask until consumer groups have a coordinator: the first to ask has Kafka make the topic that it needs."""
    while True:
        try:
            await admin.find_coordinator("activeset")
            return
        except KafkaError:
            await asyncio.sleep(0.1)


def fault(log: Path) -> str:
    """Why the broker failed, as well as its log tells, and the cure."""
    told = tail(log)
    for pattern, cure in FAULTS:
        if re.search(pattern, told, re.IGNORECASE):
            return f"{cure} (its log: {log})"
    errors = [line.strip() for line in told.splitlines() if re.search("ERROR|FATAL|Exception|[Ee]rror:", line)]
    return f"{errors[-1][:300] if errors else 'it gave no reason'} (its log: {log})"


def tail(log: Path) -> str:
    """The last of the broker's log."""
    return log.read_bytes()[-64 * 1024 :].decode(errors="replace")
