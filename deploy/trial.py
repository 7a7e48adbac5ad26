"""A Kafka and a worker for a trial: in a folder that begins empty, gone when it ends."""

import asyncio
import os
import shutil
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from deploy import process
from deploy.kafka import free_ports, local_kafka
from deploy.serve import ASK_S, STOP_S, console, ready, tell
from streams.errors import ActivesetError, BadSettings
from streams.lock import held
from streams.producer import Receipt
from streams.settings import Settings

MARK = ".trial"  # in a folder that a trial has made, and may empty
READY_S = 180.0  # a worker takes two, and one that restores a million media a minute
PATIENCE_S = 30.0  # for what takes a fraction of a second


class TrialFailed(ActivesetError):
    """The service did not do what it promises."""


@contextmanager
def own_folder(settings: Settings, name: str) -> Iterator[Settings]:
    """Settings of a trial: all that it keeps is in a folder of its own, which was emptied; HTTP on a port that is free.

    Raises:
        BadSettings: another trial has the folder, or it cannot be written.
    """
    folder = settings.state_dir.absolute() / name
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder.with_name(f"{name}.lock")))
            if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
                raise BadSettings(f"ACTIVESET_STATE_DIR must be another folder: {folder} is not a {name}'s to empty")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / MARK).touch()
        except BlockingIOError as why:
            raise BadSettings(f"ACTIVESET_STATE_DIR must be another folder: a {name} is running in {folder}") from why
        except OSError as why:
            raise BadSettings(f"ACTIVESET_STATE_DIR must be a folder that can be written, not {folder}: {why}") from why
        port = free_ports(1)[0]
        own = replace(settings, state_dir=folder, data_dir=None, web_port=port, web_bind="127.0.0.1", web_host="")
        yield replace(own, tls_cert=None, tls_key=None)


@asynccontextmanager
async def a_kafka(settings: Settings) -> AsyncIterator[Settings]:
    """Settings with a Kafka that answers: our own, or the one that is named, with topics that go with the block."""
    if not settings.broker:
        async with local_kafka(settings) as broker:
            tell(broker)
            yield replace(settings, broker=broker.address)
        return
    prefix = f"{settings.topic_prefix}trial-{uuid.uuid4().hex[:8]}."
    console.print(f"Using the Kafka at {settings.broker}; the topics {prefix}* are removed in the end.")
    try:
        yield replace(settings, topic_prefix=prefix)
    finally:
        try:
            await remove_topics(settings.broker, prefix)
        except (KafkaError, OSError) as why:  # the first error, if there is one, is the one to tell
            console.print(f"The topics {prefix}* could not be removed: {why!r}")


async def remove_topics(broker: str, prefix: str) -> None:
    """Remove all topics that begin like this."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    try:
        await admin.start()
        await admin.delete_topics([topic for topic in await admin.list_topics() if topic.startswith(prefix)])
    finally:
        await admin.close()


@asynccontextmanager
async def a_worker(
    settings: Settings, log: Path, program: Sequence[str] = ("agents",)
) -> AsyncIterator[tuple[process.Process, aiohttp.ClientSession]]:
    """A worker that is ready, ended with the block, and a session that asks it.

    program: the module that runs it, with what that wants to be told first.
    """
    with log.open("wb") as output:
        command = [sys.executable, "-m", *program, "worker"]
        worker = await process.start(command, output=output, environ=settings.environ(os.environ))
    async with process.running(worker, STOP_S), aiohttp.ClientSession(settings.url) as session:
        give_up = time.monotonic() + READY_S
        while not await ready(session, settings.url):
            if worker.returncode is not None or time.monotonic() > give_up:
                raise TrialFailed(f"the worker did not become ready; its log is {log}")
            await asyncio.sleep(ASK_S)
        try:
            yield worker, session
        except TrialFailed as why:
            raise TrialFailed(f"{why}; the worker's log is {log}") from why


async def heard(session: aiohttp.ClientSession, project: str, receipt: Receipt) -> None:
    """Wait until the service has applied all that was published."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        status, answer = await get(session, f"/v1/projects/{project}/active-set?limit=1")
        as_of = answer.get("as_of", {})
        if status == 200 and all(as_of.get(topic, -1) >= offset for topic, offset in receipt.items()):
            return
        if time.monotonic() > give_up:
            raise TrialFailed(f"what was published ({receipt}) was not heard in {PATIENCE_S:.0f} s: {status} {answer}")
        await asyncio.sleep(0.02)


async def get(session: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    """Status and body of a GET."""
    try:
        async with session.get(path) as answer:
            return answer.status, await answer.json(content_type=None)
    except aiohttp.ClientError as why:
        raise TrialFailed(f"the worker does not answer: {why}") from why
