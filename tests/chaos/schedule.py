"""The schedule: what befalls whom, when, and for how long, all of it from one seed, before anything begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

NAMES = "ABC"
KAFKA = "Kafka"


class Kind(NamedTuple):
    """A kind of fault.

    of: whom it befalls: a worker, Kafka, or (of `both`) Kafka and a worker.
    lasts_s: of how many seconds, from and to. away_s: the longest time until who was ended is back.
    times: from and to, of what the fault counts: passages of a place in the code, restarts, MiB.
    weight: how often it comes by chance, against others; of 0 it comes only where it is asked for.
    aside: whether others may go on meanwhile.
    """

    meaning: str
    of: str = "worker"
    lasts_s: tuple[float, float] = (0.0, 0.0)
    away_s: float = 0.0
    times: tuple[int, int] = (0, 0)
    weight: int = 1
    aside: bool = False


@dataclass(frozen=True)
class Step:
    """One fault.

    place: whose worker; empty, if none's.
    pause_s: before it. well: whether it waits before that until all is well again.
    """

    number: int
    fault: str
    place: str
    pause_s: float
    well: bool
    lasts_s: float
    away_s: float
    count: int
    aside: bool

    def __str__(self) -> str:
        when = f"{self.pause_s:4.1f} s later" + (", when all is well" if self.well else "")
        whom = self.place or KAFKA
        about = [f"{self.lasts_s:.1f} s"] if self.lasts_s else []
        about += [f"{self.count} times"] if self.count else []
        about += [f"back after {self.away_s:.1f} s"] if self.away_s else []
        about += ["others go on"] if self.aside else []
        return f"{self.number:3}. {when:31} {whom:5} {self.fault:18} {', '.join(about)}"


def by_chance(seed: int, count: int, kinds: Mapping[str, Kind]) -> list[Step]:
    """A schedule of so many faults: each kind about as often as its weight says, one after the other."""
    random = Random(f"schedule {seed}")
    names: list[str] = []
    while len(names) < count:  # shuffled rounds: no kind is left out for long
        names += random.sample(bag := [name for name, kind in kinds.items() for _ in range(kind.weight)], len(bag))
    return steps(random, names[:count], kinds, calm=0.5)


def one_by_one(seed: int, names: Sequence[str], kinds: Mapping[str, Kind]) -> list[Step]:
    """A schedule of faults in the order that is told, each of which begins when all is well."""
    return steps(Random(f"matrix {seed}"), names, kinds, calm=1.0)


def steps(random: Random, names: Sequence[str], kinds: Mapping[str, Kind], *, calm: float) -> list[Step]:
    """Faults with everything about them chosen.

    calm: the share of those that wait until all is well.
    """
    found: list[Step] = []
    for number, name in enumerate(names, 1):
        kind = kinds[name]
        well = random.random() < calm
        found.append(
            Step(
                number,
                name,
                random.choice(NAMES) if kind.of in ("worker", "both") else "",
                round(random.uniform(0.5, 3.0), 1),
                well,
                round(random.uniform(*kind.lasts_s), 1),
                # Before Kafka has noticed, or after.
                round(random.choice((0.0, 0.0, random.uniform(min(1.0, kind.away_s), kind.away_s))), 1),
                random.randint(*kind.times),
                kind.aside and calm < 1,
            )
        )
    return found
