"""`python -m agents simulate`: several strategies and seeds, in this process or through a service that runs."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agents import results
from agents.simulate import LOT, InProcess, Run, Running, Service, Trial, check, project_of, simulate
from agents.trials import DATA, MODELS, Data
from deploy.trial import a_kafka, a_worker, own_folder
from streams.errors import BadSettings
from streams.settings import Settings

console = Console(highlight=False)
Serve = Callable[[str], Service]


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--dataset", choices=[*DATA], default="digits", help="what to learn (digits)")
    parser.add_argument("--npz", type=Path, metavar="FILE", help="your own instead: X, (rows, D), and y, (rows,)")
    parser.add_argument("--thin", metavar="CLASS:SHARE", help="leave out media of a class until it is such a share")
    parser.add_argument(
        "--strategy",
        action="append",
        metavar="WHAT",
        help="a preset, an extractor, or JSON as for a task in `active_learning`; several times for several; random is "
        "always among them (balanced)",
    )
    parser.add_argument("--model", choices=[*MODELS], help="what is trained (logistic; svm for wdbc)")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many splits and beginnings (10)")
    parser.add_argument("--first", metavar="N", help="labels to begin with; 2x: two of each class (2x; 20 for wdbc)")
    parser.add_argument("--batch", type=int, default=10, metavar="N", help="labels between two trainings (10)")
    parser.add_argument("--budget", type=int, default=320, metavar="N", help="labels in all (320)")
    parser.add_argument("--annotators", type=int, default=1, metavar="N", help="who lease side by side (1: suggested)")
    parser.add_argument("--target", type=float, action="append", metavar="A", help="accuracies to reach (0.85, 0.9)")
    parser.add_argument("--in-process", action="store_true", help="without Kafka and HTTP: faster, and other lots")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the CSV and the chart go (.state/simulate)")


def trial_of(given: argparse.Namespace) -> Trial:
    """What is to be simulated.

    Raises:
        BadSettings: it cannot be.
    """
    data: Data = DATA[given.dataset]() if given.npz is None else Data.of_file(given.npz)
    if given.thin is not None:
        data = data.thinned(given.thin)
    for name, least in (("seeds", 1), ("batch", 1), ("budget", 1), ("annotators", 1)):
        if getattr(given, name) < least:
            raise BadSettings(f"--{name} must be at least {least}, not {getattr(given, name)}")
    if given.annotators > given.batch:
        raise BadSettings(f"--annotators must be at most --batch, {given.batch}, not {given.annotators}")
    for target in given.target or []:
        if not 0 < target <= 1:
            raise BadSettings(f"--target must be an accuracy above 0, at most 1, not {target}")
    first = given.first or data.first
    for seed in range(given.seeds):
        data.begun(seed, first)
    return Trial(data, given.model or data.model, first, given.batch, given.budget, given.annotators)


def folder_of(given: argparse.Namespace, settings: Settings) -> Path:
    """Where the CSV and the chart go, which can be written.

    Raises:
        BadSettings: it cannot.
    """
    out: Path = given.out or settings.state_dir / "simulate"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            return out
    except OSError as why:
        raise BadSettings(f"--out must be a folder that can be written, not {out}: {why}") from why


async def run(given: argparse.Namespace, settings: Settings) -> int:
    """Run the simulations that are asked for; 0 if all went well.

    Raises:
        BadSettings: they cannot be.
        TrialFailed: the service did not do what it promises.
    """
    trial, targets = trial_of(given), given.target or [0.85, 0.9]
    strategies = [*dict.fromkeys([*(given.strategy or ["balanced"]), LOT])]
    for strategy in strategies:
        check(strategy, trial.model)
    out = await asyncio.to_thread(folder_of, given, settings)
    async with in_process() if given.in_process else through_a_service(settings) as serve:
        runs = await asyncio.to_thread(every, trial, strategies, given.seeds, serve)
    rare = trial.data.rare
    told = results.summaries(runs, targets, rare)
    console.print(results.table(told, targets, None if rare is None else trial.data.names[rare]))
    name = "".join(each if each.isalnum() or each in "._-" else "-" for each in trial.data.name)
    title = f"{trial.data.name}, {trial.model}, {trial.batch} labels at a time, {given.seeds} seeds"
    await asyncio.to_thread(results.write, runs, out / f"{name}.csv")
    await asyncio.to_thread(results.draw, runs, title, out / f"{name}.png")
    console.print(f"The curves are in {out / name}.csv, and drawn in {out / name}.png.", soft_wrap=True)
    return 0


def every(trial: Trial, strategies: list[str], seeds: int, serve: Serve) -> list[Run]:
    """All strategies and seeds, one after the other, with a bar for a person and lines for a file."""
    runs: list[Run] = []
    steps = (
        TextColumn("  {task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("seeds, {task.fields[now]}"),
    )
    with Progress(*steps, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        for strategy in strategies:
            bar = progress.add_task(strategy[:40], total=seeds, now="")

            def tell(labels: int, accuracy: float, bar: object = bar) -> None:
                progress.update(bar, now=f"{labels} labels, accuracy {accuracy:.3f}")  # type: ignore[arg-type]

            for seed in range(seeds):
                done = simulate(trial, strategy, seed, serve(project_of(trial, strategy, seed)), tell)
                runs.append(done)
                progress.advance(bar)
                if not console.is_terminal:
                    console.print(f"  {strategy}, seed {seed}: area {done.area:.4f}")
    return runs


@asynccontextmanager
async def in_process() -> AsyncIterator[Serve]:
    """Projects in this process."""
    yield InProcess


@asynccontextmanager
async def through_a_service(settings: Settings) -> AsyncIterator[Serve]:
    """Projects of a worker, on our own Kafka or the one that is named; it ends with the block."""
    with own_folder(settings, "simulation") as trial:
        async with a_kafka(trial) as trial, a_worker(trial, trial.state_dir / "worker.log") as _:
            yield lambda project: Running(trial.broker, trial.topic_prefix, trial.url, project)


def main(given: argparse.Namespace, settings: Settings) -> int:
    """Run the command."""
    return asyncio.run(run(given, settings))
