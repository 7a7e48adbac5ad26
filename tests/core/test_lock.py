import subprocess
import sys
from pathlib import Path

import pytest

from streams.lock import held, held_soon


def test_a_lock_is_held_once_and_by_who_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with held(path) as lock:
        with pytest.raises(BlockingIOError), held(path):
            pass
        keeper = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[lock]
        )

    with pytest.raises(BlockingIOError), held(path):
        pass
    keeper.communicate(b"\n")
    with held(path):
        pass


async def test_a_lock_is_waited_for_as_long_as_patience_lasts(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path) as lock:
        with pytest.raises(BlockingIOError):
            async with held_soon(path, 0.1):
                pass
        keeper = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[lock]
        )

    assert keeper.stdin is not None
    keeper.stdin.close()
    async with held_soon(path, 60):
        assert keeper.wait() is not None
