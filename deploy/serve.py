"""A local Kafka, and one worker beside it, until a signal: what `make serve` runs."""

import asyncio
import os
import ssl
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace

import aiohttp
from rich.console import Console

from deploy import jars, process
from deploy.kafka import LocalKafka, local_kafka
from streams import tls
from streams.errors import BadSettings
from streams.settings import Settings

STOP_S = 20.0  # a worker takes up to 15 s to end in order
GONE_S = 2.0  # without its Kafka it cannot
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
SETTLED_S = 60.0  # a worker that ran so long has recovered: the pauses begin anew
ASK_S = 0.2

console = Console(stderr=True, highlight=False, soft_wrap=True)


async def kafka(settings: Settings) -> int:
    """Run a local Kafka until it ends or we are cancelled; its address goes to standard output."""
    async with local_kafka(settings) as broker:
        tell(broker)
        print(broker.address, flush=True)
        return await broker.lives()


async def serve(settings: Settings) -> int:
    """Run a Kafka, unless one is named, and a worker, until one ends for good or we are cancelled.

    The answer is the exit status.

    Raises:
        BadSettings: the certificate cannot be used.
    """
    tls.check(settings)
    async with AsyncExitStack() as stack:
        broker = None
        parts: list[asyncio.Task[int]] = []
        if not settings.broker:
            broker = await stack.enter_async_context(local_kafka(settings))
            tell(broker)
            settings = replace(settings, broker=broker.address)
            parts.append(asyncio.create_task(broker.lives()))
        parts.append(asyncio.create_task(supervise(settings, broker)))
        try:
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            return ended.pop().result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)  # the worker first, while Kafka still answers


async def supervise(settings: Settings, broker: LocalKafka | None) -> int:
    """Run a worker, and again when it ends by itself, with growing pauses; return only if its settings are wrong."""
    pause_s = FIRST_PAUSE_S
    environ = settings.environ(os.environ)
    while True:
        began = time.monotonic()
        worker = await process.start([sys.executable, "-m", "agents", "worker"], environ=environ)
        greeting = asyncio.create_task(greet(settings))
        try:
            status = await worker.wait()
        finally:
            greeting.cancel()
            gone = broker is not None and broker.process.returncode is not None
            await process.end(worker, GONE_S if gone else STOP_S)
        if status == BadSettings.exit_status:
            return status
        if time.monotonic() - began > SETTLED_S:
            pause_s = FIRST_PAUSE_S
        console.print(f"The worker ended by itself (exit status {status}); it starts again in {pause_s:.0f} s.")
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def greet(settings: Settings) -> None:
    """Say where everything is, as soon as the worker is ready."""
    url, trust = settings.url, tls.at_home(settings)
    async with aiohttp.ClientSession() as session:
        while not await ready(session, url, trust):
            await asyncio.sleep(ASK_S)
    console.print("[bold green]Activeset is ready.[/] Ctrl-C stops it.")
    console.print(f"  broker  {settings.broker}")
    console.print(f"  web     {url}/readyz")
    console.print(f"  state   {settings.state_dir.absolute()}")


async def ready(session: aiohttp.ClientSession, url: str, trust: ssl.SSLContext | bool = True) -> bool:
    """Whether the worker, which is trusted, says that it is ready."""
    try:
        async with session.get(f"{url}/readyz", ssl=trust, timeout=aiohttp.ClientTimeout(2)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def tell(broker: LocalKafka) -> None:
    """Say what was started."""
    console.print(
        f"Apache Kafka {jars.VERSION} answers at {broker.address} (Java {broker.java.version}: {broker.java.path}; "
        f"log: {broker.log})."
    )
