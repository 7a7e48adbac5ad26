"""What figures must be, what they should be, and below what CI fails: one table, with the reasons."""

from typing import NamedTuple


class Limit(NamedTuple):
    """What a figure must be at least, or at the most.

    goal: what it should be. ci: what fails in CI, where that measures it: half of what it must be, or of what it
    truly is where that is out of reach. why: it is out of reach.
    """

    must: float
    goal: float | None = None
    least: bool = True
    ci: float | None = None
    why: str = ""

    def kept(self, found: float) -> bool:
        """Whether a figure is as it must be."""
        return found >= self.must if self.least else found <= self.must

    def reached(self, found: float) -> bool:
        """Whether a figure is as it should be."""
        return self.goal is not None and (found >= self.goal if self.least else found <= self.goal)

    def told(self) -> str:
        """The same in words."""
        goal = "" if self.goal is None else f", goal {self.goal:g}"
        return f"at {'least' if self.least else 'most'} {self.must:g}{goal}"

    def judged(self, found: float) -> str:
        """How a figure lies to it."""
        if self.reached(found):
            return "goal reached"
        return "kept" if self.kept(found) else "MISSED"


def least(must: float, goal: float | None = None, ci: float | None = None, why: str = "") -> Limit:
    """A figure that must be so much."""
    return Limit(must, goal, True, must / 2 if ci is None else ci, why)


def most(must: float, goal: float | None = None, why: str = "") -> Limit:
    """A figure that must be no more."""
    return Limit(must, goal, False, None, why)


LOOP = "its own parts in a plain loop do not reach it: what decodes, scores and encodes is the same on both sides"
PRODUCTS = "scikit-learn's time is two matrix products at full speed, and one is the least"

LIMITS: dict[str, Limit] = {
    "ingest.features.cpu": least(12, 25, 2.5, LOOP),
    "ingest.probabilities.cpu": least(25, 40, 4.5, LOOP),
    "ingest.features.loop": least(0.6, 0.8),
    "ingest.probabilities.loop": least(0.6, 0.8),
    "ingest.lease.p99": most(500),
    "ingest.step.longest": most(10),
    "quix.features": least(1.5, 3),
    "scoring.64": least(2, 5, 0.9, PRODUCTS),
    "scoring.256": least(3, 5, 1.0, PRODUCTS),
    "scoring.1024": least(3, 5, 1.1, PRODUCTS),
    "scoring.error": most(1e-4),
    "scoring.livez.p99": most(20),
    "retrieval.kept": most(1.5, 1.2),
    "retrieval.anew": most(4, 2),
    "retrieval.size": most(1.2, 1.0),
    "retrieval.other": most(2, 1.5),
    "retrieval.ingest": most(2, 1.5),
    "retrieval.diverse.added": most(5),
    "retrieval.marked": most(30),
    "recovery.faust": least(20, 40),
    "recovery.bare": least(0.5, 0.75),
    "ranking.build": least(0.3, 0.5),
    "ranking.bytes": most(250),
    "ranking.cpu": most(1),
    "scaling.flat": most(1.2),
}
