"""The fail-point program: `python -m tests.faults WORDS worker`.

Runs `python -m agents worker` as it is, but for what the words say, any of these one after the other:

    POINT N DEED    when it passes a point for the N-th time, it does a deed to its own process
    clock SECONDS   its clock is so far ahead, or behind
    without CURE    what prevents some harm is taken out (tests/faults/cures.py)

The points are seams that the product has anyway, wrapped here; it knows nothing of them.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from aiokafka.producer import AIOKafkaProducer

from agents import __main__ as program  # first: it sets how numpy's libraries are loaded
from agents.worker import Worker
from streams.overrides import OurConsumer
from tables import batch
from tables.batch import Writer
from tables.store import Store
from tests.faults.cures import CURES

# By what a worker publishes everything that is no row; `publish` waits for it.
SENDS = "send" if hasattr(Worker, "send") else "publish"
DEEDS = {"freeze": signal.SIGSTOP, "kill": signal.SIGKILL}
SMALL_BATCH = 256  # bytes: then the rows of nearly every event are several batches


class Point(NamedTuple):
    """A method, whether the point is where it begins or where it has returned, and what that means.

    often: how often it is passed in some seconds under load, at the least.
    """

    owner: type
    method: str
    begins: bool
    meaning: str
    often: int = 30


POINTS = {
    "take": Point(
        Writer, "start", True, "a partition was assigned, and who had it before is about to be shut out", often=1
    ),
    "restored": Point(
        Store, "write_batch", False, "a slice of the changelog was restored, or rows were written", often=5
    ),
    "send": Point(Writer, "append", True, "rows were read and folded, nothing was sent yet"),
    "between": Point(AIOKafkaProducer, "send_batch", False, "one of several batches of a transaction was sent"),
    "commit": Point(
        AIOKafkaProducer, "commit_transaction", True, "the changelog has the rows, and they are not committed"
    ),
    "acknowledged": Point(Writer, "append", False, "the changelog has the rows, RocksDB has not"),
    "written": Point(
        Store, "write_batch", False, "RocksDB has the rows; only writes that come after the first append count"
    ),
    "offsets": Point(OurConsumer, "_commit", True, "the offsets of what is done are about to be told to the group", 5),
    "publish": Point(Worker, SENDS, True, "something is about to be published beside the changelog", often=10),
}


class Fault:
    """What happens at the N-th passage of a point."""

    def __init__(self, name: str, passage: int, deed: str) -> None:
        """Wraps nothing yet."""
        self._point = POINTS[name]
        self._name = name
        self._left = passage
        self._deed = deed
        self._armed = name != "written"  # what is written before is restored

    def pass_by(self) -> None:
        """Count a passage; at the last one the deed is done."""
        if not self._armed:
            return
        self._left -= 1
        if not self._left:
            print(f"fault: {self._deed} at {self._name}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), DEEDS[self._deed])

    def wrap(self) -> None:
        """Put the fault in its place."""
        if self._name == "between":
            batch.BATCH_BYTES = SMALL_BATCH
        if not self._armed:
            self._after(Writer, "append", self._arm)
        if self._point.begins:
            self._before(self._point.owner, self._point.method, self.pass_by)
        else:
            self._after(self._point.owner, self._point.method, self.pass_by)

    def _arm(self) -> None:
        self._armed = True

    @staticmethod
    def _before(owner: type, method: str, what: Callable[[], None]) -> None:
        whole = getattr(owner, method)

        def wrapped(*given: Any, **named: Any) -> Any:
            what()
            return whole(*given, **named)

        setattr(owner, method, wrapped)

    @staticmethod
    def _after(owner: type, method: str, what: Callable[[], None]) -> None:
        whole = getattr(owner, method)

        def wrapped(*given: Any, **named: Any) -> Any:
            answer = whole(*given, **named)
            if hasattr(answer, "__await__"):
                return awaited(answer)
            what()
            return answer

        async def awaited(answer: Any) -> Any:
            told = await answer
            what()
            return told

        setattr(owner, method, wrapped)


def set_clock(by_s: int) -> None:
    """Have the clock of this process be wrong; what measures how long something takes goes on."""
    time_s, time_ns = time.time, time.time_ns
    time.time = lambda: time_s() + by_s
    time.time_ns = lambda: time_ns() + by_s * 1_000_000_000


def usage(why: str) -> int:
    """Say how it is called."""
    points = "\n".join(f"  {name:13} {point.meaning}" for name, point in POINTS.items())
    cures = "\n".join(f"  {name:13} {cure.__doc__}" for name, cure in CURES.items())
    print(f"{__doc__}\nPOINT:\n{points}\nDEED: {', '.join(DEEDS)}\nCURE:\n{cures}\n\n{why}", file=sys.stderr)
    return 2


def main(arguments: list[str]) -> int:
    """Run a worker with something wrong; the answer is the exit status, should it end by itself."""
    words = arguments
    while True:
        match words:
            case ["worker"]:
                return program.main(words)
            case ["clock", by_s, *rest] if by_s.lstrip("-").isdigit():
                set_clock(int(by_s))
            case ["without", cure, *rest] if cure in CURES:
                CURES[cure]()
            case [point, passage, deed, *rest] if point in POINTS and deed in DEEDS and passage.isdigit():
                if int(passage) < 1:
                    return usage(f"N must be at least 1, not {passage}")
                Fault(point, int(passage), deed).wrap()
            case ["-h" | "--help", *_]:
                return usage("") and 0
            case _:
                return usage(f"not understood: {' '.join(words) or 'nothing'}")
        words = rest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
