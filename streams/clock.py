"""The time as Kafka tells it: the same for all workers, whatever the clocks of their machines say.

A lease that one worker grants until a time is over for another when its own clock says so: by clocks that are an hour
apart a medium would be in two leases at once.
"""

from collections.abc import Callable


class Clock:
    """Kafka's time, as soon as it has told it; until then that of the machine."""

    def __init__(self, wall_ms: Callable[[], int], steady_s: Callable[[], float]) -> None:
        """Nothing is told yet.

        wall_ms: the machine's time, in milliseconds since the epoch. steady_s: seconds since any moment, which nobody
        sets.
        """
        self._wall_ms = wall_ms
        self._steady_s = steady_s
        self._zero_ms: float | None = None  # Kafka's time when the steady clock was at 0

    @property
    def told(self) -> bool:
        """Whether Kafka has told its time."""
        return self._zero_ms is not None

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self._wall_ms() if self._zero_ms is None else round(self._zero_ms + 1000 * self._steady_s())

    def hear(self, asked_s: float, told_ms: int, heard_s: float) -> None:
        """Kafka's time was so, when the steady clock was between two times: what is known moves no further than that.

        >>> clock = Clock(lambda: 0, lambda: 5.0)
        >>> clock.hear(1.0, 1_000_000, 3.0)
        >>> clock.now_ms()
        1003000
        >>> clock.hear(4.0, 1_003_100, 4.5)
        >>> clock.now_ms()
        1003600
        """
        earliest, latest = told_ms - 1000 * heard_s, told_ms - 1000 * asked_s
        known = (earliest + latest) / 2 if self._zero_ms is None else self._zero_ms
        self._zero_ms = min(max(known, earliest), latest)
