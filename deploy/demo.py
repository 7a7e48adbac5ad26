"""The demo: active learning on scikit-learn's digits, through a real Kafka and a real worker, against labels by lot.

Each round trains a model on the labels there are, publishes what it says of every image, waits until the service has
heard it, asks over HTTP for ten images, and labels them. Once the service chooses, once chance does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from deploy.serve import console
from deploy.trial import TrialFailed, a_kafka, a_worker, get, heard, own_folder
from streams.producer import Artifacts, Producer, Receipt
from streams.settings import Settings

FIRST = 10  # labels to begin with
BATCH = 10
ROUNDS = 16
SEED = 4
TEST_SHARE = 0.3
TASK, WORKSPACE = "digit", "demo"
PRESETS = {"balanced": "Activeset", "random": "random"}  # what the table calls them


@dataclass
class Digits:
    """The images, pixels / 16 as features, and a test set that is never shown to the model."""

    pool: NDArray[np.float64]
    truth: NDArray[np.int64]
    test: NDArray[np.float64]
    test_truth: NDArray[np.int64]

    @classmethod
    def load(cls) -> "Digits":
        """The 1,797 images in scikit-learn's wheel."""
        digits: Any = load_digits()
        split: Any = train_test_split(
            digits.data / 16, digits.target, test_size=TEST_SHARE, stratify=digits.target, random_state=SEED
        )
        pool, test, truth, test_truth = split
        return cls(pool, truth, test, test_truth)


@dataclass
class Learner:
    """Somebody who trains, asks and labels: one project of the service."""

    digits: Digits
    producer: Producer
    labelled: list[int]
    curve: list[tuple[int, float]] = field(default_factory=list)

    def begin(self, preset: str) -> Receipt:
        """Tell the service of the project, its images, and the first labels."""
        labels = [{"id": str(digit), "name": str(digit)} for digit in range(10)]
        task = {"task_id": TASK, "title": "Digit", "task_type": "classification", "labels": labels}
        return {
            **self.producer.project([task], name=f"Digits, {preset}", preset=preset),
            **self.producer.upload([str(image) for image in range(len(self.digits.pool))]),
            **self.label(self.labelled),
        }

    def label(self, images: list[int]) -> Receipt:
        """Somebody looks at images and says which digits they are."""
        return self.producer.annotate([str(image) for image in images], {TASK: "annotated"}, "the demo")

    def learn(self) -> Receipt:
        """Train a model on the labels there are, measure it, and publish what it says of every image."""
        digits, seen = self.digits, np.array(self.labelled)
        model = LogisticRegression(max_iter=1000).fit(digits.pool[seen], digits.truth[seen])
        self.curve.append((len(seen), float(model.score(digits.test, digits.test_truth))))
        unseen = np.setdiff1d(np.arange(len(digits.pool)), seen)
        name = f"model-{len(seen)}"
        self.producer.activate(TASK, name)
        return self.producer.infer(
            TASK,
            name,
            seen=Artifacts(
                media=[str(image) for image in seen],
                labels=[str(digit) for digit in digits.truth[seen]],
                features=digits.pool[seen].astype(np.float16),
            ),
            unseen=Artifacts(
                media=[str(image) for image in unseen],
                probabilities=model.predict_proba(digits.pool[unseen]).astype(np.float32),
                features=digits.pool[unseen].astype(np.float16),
            ),
            classes=[str(digit) for digit in model.classes_],
        )


