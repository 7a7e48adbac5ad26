"""FRE by predicted label, against scikit-learn's PCA used as its manual shows: how fast, and how exact.

Ten labels, 1,000 seen rows and 10,000 unseen ones, float32 on both sides, one BLAS thread. The variances of the
features fall with the square of their rank, as those of networks' features do, so that all labels keep about as many
components.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from agents.extractors import EXPLAINED, Seen, fre
from streams.settings import Settings
from tests.bench.feed import CLASSES, SEEN, Load
from tests.bench.latency import probed, timed
from tests.bench.progress import step
from tests.bench.report import Figure, Report, ratios

REPEAT = 7
UNSEEN = 10_000
WIDTHS = (64, 256, 1024)
FAR = 1000.0  # from zero: single precision has three digits less there
BATCHES = 12  # that are fitted while the worker is asked

Labels = NDArray[np.int64]


class Rows(NamedTuple):
    """Features of some rows, and the label of each."""

    features: NDArray[Any]
    labels: Labels

    def of(self, label: int) -> NDArray[Any]:
        """The features of those with a label."""
        return np.asarray(self.features[self.labels == label])


def made(width: int, power: float = 2.0, away: float = 0.0) -> tuple[Rows, Rows]:
    """Seen and unseen rows. power: by which variances fall. away: where their centre is."""
    random = np.random.default_rng(width)
    centres = random.normal(size=(CLASSES, width)) + away
    spread = (1.0 + np.arange(width)) ** (-power / 2)
    turned = [np.linalg.qr(random.normal(size=(width, width)))[0] for _ in range(CLASSES)]

    def rows(count: int) -> Rows:
        labels = np.arange(count) % CLASSES
        features = np.empty((count, width), np.float32)
        for label in range(CLASSES):
            which = labels == label
            features[which] = centres[label] + (random.normal(size=(which.sum(), width)) * spread) @ turned[label]
        return Rows(features, labels)

    return rows(SEEN), rows(UNSEEN)


def fitted(seen: Rows) -> list[Any]:
    """A PCA of scikit-learn for each label."""
    return [PCA(n_components=EXPLAINED, svd_solver="full").fit(seen.of(label)) for label in range(CLASSES)]


def scored(models: list[Any], unseen: Rows) -> NDArray[Any]:
    """The reconstruction error of each row under the PCA of its label."""
    found = np.empty(len(unseen.labels), unseen.features.dtype)
    for label, model in enumerate(models):
        features = unseen.of(label)
        back = model.inverse_transform(model.transform(features))
        found[unseen.labels == label] = np.linalg.norm(features - back, axis=1) ** 2
    return found


def our_fit(seen: Rows) -> Seen:
    """Ours, of the same."""
    found = Seen(seen.features.astype(np.float64), seen.labels.tolist())  # as references are kept
    for label in range(CLASSES):
        found.subspace_of(label)
    return found


def exact(seen: Rows, unseen: Rows) -> NDArray[np.float64]:
    """The error by a singular value decomposition, in double precision."""
    found = np.empty(len(unseen.labels))
    for label in range(CLASSES):
        known = seen.of(label).astype(np.float64)
        centred = unseen.of(label).astype(np.float64) - known.mean(axis=0)
        _, singular, components = np.linalg.svd(known - known.mean(axis=0), full_matrices=False)
        explained = np.cumsum(singular**2) / (singular**2).sum()
        kept = components[: int(np.searchsorted(explained, EXPLAINED, side="right")) + 1]
        found[unseen.labels == label] = ((centred - centred @ kept.T @ kept) ** 2).sum(axis=1)
    return found


def cpu(work: Callable[[], Any]) -> float:
    """The seconds of CPU that some work takes."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def worst(found: NDArray[Any], wanted: NDArray[np.float64]) -> float:
    """The largest relative error."""
    return float((np.abs(found - wanted) / wanted).max())


