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
from tables.rows import HASH_BYTES, MEDIUM_BYTES, SWEEPS, Change, Kind, Rows, prefix_of, project_of, sweep_of

SLICE = 1000  # rows that are looked at between two events: some milliseconds
RANGE = 20  # rows' worth of time that it takes to begin to look somewhere else
ENTRY = HASH_BYTES + 1  # bytes of a medium in the row that tells what is to be swept


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
        self._head = len(prefix_of(self.project))
        self._keys: deque[bytes] = deque()
        self._ranges: deque[bytes] = deque()
        self._after = b""
        if key == sweep_of(self.project):
            self._ranges += (prefix_of(self.project, kind) for kind in GOING)
        else:
            self._of_media(rows)

    def _of_media(self, rows: Rows) -> None:
        """Where rows of the media may be: of an image a key of each kind, of a video all that begins so."""
        uploads, others = prefix_of(self.project, Kind.UPLOAD), [prefix_of(self.project, Kind.GRANT)]
        for kind in (Kind.STATE, Kind.SCORE):
            others += self._tasks(prefix_of(self.project, kind), rows)
        for first in range(0, len(self.value), ENTRY):
            whole, video = self.value[first : first + HASH_BYTES], self.value[first + HASH_BYTES]
            self._keys.append(uploads + whole)
            if video:
                self._ranges += (head + whole for head in others)
            else:
                self._keys += (head + whole + bytes(MEDIUM_BYTES - HASH_BYTES) for head in others)

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
        found: list[tuple[bytes, bytes]] = []
        room = SLICE
        while self._keys and room > 0:
            keys = [self._keys.popleft() for _ in range(min(room, len(self._keys)))]
            found += ((key, value) for key, value in zip(keys, rows.get(keys), strict=True) if value is not None)
            room -= len(keys)
        while self._ranges and room > 0:
            part = list(islice(rows.scan(self._ranges[0], self._after), room))
            if len(part) < room:
                self._ranges.popleft()
                self._after = b""
            else:
                self._after = part[-1][0] + b"\0"
            found += part
            room -= len(part) + RANGE
        changes = [*self._trimmed(found, rows)]
        if self._keys or self._ranges:
            return changes
        self.done = True
        # Told anew meanwhile, it is swept once more.
        again = rows.get([self.key]) != [self.value]
        return [*changes, *([] if again else [(self.key, None)])]

    def _trimmed(self, found: list[tuple[bytes, bytes]], rows: Rows) -> Iterator[Change]:
        """The rows that go, or become less."""
        of_kind: dict[int, list[tuple[bytes, bytes]]] = {}
        for key, value in found:
            of_kind.setdefault(key[self._head], []).append((key, value))
        for kind, each in of_kind.items():
            left = trimmed(self.project, Kind(kind), each, rows)
            yield from ((key, new) for (key, old), new in zip(each, left, strict=True) if new != old)


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
