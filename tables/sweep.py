"""Sweeping: what a deletion made invisible goes from the tables, a slice at a time, between events.

Which rows these are is asked of the tables when a slice is made (tables/removals.py). A row tells what is to be swept,
and goes with the last slice: whoever takes the partition over meanwhile begins again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

from tables.removals import GOING, trimmed
from tables.rows import HASH_BYTES, SWEEPS, Change, Kind, Rows, prefix_of, project_of, sweep_of

SLICE = 1000  # rows that are looked at between two events: some milliseconds
RANGE = 20  # rows' worth of time that it takes to begin to look somewhere else


class Sweep:
    """The rows of a project, or of some of its media, one slice after the other."""

    def __init__(self, key: bytes, value: bytes, rows: Rows) -> None:
        """Nothing is looked at yet.

        key, value: the row that tells what is to be swept.
        done: whether there was a last slice.
        """
        self.key, self.value = key, value
        self.done = False
        self.project = project_of(key[len(SWEEPS) :])
        if key == sweep_of(self.project):
            self._ranges = deque(prefix_of(self.project, kind) for kind in GOING)
        else:
            self._ranges = deque(self._of_media(rows))
        self._after = b""

    def _of_media(self, rows: Rows) -> Iterator[bytes]:
        """What the keys of rows of the media begin with."""
        project = self.project
        heads = [prefix_of(project, Kind.UPLOAD), prefix_of(project, Kind.GRANT)]
        heads += [head for kind in (Kind.STATE, Kind.SCORE) for head in self._tasks(prefix_of(project, kind), rows)]
        for first in range(0, len(self.value), HASH_BYTES):
            whole = self.value[first : first + HASH_BYTES]
            yield from (head + whole for head in heads)

    @staticmethod
    def _tasks(prefix: bytes, rows: Rows) -> Iterator[bytes]:
        """What the keys of each task begin with, among rows of a kind."""
        after = prefix
        while found := next(iter(rows.scan(prefix, after)), None):
            head = found[0][: len(prefix) + HASH_BYTES]
            yield head
            # Behind the task's last medium, whose twelve bytes are no more than these.
            after = head + b"\xff" * 16

    def next(self, rows: Rows) -> list[Change]:
        """What goes in the next slice."""
        changes: list[Change] = []
        room = SLICE
        while self._ranges and room > 0:
            prefix = self._ranges[0]
            found = list(islice(rows.scan(prefix, self._after), room))
            kind = Kind(prefix[len(prefix_of(self.project))])
            if found:
                left = trimmed(self.project, kind, found, rows)
                changes += [(key, new) for (key, old), new in zip(found, left, strict=True) if new != old]
            if len(found) < room:
                self._ranges.popleft()
                self._after = b""
            else:
                self._after = found[-1][0] + b"\0"
            room -= len(found) + RANGE
        if self._ranges:
            return changes
        self.done = True
        # Told anew meanwhile, it is swept once more.
        again = rows.get([self.key]) != [self.value]
        return [*changes, *([] if again else [(self.key, None)])]


class Sweeper:
    """Sweeps what there is to sweep in a partition, for half of the time at most, until nothing is left."""

    def __init__(self, rows: Rows, tend: Callable[[Callable[[Rows], list[Change]]], Awaitable[bool]]) -> None:
        """Nothing is swept yet.

        tend: has rows changed between events; it answers no when the partition is gone.
        """
        self._rows = rows
        self._tend = tend
        self._task: asyncio.Task[None] | None = None
        self.failure: Exception | None = None

    def start(self) -> None:
        """Sweep, if nobody does."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Sweep no more."""
        if self._task is not None:
            self._task.cancel()

    async def over(self) -> None:
        """Wait until nothing is left."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while told := next(iter(self._rows.scan(SWEEPS)), None):
                sweep = Sweep(*told, self._rows)
                while not sweep.done:
                    began = time.monotonic()
                    if not await self._tend(sweep.next):
                        return
                    await asyncio.sleep(time.monotonic() - began)
        except Exception as why:  # noqa: BLE001 - told to the watch, which ends the worker
            self.failure = why