async def scoring(settings: Settings, report: Report, *, full: bool) -> None:
    """Measure each width, then how a worker answers while it fits."""
    for width in WIDTHS:
        step(f"scoring: {width} features")
        report.add(*await asyncio.to_thread(speed, width))
    step("scoring: digits")
    report.add(*await asyncio.to_thread(digits))
    await answers(settings, report)


def speed(width: int) -> list[Figure]:
    """Fit and score of both sides, in turn."""
    seen, unseen = made(width)
    models, ours, labels = fitted(seen), our_fit(seen), unseen.labels.tolist()
    took: dict[str, list[float]] = {"fit": [], "score": [], "our fit": [], "our score": []}
    for _ in range(REPEAT):
        took["fit"].append(cpu(lambda: fitted(seen)))
        took["our fit"].append(cpu(lambda: our_fit(seen)))
        took["score"].append(cpu(lambda: scored(models, unseen)))
        took["our score"].append(cpu(lambda: fre(unseen.features, labels, ours)))
    whole = [one + other for one, other in zip(took["fit"], took["score"], strict=True)]
    our_whole = [one + other for one, other in zip(took["our fit"], took["our score"], strict=True)]
    what = f"{width} features, scikit-learn / ours:"
    ms = {name: tuple(1000 * each for each in values) for name, values in took.items()}
    return [
        Figure(f"scoring.{width}", f"{what} fit and score", "x", ratios(whole, our_whole)),
        Figure(f"scoring.{width}.fit", f"{what} fit", "x", ratios(took["fit"], took["our fit"])),
        Figure(f"scoring.{width}.score", f"{what} score", "x", ratios(took["score"], took["our score"])),
        Figure(f"scoring.{width}.ours.fit", f"{width} features: our fit of {SEEN:,} rows", "ms", ms["our fit"]),
        Figure(f"scoring.{width}.ours.score", f"{width} features: our score of {UNSEEN:,} rows", "ms", ms["our score"]),
    ]


def digits() -> list[Figure]:
    """The largest relative errors of single precision: as above, far from zero, and where nearly nothing is left."""
    found = {}
    for name, power, away in (("", 2.0, 0.0), (" far from zero", 2.0, FAR), (" of what is nearly nothing", 8.0, 0.0)):
        errors, theirs = [], []
        for width in WIDTHS:
            seen, unseen = made(width, power, away)
            wanted = exact(seen, unseen)
            errors.append(worst(fre(unseen.features, unseen.labels.tolist(), our_fit(seen))[0], wanted))
            theirs.append(worst(scored(fitted(seen), unseen), wanted))
        found[name] = max(errors), max(theirs)
    return [
        Figure("scoring.error", "the largest relative error of any row", "", tuple(each for each, _ in found.values())),
        *(
            Figure(f"scoring.error.theirs.{n}", f"scikit-learn's{name}", "", (theirs,))
            for n, (name, (_, theirs)) in enumerate(found.items())
        ),
    ]


async def answers(settings: Settings, report: Report) -> None:
    """How long `/livez` takes while a worker does little but fit."""
    load = Load(chunks=1, features=1024)
    async with probed(settings) as worker:
        step("scoring: /livez while fits run")
        ready = load.events("fits", "first")
        batches = [load.events("fits", f"batch-{n}") for n in range(BATCHES)]  # now, not while it is timed
        await worker.measure(ready, load.total)

        async def feed() -> None:
            for events in batches:
                offset = await worker.feed.send(
                    "inference_artifacts", events.project, [*events.seen, *events.unseen], events.form
                )
                await worker.served(events.project, {"inference_artifacts": offset})

        async def live() -> None:
            async with worker.session.get("/livez") as answer:
                assert answer.status == 200

        took = await timed(live, asyncio.create_task(feed()), 0.002)
    report.add(
        Figure("scoring.livez.p50", "/livez while fits run, p50", "ms", (float(np.quantile(took, 0.5)),)),
        Figure("scoring.livez.p99", f"the same, p99 of {len(took):,}", "ms", (float(np.quantile(took, 0.99)),)),
    )
