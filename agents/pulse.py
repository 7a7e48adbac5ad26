"""The pulse: whether a worker gets on, or only looks as if it lived.

A worker that has nothing to do is well. One that has something to do and gets nothing done for long cannot heal by
itself: whoever runs it must know, and it must end, so that others take its partitions over.
"""

from dataclasses import dataclass


@dataclass
class Pulse:
    """How long a worker has had something to do without getting anything done."""

    stall_s: float
    _since: float | None = None
    _done: int = 0
    stalled_s: float = 0.0

    def beat(self, now: float, *, busy: bool, done: int) -> None:
        """Look at the worker.

        now: seconds, from any moment on. busy: whether there is something to do.
        done: a number that changes when something was done.
        """
        if self._since is None or not busy or done != self._done:
            self._since, self._done = now, done
        self.stalled_s = now - self._since

    @property
    def stalled(self) -> bool:
        """Whether it will not get on by itself any more."""
        return self.stalled_s >= self.stall_s
