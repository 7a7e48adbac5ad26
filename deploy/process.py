"""Programs that are started and ended on purpose."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

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
        await end(process, patience_s)


async def aside(work: Callable[[], T]) -> T:
    """The result of work that blocks, done in a thread.

    Unlike `asyncio.to_thread`, nobody waits for the thread if we are cancelled: it ends with the process.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            done = work()
        except BaseException as why:  # noqa: BLE001 - handed to who waits
            tell(result.set_exception, why)
        else:
            tell(result.set_result, done)

    def tell(how: Callable[[Any], None], what: object) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(lambda: None if result.done() else how(what))

    threading.Thread(target=run, daemon=True).start()
    return await result
