"""The pulse: whether a worker gets on, or only looks as if it lived.

A worker that has nothing to do is well. One that has something to do and gets nothing done for long cannot heal by
itself: whoever runs it must know, and it must end, so that others take its partitions over.
"""

from dataclasses import dataclass

LOOK_S = 15.0  # longer than a look at the worker may take


@dataclass
class Pulse:
    """How long a worker, or a part of it, has had something to do without getting anything done.

    stalled_s: seconds; of those between two looks few count, for the worker itself may have been frozen or asleep.
    """

    stall_s: float
    stalled_s: float = 0.0
    _last: float | None = None
    _done: int = 0

    def beat(self, now: float, *, busy: bool, done: int) -> None:
        """Look at the worker.

        now: seconds, from any moment on. busy: whether there is something to do.
        done: a number that changes when something was done.
        """
        if self._last is None or not busy or done != self._done:
            self.stalled_s, self._done = 0.0, done
        else:
            self.stalled_s += min(now - self._last, LOOK_S)
        self._last = now

    @property
    def stalled(self) -> bool:
        """Whether it will not get on by itself any more."""
        return self.stalled_s >= self.stall_s
