"""A folder that one program at a time may use."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
