"""What was found: figures, what they must be, how they lie to those of the last time; as text, Markdown and JSON."""

import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.serve import console
from tests.bench.limits import LIMITS, Limit
from tests.bench.machine import machine

COMMITTED = Path(__file__).with_name("results.json")
MOVED = 0.2  # by so much a figure may differ from the last time without a word


@dataclass(frozen=True)
class Figure:
    """A number that was measured several times.

    key: of its part, a dot, and a name that stays; limits are found by it. what: is told of it. unit: "x" of a ratio.
    """

    key: str
    what: str
    unit: str
    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.runs)

    @property
    def counted(self) -> float:
        """What is held against a limit: of errors the worst, of all else the middle one."""
        return max(self.runs) if self.unit == "" else self.median

    @property
    def limit(self) -> Limit | None:
        """What it must be; nothing where that was not said."""
        return LIMITS.get(self.key)

    def told(self) -> str:
        """The median, and the least and the most."""
        spread = f" ({short(min(self.runs))} to {short(max(self.runs))})" if len(self.runs) > 1 else ""
        return f"{short(self.median)}{' ' if self.unit not in ('x', '') else ''}{self.unit}{spread}"

    def judged(self) -> str:
        """How it lies to what it must be."""
        return "" if self.limit is None else self.limit.judged(self.counted)

    def cells(self) -> list[str]:
        """A row of the table."""
        limit = self.limit
        return [self.what, self.told(), "" if limit is None else limit.told(), self.judged()]


def ratios(of: Sequence[float], by: Sequence[float]) -> tuple[float, ...]:
    """What was measured in turn by what was measured beside it."""
    return tuple(one / other for one, other in zip(of, by, strict=True))


def short(number: float) -> str:
    """A number with three digits or more.

    >>> short(0.12345), short(12.345), short(12345.6)
    ('0.123', '12.3', '12,346')
    """
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


@dataclass
class Report:
    """All that was found in this run, printed as it comes."""

    figures: list[Figure] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=machine)

    def add(self, *found: Figure) -> None:
        """Take and print figures."""
        for each in found:
            self.figures.append(each)
            judged = f"  {each.limit.told()}: {each.judged()}" if each.limit else ""
            console.print(f"  {each.what:<66} {each.told()}{judged}")

    def note(self, *told: str) -> None:
        """Print what explains the figures before it."""
        for each in told:
            console.print(f"    {each}", markup=False)

    def head(self) -> str:
        """The machine and its libraries, in a line."""
        return ", ".join(f"{name} {told}" if name != "cpu" else told for name, told in self.machine.items())

    def markdown(self) -> str:
        """All figures as tables, a part after the other."""
        parts: dict[str, list[Figure]] = {}
        for each in self.figures:
            parts.setdefault(each.key.partition(".")[0], []).append(each)
        lines = [self.head()]
        for part, figures in parts.items():
            lines += ["", f"**{part}**", "", "| what | found | wanted | |", "|---|---|---|---|"]
            lines += ["| " + " | ".join(each.cells()) + " |" for each in figures]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Keep all as JSON; parts that were not measured this time stay as they are."""
        kept = read(path)
        now = {each.key.partition(".")[0] for each in self.figures}
        figures = {key: told for key, told in kept.get("figures", {}).items() if key.partition(".")[0] not in now}
        figures |= {
            each.key: {"what": each.what, "unit": each.unit, "median": each.median, "runs": each.runs}
            for each in self.figures
        }
        told = {"at": time.strftime("%Y-%m-%d", time.gmtime()), "machine": self.machine, "figures": figures}
        path.write_text(json.dumps(told, indent=1) + "\n")

    def compare(self, last: dict[str, Any]) -> Iterable[str]:
        """The ratios that differ from those of the last time, as `read` has them."""
        figures = last.get("figures", {})
        for each in self.figures:
            if each.unit == "x" and each.key in figures:
                before = figures[each.key]["median"]
                by = each.median / before - 1 if before else 0.0
                if abs(by) > MOVED:
                    yield f"{each.what}: {short(each.median)}x, was {short(before)}x ({by:+.0%})"

    def missed(self) -> list[Figure]:
        """What is not as it must be."""
        return [each for each in self.figures if each.limit is not None and not each.limit.kept(each.counted)]


def read(path: Path) -> dict[str, Any]:
    """What was written before; nothing if nothing was."""
    told: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return told
