"""Sweeping: what a deletion made invisible goes from the tables, a slice at a time, between events.

Which rows these are is asked of the tables when a slice is made (tables/removals.py). A row tells what is to be swept,
and goes with the last slice: whoever takes the partition over meanwhile begins again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain, islice

from tables.removals import GOING, trimmed
from tables.rows import HASH_BYTES, MEDIUM_BYTES, SWEEPS, Change, Kind, Rows, heads, prefix_of, project_of, sweep_of

SLICE = 1000  # rows that are looked at between two events: some milliseconds
RANGE = 20  # rows' worth of time that it takes to begin to look somewhere else
KEYS = 250  # that are asked for at once
ENTRY = HASH_BYTES + 1  # bytes of a medium in the row that tells what is to be swept

Step = list[bytes] | bytes  # keys, or what keys begin with


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
        # What keys of rows of the project begin with, or where rows of the media may be.
        of_project: Iterator[Step] = (prefix_of(self.project, kind) for kind in GOING)
        self._steps = of_project if key == sweep_of(self.project) else self._of_media(rows)
        self._range: bytes | None = None
        self._after = b""

    def _of_media(self, rows: Rows) -> Iterator[Step]:
        """Where rows of the media may be: of an image a key of each kind, of a video all that begins so."""
        told = [self.value[first : first + ENTRY] for first in range(0, len(self.value), ENTRY)]
        wholes = [each[:HASH_BYTES] for each in told]
        images = [each[:HASH_BYTES] + bytes(MEDIUM_BYTES - HASH_BYTES) for each in told if not each[HASH_BYTES]]
        videos = [each[:HASH_BYTES] for each in told if each[HASH_BYTES]]
        yield from grouped(prefix_of(self.project, Kind.UPLOAD), wholes)
        tasks = (
            heads(rows, prefix_of(self.project, kind), HASH_BYTES) for kind in (Kind.STATE, Kind.SCORE, Kind.LABEL)
        )
        yield from (prefix_of(self.project, Kind.SKIP) + each for each in wholes)
        for head in chain([prefix_of(self.project, Kind.GRANT)], *tasks):
            yield from grouped(head, images)
            yield from (head + each for each in videos)

    def next(self, rows: Rows) -> list[Change]:
        """What goes in the next slice."""
        found: list[tuple[bytes, bytes]] = []
        room = SLICE
        while room > 0:
            step = self._range or next(self._steps, None)
            if step is None:
                self.done = True
                break
            if isinstance(step, list):
                found += ((key, value) for key, value in zip(step, rows.get(step), strict=True) if value is not None)
                room -= len(step)
                continue
            part = list(islice(rows.scan(step, self._after), room))
            whole = len(part) < room
            self._range, self._after = (None, b"") if whole else (step, part[-1][0] + b"\0")
            found += part
            room -= len(part) + RANGE
        before = dict(found)
        changes = [(key, left) for key, left in trimmed(self.project, found, rows) if left != before[key]]
        # Told anew meanwhile, it is swept once more.
        if self.done and rows.get([self.key]) == [self.value]:
            changes.append((self.key, None))
        return changes


def grouped(head: bytes, rest: list[bytes]) -> Iterator[list[bytes]]:
    """Keys, some at a time."""
    for first in range(0, len(rest), KEYS):
        yield [head + each for each in rest[first : first + KEYS]]


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
