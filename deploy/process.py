"""Programs that are started and ended on purpose."""

import asyncio
import fcntl
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO

Process = asyncio.subprocess.Process
LEASH = Path(__file__).with_name("leash.py")


async def start(
    command: Sequence[str | Path],
    *,
    output: IO[bytes] | None = None,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    keeps: Sequence[int] = (),
) -> Process:
    """A program on a leash, in a session of its own: Ctrl-C reaches only us, and we end it in order.

    output: where its standard output and error go; ours, if none is given.
    folder: where it runs; where we do, if none is given.
    environ: its environment; ours, if none is given.
    keeps: file descriptors that stay open in it, such as a lock that it holds as long as it lives.
    """
    leashed = [sys.executable, "-I", str(LEASH), str(os.getpid()), *map(str, command)]
    return await asyncio.create_subprocess_exec(
        *leashed,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT if output else None,
        cwd=folder,
        env=environ,
        start_new_session=True,
        pass_fds=keeps,
    )


async def end(process: Process, patience_s: float) -> int:
    """End a program: SIGTERM, and SIGKILL when patience runs out; the answer is its exit status."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        return await asyncio.wait_for(process.wait(), patience_s)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        return await process.wait()


@asynccontextmanager
async def running(process: Process, patience_s: float) -> AsyncIterator[Process]:
    """The program, ended with the block, however that ends."""
    try:
        yield process
    finally:
        await asyncio.shield(end(process, patience_s))


@contextmanager
def only_one(path: Path, patience_s: float) -> Iterator[int]:
    """The lock on a file, held in this block and by every program that keeps the descriptor.

    Raises:
        BlockingIOError: somebody else holds it, and did not let go within the patience.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience_s
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield file.fileno()
