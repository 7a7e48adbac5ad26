"""The fail-point program: `python -m tests.faults POINT N DEED worker`.

Runs `python -m agents worker` as it is, but for one thing: when it passes a point for the N-th time, it does a deed to
its own process, having said so on standard error ("fault: freeze at send"). The points are seams that the product has
anyway, wrapped here; it knows nothing of them.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from agents import __main__ as program  # first: it sets how numpy's libraries are loaded
from agents.worker import Worker
from tables.batch import Writer
from tables.store import Store

# By what a worker publishes everything that is no row; `publish` waits for it.
SENDS = "send" if hasattr(Worker, "send") else "publish"
DEEDS = {"freeze": signal.SIGSTOP, "kill": signal.SIGKILL}


class Point(NamedTuple):
    """A method, whether the point is where it begins or where it has returned, and what that means."""

    owner: type
    method: str
    begins: bool
    meaning: str


POINTS = {
    "take": Point(Writer, "start", True, "a partition was assigned, and who had it before is about to be shut out"),
    "send": Point(Writer, "append", True, "rows were read and folded, nothing was sent yet"),
    "acknowledged": Point(Writer, "append", False, "the changelog has the rows, RocksDB has not"),
    "written": Point(Store, "write", False, "RocksDB has the rows; only writes that come after the first append count"),
    "publish": Point(Worker, SENDS, True, "something is about to be published beside the changelog"),
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


def main(arguments: list[str]) -> int:
    """Run a worker with a fault; the answer is the exit status, should it end by itself."""
    points = "; ".join(f"{name}: {point.meaning}" for name, point in POINTS.items())
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="A worker with a fault.", epilog=points)
    parser.add_argument("point", choices=POINTS, metavar="POINT", help=f"where: {', '.join(POINTS)}")
    parser.add_argument("passage", type=int, metavar="N", help="the how manieth passage, from 1 on")
    parser.add_argument("deed", choices=DEEDS, metavar="DEED", help=f"what: {', '.join(DEEDS)}")
    parser.add_argument("command", choices=["worker"])
    given = parser.parse_args(arguments)
    if given.passage < 1:
        parser.error(f"N must be at least 1, not {given.passage}")
    Fault(given.point, given.passage, given.deed).wrap()
    return program.main([given.command])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
