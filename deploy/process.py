"""Programs that are started and ended on purpose."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

Process = asyncio.subprocess.Process
LEASH = Path(__file__).with_name("leash.py")


async def start(
    command: Sequence[str | Path],
    *,
    output: IO[bytes] | None = None,
    said: bool = False,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    keeps: Sequence[int] = (),
) -> Process:
    """A program on a leash, in a session of its own: Ctrl-C reaches only us, and we end it in order.

    output: where its standard output and error go; ours, if none is given.
    said: its standard output is for us to read; its standard error is ours.
    folder: where it runs; where we do, if none is given.
    environ: its environment; ours, if none is given.
    keeps: file descriptors that stay open in it, such as a lock that it holds as long as it lives.
    """
    leashed = [sys.executable, "-I", str(LEASH), str(os.getpid()), *map(str, command)]
    return await asyncio.create_subprocess_exec(
        *leashed,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if said else output,
        stderr=asyncio.subprocess.STDOUT if output else None,
        cwd=folder,
        env=environ,
        start_new_session=True,
        pass_fds=keeps,
    )


async def end(process: Process, patience_s: float) -> int:
    """End a program and what it has started: SIGTERM, and SIGKILL when patience runs out. Answers its exit status."""
    if process.returncode is not None:
        return process.returncode
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)  # it leads a session of its own
    try:
        return await asyncio.wait_for(process.wait(), patience_s)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return await process.wait()


@asynccontextmanager
async def running(process: Process, patience_s: float) -> AsyncIterator[Process]:
    """The program, ended with the block, however that ends."""
    try:
        yield process
    finally:
        await end(process, patience_s)
