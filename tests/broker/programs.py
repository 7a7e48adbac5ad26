"""Programs of ours as tests and the chaos start them: real processes, each with folders and a port of its own."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from deploy import process
from deploy.kafka import free_ports
from streams.settings import Settings
from streams.tls import at_home

HOUSE = Path(__file__).parents[2]
PATIENCE_S = 60.0  # for what takes seconds on an idle machine
WORKER = ("agents", "worker")
ALL = list(range(8))  # partitions


@dataclass
class Program:
    """A program of ours that was started."""

    process: process.Process
    log: Path
    url: str
    state: Path
    cert: Path | None

    def said(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until it prints something."""
        found: re.Match[str] = await until(lambda: re.search(pattern, self.said()), self)
        return found

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and body of a GET; status 0 if nobody answers."""
        trust = at_home(Settings(tls_cert=self.cert))
        try:
            async with aiohttp.ClientSession() as session, session.get(self.url + path, ssl=trust) as answer:
                return answer.status, json.loads(await answer.read())
        except aiohttp.ClientError:
            return 0, None

    async def partitions(self) -> list[int]:
        """The partitions it owns; none while it is not ready."""
        status, body = await self.get("/readyz")
        return body["partitions"] if status == 200 else []

    async def ends(self) -> int:
        """Wait until it ends by itself; its exit status."""
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        self.process.terminate()
        return await self.ends()


Start = Callable[..., Awaitable[Program]]


@asynccontextmanager
async def starting(folder: Path) -> AsyncIterator[Start]:
    """Starts programs of ours, each with folders and a port of its own, and ends them with the block.

    folder: for their logs, and their state where no other folder is named.
    """
    async with AsyncExitStack() as stack:
        count = 0

        async def start(
            *command: str, proxy: str | None = None, wrapper: Sequence[str] = (), **settings: object
        ) -> Program:
            nonlocal count
            count += 1
            port = free_ports(1)[0]
            state = folder / f"state-{count}"
            environ = {
                **os.environ,
                "ACTIVESET_STATE_DIR": str(state),
                "ACTIVESET_WEB_PORT": str(port),
                "ACTIVESET_SESSION_TIMEOUT_S": "6",
                **{f"ACTIVESET_{name.upper()}": str(value) for name, value in settings.items()},
            }
            if proxy:  # what is fetched goes by there, and no Maven is asked
                environ |= {"https_proxy": proxy, "HTTPS_PROXY": proxy, "PATH": str(folder / "empty-path")}
            log = folder / f"log-{count}"
            with log.open("wb") as output:
                started = await process.start(
                    [*wrapper, sys.executable, "-m", *command], output=output, environ=environ, folder=HOUSE
                )
            await stack.enter_async_context(process.running(started, 30))
            cert: Any = settings.get("tls_cert")
            scheme = "https" if cert else "http"
            return Program(started, log, f"{scheme}://127.0.0.1:{port}", state, cert)

        yield start


async def until(true: Callable[[], Any], *programs: Program) -> Any:
    """Wait until something is true of programs that run; fail with what they said if it does not come true.

    true: a function, or a coroutine function, that answers whether it is so.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + PATIENCE_S
    while True:
        answer = true()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        if loop.time() > give_up or any(each.process.returncode is not None for each in programs):
            raise AssertionError("it did not come true\n" + "\n".join(each.said() for each in programs))
        await asyncio.sleep(0.05)
