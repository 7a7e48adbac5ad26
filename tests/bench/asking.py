"""A client of few words on one connection: what it takes itself hides little of what the server does."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from yarl import URL

from deploy.trial import TrialFailed


@dataclass
class Asking:
    """A connection to a worker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def get(self, path: str) -> bytes:
        """The body of an answer, which must be 200."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await self.reader.readexactly(int(length.split(b":")[1]))
        if not head.startswith(b"HTTP/1.1 200 "):
            raise TrialFailed(f"{path}: {head[:100]!r} {body[:300]!r}")
        return body

    async def ms(self, path: str) -> float:
        """The milliseconds that an answer takes."""
        began = time.perf_counter()
        await self.get(path)
        return (time.perf_counter() - began) * 1000


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Asking]:
    """A connection, closed with the block."""
    host = URL(url)
    reader, writer = await asyncio.open_connection(host.host, host.port)
    try:
        yield Asking(reader, writer)
    finally:
        writer.close()


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile, as of milliseconds: .99 is what one of a hundred exceeds."""
    return float(np.quantile(values, share))
