"""A folder that one program at a time may use."""

import asyncio
import fcntl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

AGAIN_S = 0.1


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[int]:
    """The lock on a file, in this block and in every program that keeps the descriptor.

    wait: block until who has it lets it go.

    Raises:
        BlockingIOError: somebody else has it.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file.fileno()


@asynccontextmanager
async def held_soon(path: Path, patience_s: float) -> AsyncIterator[int]:
    """The same, waited for: `BlockingIOError` only when patience has run out."""
    until = time.monotonic() + patience_s
    with ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(held(path))
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(AGAIN_S)
        yield lock