async def demo(settings: Settings) -> int:
    """Run the demo; 0 if it worked.

    Raises:
        TrialFailed: the service did not do what it promises; says where the log is.
        BadSettings, KafkaUnavailable: it could not begin.
    """
    began = time.monotonic()
    console.print("[bold]Active learning on 1,797 images of digits[/]: which ones are worth labelling?")
    curves = {}
    with own_folder(settings, "demo") as trial:
        folder, log = trial.state_dir, trial.state_dir / "worker.log"
        async with a_kafka(trial) as trial, a_worker(trial, log) as (_, session):
            digits = Digits.load()
            first = np.random.default_rng(SEED).choice(len(digits.pool), FIRST, replace=False).tolist()
            for preset, name in PRESETS.items():
                # Ties go by chance, and that by the project's id: a name that stays gives the same curves every time.
                producer = Producer(
                    trial.broker, workspace_id=WORKSPACE, project_id=f"digits-{preset}", prefix=trial.topic_prefix
                )
                async with in_thread(producer):
                    learner = Learner(digits, producer, list(first))
                    with shown(name) as show_round:
                        async for labels, accuracy in rounds(learner, preset, session):
                            show_round(labels, accuracy)
                curves[name] = learner.curve
        picture = folder / "curves.png"
        await asyncio.to_thread(draw, curves, picture)
    show(curves)
    console.print(f"It took {time.monotonic() - began:.0f} s. Everything is in {folder}; the next demo begins anew:")
    console.print(f"  picture  {picture}")
    console.print(f"  log      {log}")
    console.print(f"  state    {folder / 'worker'}" + ("" if settings.broker else f" (RocksDB), {folder / 'kafka'}"))
    return 0


@contextmanager
def shown(name: str) -> Iterator[Callable[[int, float], None]]:
    """Shows how a learner gets on: a bar for a person, lines for a file."""
    if not console.is_terminal:
        yield lambda labels, accuracy: console.print(f"  {name}: {labels} labels, accuracy {accuracy:.3f}")
        return
    told = (TextColumn("  {task.description:<10}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds, accuracy"))
    with Progress(*told, TextColumn("{task.fields[accuracy]:.3f}"), TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task(name, total=ROUNDS + 1, accuracy=0.0)
        yield lambda _, accuracy: progress.update(bar, advance=1, accuracy=accuracy)


async def rounds(learner: Learner, preset: str, session: aiohttp.ClientSession) -> AsyncIterator[tuple[int, float]]:
    """All rounds of one learner; yields the number of labels and the accuracy after each training."""
    project = learner.producer.project_id
    receipt = await asyncio.to_thread(learner.begin, preset)
    for turn in range(ROUNDS + 1):
        receipt |= await asyncio.to_thread(learner.learn)
        yield learner.curve[-1]
        await heard(session, project, receipt)
        if turn == ROUNDS:
            return
        chosen = await active_set(session, project)
        again = set(chosen) & set(learner.labelled)
        if len(chosen) != BATCH or again:
            raise TrialFailed(f"the active set must be {BATCH} images without a label, not {chosen} ({again} have one)")
        receipt = await asyncio.to_thread(learner.label, chosen)
        learner.labelled += chosen


async def active_set(session: aiohttp.ClientSession, project: str) -> list[int]:
    """The images that the service wants to be labelled now."""
    path = f"/api/v1/organizations/demo/workspaces/{WORKSPACE}/projects/{project}/datasets/active"
    status, answer = await get(session, f"{path}?task_id={TASK}&limit={BATCH}")
    if status != 200:
        raise TrialFailed(f"the active set was refused: {status} {answer}")
    return [int(item["id"]) for item in answer["active_set"]]


@asynccontextmanager
async def in_thread(producer: Producer) -> AsyncIterator[None]:
    """A producer's block, which must not hold up the event loop."""
    await asyncio.to_thread(producer.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(producer.__exit__)


def show(curves: dict[str, list[tuple[int, float]]]) -> None:
    """Print the table of accuracies."""
    table = Table(title="Accuracy on 540 images that no model was trained on", title_justify="left")
    table.add_column("labels", justify="right")
    for name in curves:
        table.add_column(name, justify="right")
    for row in zip(*curves.values(), strict=True):
        best = max(accuracy for _, accuracy in row)
        told = [f"[bold]{each:.3f}[/]" if each == best else f"{each:.3f}" for _, each in row]
        table.add_row(str(row[0][0]), *told)
    table.add_section()
    table.add_row("mean", *(f"{np.mean([accuracy for _, accuracy in curve]):.3f}" for curve in curves.values()))
    console.print(table)


def draw(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Save the curves as a picture."""
    mpl.use("agg")
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (name, curve), style in zip(curves.items(), ("-", "--"), strict=True):
        axes.plot(*zip(*curve, strict=True), style, marker="o", markersize=4, label=name)
    axes.set(xlabel="labels", ylabel="accuracy on the test set", title="scikit-learn's digits, logistic regression")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
