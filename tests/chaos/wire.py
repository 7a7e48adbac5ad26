"""A wire between a worker and Kafka, on which what is sent can be held up: cut off, and heard late."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024


class Wire:
    """Connections to a port, forwarded to another one while the wire is whole.

    whole: whether what is sent goes on; what was held up goes on with it, as what TCP sends again.
    """

    def __init__(self, port: int, to: int) -> None:
        """Nobody listens yet."""
        self.port = port
        self.to = to
        self.whole = asyncio.Event()
        self.whole.set()
        self._ends: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """Where it is listened on."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None
    ) -> None:
        self._server.close()
        for each in self._ends:
            each.cancel()
        await asyncio.gather(*self._ends, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, here = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.close()
            return
        for ends in ((reader, here), (there, writer)):
            end = asyncio.create_task(self._forward(*ends))
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self.whole.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
