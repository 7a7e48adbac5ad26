"""A Kafka that is killed, frozen and started again: at the same address, on the same disk."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self
from unittest.mock import patch

from deploy import kafka
from streams.port import try_to_listen
from streams.settings import Settings
from tests.chaos.wire import Wire

# No client's own port is taken from here: while Kafka is away, one of those that ask for it would get its port.
PORTS = range(21_000, 32_000)
KEPT = ("ACTIVESET_CACHE_DIR", "ACTIVESET_JAVA")  # of the machine's settings


def quiet_port() -> int:
    """A port that nobody listens on, and that nobody is given by chance."""
    random = Random()
    while True:
        port = random.choice(PORTS)
        with suppress(OSError):
            try_to_listen("127.0.0.1", port)
            return port


@dataclass
class Broker:
    """The Kafka of a run.

    away: whether it is frozen or gone just now.
    wire: another way to it, for one worker at a time.
    """

    folder: Path
    port: int = field(default_factory=quiet_port)
    wire: Wire = field(default_factory=lambda: Wire(quiet_port(), quiet_port()))
    wired: asyncio.Lock = field(default_factory=asyncio.Lock)
    away: bool = False
    _running: kafka.LocalKafka | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def address(self) -> str:
        """Where it is asked."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.wire.__aenter__()
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None
    ) -> None:
        self.wake()
        await self.wire.__aexit__(kind, why, at)
        await self._stack.aclose()

    async def start(self) -> None:
        """Start it on its disk; it answers when this returns."""
        known = {name: os.environ[name] for name in KEPT if name in os.environ}
        settings = Settings.from_environ(
            {**known, "ACTIVESET_STATE_DIR": str(self.folder), "ACTIVESET_KAFKA_PORT": str(self.port)}
        )
        with patch.object(kafka, "PROPERTIES", self._with_wire(kafka.PROPERTIES)):
            self._running = await self._stack.enter_async_context(kafka.local_kafka(settings))
        self.away = False

    def _with_wire(self, properties: str) -> str:
        """The same, and who asks where the wire ends is told where it begins."""
        for name, port in (("listeners", self.wire.to), ("advertised.listeners", self.wire.port)):
            properties = properties.replace(f"\n{name}=PLAINTEXT:", f"\n{name}=WIRE://127.0.0.1:{port},PLAINTEXT:")
        known = ",".join(f"{name}:PLAINTEXT" for name in ("WIRE", "PLAINTEXT", "CONTROLLER"))
        return f"{properties}\nlistener.security.protocol.map={known}\n"

    async def kill(self) -> None:
        """SIGKILL."""
        assert self._running
        self.away = True
        with suppress(ProcessLookupError):
            self._running.process.kill()
        await self._running.process.wait()
        await self._stack.aclose()

    async def pause(self, how_long_s: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        assert self._running
        self.away = True
        try:
            os.kill(self._running.process.pid, signal.SIGSTOP)
            await asyncio.sleep(how_long_s)
        finally:
            self.wake()

    def wake(self) -> None:
        """SIGCONT."""
        if self._running and self._running.process.returncode is None:
            os.kill(self._running.process.pid, signal.SIGCONT)
        self.away = False
