"""Who goes first: a person who waits for an answer goes before artifacts, of which the next ones come anyway."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LONGEST_S = 0.5  # that artifacts wait at a time; a lease takes less


class Turns:
    """Whether somebody waits, and who lets them go first.

    However many there are, work that lets others go first gets half of the time.
    """

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        """Nobody waits. longest_s: that work is held up at a time."""
        self._longest_s = longest_s
        self._waiting = 0
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._from = float("-inf")  # when work may be held up again

    @contextmanager
    def first(self) -> Iterator[None]:
        """While somebody waits."""
        self._waiting += 1
        self._nobody.clear()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._nobody.set()

    async def after_others(self) -> None:
        """Let those go first who wait: not for long, and not again before as much time has passed as that took."""
        now = asyncio.get_running_loop().time
        if self._nobody.is_set() or now() < self._from:
            return
        began = now()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._longest_s):
                await self._nobody.wait()
        self._from = now() + min(now() - began, self._longest_s)  # a process that was frozen has not waited
