"""What a run tells: a JSON file, and a table for people."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from streams.partition import partition_of
from tests.broker.programs import ALL

SHOWN = 4000  # characters of what was found


@dataclass(frozen=True)
class Report:
    """What a run tells.

    again: the command that repeats it. found: what is not as it must be; empty, if nothing was lost or came twice.
    faults: of each that befell, its number, its name, whom, when it began and when it was over, in seconds.
    unavailable_s: of each project, how long at the longest no worker answered; by_partition_s: the same of partitions.
    outcomes: what workers that were stopped in order say became of their records; skipped are replays.
    """

    again: str
    seed: int
    took_s: float
    found: list[str]
    events: int
    moved_again: int
    rows: int
    answers_that_agree: int
    leases: int
    lease_changes: dict[str, int]
    outcomes: dict[str, int]
    statuses: dict[str, int]
    exits: dict[str, int]
    faults: list[dict[str, Any]]
    not_begun: int
    unavailable_s: dict[str, float]
    by_partition_s: dict[str, float]
    done: list[str]

    def write(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    def show(self, console: Console) -> None:
        """Print what people want to know."""
        table = Table(title=f"chaos, seed {self.seed}: {self.took_s:.0f} s", show_header=False, title_justify="left")
        befell = Counter(each["fault"] for each in self.faults)
        for name, value in (
            ("events", f"{self.events}, {self.moved_again} of which were moved again"),
            ("records, as workers tell", named(self.outcomes)),
            ("rows that agree", f"{self.rows}, and {self.answers_that_agree} answers"),
            ("leases", f"{self.leases}: {named(self.lease_changes)}"),
            ("answers by status", named(self.statuses)),
            ("workers ended with", named(self.exits)),
            ("faults", f"{len(self.faults)}: {named(befell)}"),
            ("not answered, at the longest", ", ".join(f"{n}: {s:.1f} s" for n, s in self.by_partition_s.items())),
        ):
            table.add_row(name, value)
        console.print(table)
        if self.found:
            console.print(f"[bold red]{len(self.found)} things are not as they must be[/]:")
            for each in self.found:
                console.print(f"- {each[:SHOWN]}", markup=False)
        else:
            console.print("[bold green]Nothing was lost, and nothing came twice.[/]")
        console.print(f"Again: {self.again}", markup=False)


def by_partition(gaps: dict[str, float]) -> dict[str, float]:
    """The longest time without an answer, of each partition."""
    found = dict.fromkeys(map(str, ALL), 0.0)
    for project, gap in gaps.items():
        home = str(partition_of(project.encode(), len(ALL)))
        found[home] = max(found[home], round(gap, 2))
    return found


def named(counts: dict[str, int] | Counter[str]) -> str:
    """Counts in words, the largest first."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda each: -each[1])) or "none"
