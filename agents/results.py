"""What simulations tell: a table for a person, a CSV for programs, and a chart."""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from rich.markup import escape
from rich.table import Table

from agents.simulate import Run

SPREAD = (10, 90)  # percentiles between which a curve is shaded


class Summary(NamedTuple):
    """What came of a strategy, over seeds.

    area: the mean accuracy over the curve, its mean and deviation. labels_to: to each target, in the median.
    share: of the class that is watched, in the first 100 labels; NaN without one.
    """

    strategy: str
    area: float
    deviation: float
    labels_to: list[float]
    share: float


def summaries(runs: Sequence[Run], targets: Sequence[float], rare: int | None) -> list[Summary]:
    """What came of each strategy, in their order."""
    found = []
    for strategy in dict.fromkeys(run.strategy for run in runs):
        of = [run for run in runs if run.strategy == strategy]
        areas = [run.area for run in of]
        found.append(
            Summary(
                strategy,
                float(np.mean(areas)),
                float(np.std(areas)),
                [median(run.labels_to(target) for run in of) for target in targets],
                float("nan") if rare is None else float(np.mean([run.share_of(rare, 100) for run in of])),
            )
        )
    return found


def table(told: Sequence[Summary], targets: Sequence[float], rare: str | None) -> Table:
    """The table that is printed: labels to reach targets, in the median; area under the curve, and its deviation.

    rare: the name of the class that is watched.
    """
    shown = Table()
    shown.add_column("strategy", overflow="fold")
    for target in targets:
        shown.add_column(f"labels to {target:.0%}", justify="right")
    shown.add_column("area", justify="right")
    shown.add_column("±", justify="right")
    if rare is not None:
        shown.add_column(escape(f"class {rare} of first 100"), justify="right")
    for each in told:
        reached = ["never" if np.isinf(labels) else f"{labels:g}" for labels in each.labels_to]
        row = [each.strategy, *reached, f"{each.area:.4f}", f"{each.deviation:.4f}"]
        shown.add_row(*row, *([] if rare is None else [f"{each.share:.1%}"]))
    return shown


def write(runs: Sequence[Run], path: Path) -> None:
    """The CSV: a row for each training."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["strategy", "seed", "labels", "accuracy"])
        for run in runs:
            rows.writerows([run.strategy, run.seed, labels, f"{accuracy:.6f}"] for labels, accuracy in run.curve)


def draw(runs: Sequence[Run], title: str, path: Path) -> None:
    """The chart: the mean accuracy of each strategy, and between which the middle of its seeds lies."""
    mpl.use("agg")
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for strategy in dict.fromkeys(run.strategy for run in runs):
        curves = [run.curve for run in runs if run.strategy == strategy]
        shortest = min(map(len, curves))
        labels = [number for number, _ in curves[0][:shortest]]
        accuracy = np.array([[value for _, value in curve[:shortest]] for curve in curves])
        [line] = axes.plot(labels, accuracy.mean(axis=0), "--" if strategy == "random" else "-", label=strategy[:60])
        low, high = np.percentile(accuracy, SPREAD, axis=0)
        axes.fill_between(labels, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="labels", ylabel="accuracy on the test set", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)
