import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import process

HOUSE = Path(__file__).parents[2]
SLEEPER = "print('up', flush=True); import time; time.sleep(60)"
# Starts a sleeper on a leash, and waits for it.
PARENT = f"""
import asyncio, sys
from deploy import process
async def main():
    child = await process.start([sys.executable, "-c", {SLEEPER!r}])
    print("started", flush=True)
    await child.wait()
asyncio.run(main())
"""


async def start(code: str, output: Path, *keeps: int) -> process.Process:
    """A program that has printed its first line."""
    with output.open("wb") as file:
        started = await process.start([sys.executable, "-c", code], output=file, keeps=keeps)
    while not output.read_bytes():
        await asyncio.sleep(0.01)
    return started


async def test_a_program_ends_with_the_block_that_runs_it(tmp_path: Path) -> None:
    sleeper = await start(SLEEPER, tmp_path / "out")

    with pytest.raises(ZeroDivisionError):
        async with process.running(sleeper, 10):
            raise ZeroDivisionError

    assert sleeper.returncode == -signal.SIGTERM


async def test_a_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    stubborn = await start("import signal; signal.signal(15, signal.SIG_IGN); " + SLEEPER, tmp_path / "out")

    assert await process.end(stubborn, 0.1) == -signal.SIGKILL


async def test_a_program_is_in_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    sleeper = await start(SLEEPER, tmp_path / "out")

    async with process.running(sleeper, 10):
        assert os.getsid(sleeper.pid) == sleeper.pid != os.getsid(0)


async def test_what_a_program_has_started_ends_with_it(tmp_path: Path) -> None:
    starter = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}], close_fds=False)"
    reading, writing = os.pipe()  # closes when nobody holds the writing end any more
    started = await start(starter, tmp_path / "out", writing)
    os.close(writing)

    await process.end(started, 10)

    assert os.read(reading, 1) == b""
    os.close(reading)


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's")
def test_a_program_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=HOUSE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        lines = {parent.stdout.readline(), parent.stdout.readline()}
        assert "up\n" in lines

        parent.kill()

        assert parent.stdout.read() == ""  # the pipe closes when nobody holds it any more: the child is gone


def test_a_program_whose_parent_is_gone_already_does_not_start() -> None:
    other_than_ours = "1" if os.getpid() != 1 else "2"

    ended = subprocess.run(
        [sys.executable, str(process.LEASH), other_than_ours, "echo", "started"], capture_output=True
    )

    assert (ended.returncode, ended.stdout) == (1, b"")
