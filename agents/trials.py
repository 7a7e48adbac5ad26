"""What simulations learn from: data sets with their truth, models, and where a seed begins."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from streams.errors import BadSettings
from streams.media import Id

Floats = NDArray[np.float64]
TEST_SHARE = 0.3
NOISE = 0.02  # of the copies of `digits4`
COPIES = 4


@dataclass(frozen=True)
class Data:
    """Media with features (rows, D) and a class each, of 0 to C - 1; and how much of them the model is tested on.

    names: of the classes. rare: the class that was thinned. model: what is trained if nothing else is asked for.
    first: how many labels to begin with, drawn by lot, or if it ends with an x, of each class.
    """

    name: str
    features: Floats
    classes: NDArray[np.int64]
    names: tuple[str, ...]
    rare: int | None = None
    test_share: float = TEST_SHARE
    stratified: bool = True
    copies: int = 1
    model: str = "logistic"
    first: str = "2x"

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """A user's own: an npz file with `X`, features of shape (rows, D), and `y`, the class of each row.

        Raises:
            BadSettings: it is none.
        """
        try:
            with path.open("rb") as file, np.lib.npyio.NpzFile(file) as told:
                features, classes = np.asarray(told["X"], np.float64), np.asarray(told["y"])
        except (OSError, EOFError, KeyError, ValueError, BadZipFile, zlib.error) as why:
            raise BadSettings(
                f"--npz must be a file of numpy with X, (rows, D), and y, (rows,): {path}: {why}"
            ) from why
        if features.ndim != 2 or classes.shape != features.shape[:1] or not features.shape[1]:
            raise BadSettings(
                f"--npz must have X of shape (rows, D), D at least 1, and y of shape (rows,), not {features.shape} and "
                f"{classes.shape}"
            )
        if not np.isfinite(features).all() or (classes.dtype.kind == "f" and not np.isfinite(classes).all()):
            raise BadSettings("--npz must have finite numbers in X and y, not NaN or infinity")
        there, places, counts = np.unique(classes, return_inverse=True, return_counts=True)
        if len(there) < 2 or counts.min() < 2:
            raise BadSettings(
                f"--npz must have two classes or more in y, and two rows or more of each, not {counts.tolist()[:20]}"
            )
        try:
            names = msgspec.convert(there.astype(str).tolist(), tuple[Id, ...])
        except (UnicodeError, msgspec.ValidationError) as why:
            raise BadSettings(f"--npz must have classes in y that can be ids of labels: {why}") from why
        return cls(path.stem, features, places.astype(np.int64), names)

    def thinned(self, told: str) -> Self:
        """The same with media of one class left out until it is a share of all: `class:share`.

        Raises:
            BadSettings: there is no such class, or it has a smaller share already.
        """
        name, _, share = told.rpartition(":")
        if name not in self.names:
            raise BadSettings(f"--thin must be of a class, one of {', '.join(self.names)[:200]}, not {told!r}")
        rare = self.names.index(name)
        try:
            wanted = float(share)
            others = self.classes != rare
            count = round(int(others.sum()) * wanted / (1 - wanted))
        except (ValueError, ZeroDivisionError, OverflowError) as why:
            raise BadSettings(f"--thin must be a class and its share, like 5:0.05, not {told!r}") from why
        there = np.flatnonzero(~others)
        if not 0 < count <= len(there):
            raise BadSettings(f"--thin must leave some of class {name}, and no more than there are, not {told!r}")
        kept = np.sort(np.concatenate([np.flatnonzero(others), np.random.default_rng(rare).permutation(there)[:count]]))
        features, classes = self.features[kept], self.classes[kept]
        return replace(self, name=f"{self.name}-{told}", features=features, classes=classes, rare=rare)

    def begun(self, seed: int, first: str | None = None) -> "Start":
        """Where a seed begins: another split, and other first labels.

        Raises:
            BadSettings: there are not as many, or of one class alone.
        """
        try:
            rows: Any = train_test_split(
                np.arange(len(self.classes)),
                test_size=self.test_share,
                stratify=self.classes if self.stratified else None,
                random_state=seed,
            )
        except ValueError as why:
            raise BadSettings(f"--npz and --thin must leave media of each class to learn and to test: {why}") from why
        pool, test = rows
        features, classes = self.features[pool], self.classes[pool]
        lots = np.random.default_rng(1000 + seed)
        if self.copies > 1:
            features = np.concatenate([features + lots.normal(0, NOISE, features.shape) for _ in range(self.copies)])
            classes = np.tile(classes, self.copies)
        told = first or self.first
        try:
            if told.endswith("x"):
                count = int(told[:-1])
                each = [lots.choice(np.flatnonzero(classes == n), count, replace=False) for n in np.unique(classes)]
                labelled = np.concatenate(each)
            else:
                labelled = lots.choice(len(classes), int(told), replace=False)
        except (ValueError, OverflowError) as why:
            raise BadSettings(f"--first must be how many labels to begin with, 20 or 2x of each class: {why}") from why
        if len(np.unique(classes[labelled])) < 2:
            raise BadSettings(
                f"--first must give labels of two classes or more, which {told} does not with seed {seed}"
            )
        return Start(features, classes, self.features[test], self.classes[test], labelled.tolist())


@dataclass(frozen=True)
class Start:
    """A pool, what is tested on, and the places in the pool that have a label to begin with."""

    features: Floats
    classes: NDArray[np.int64]
    test: Floats
    test_classes: NDArray[np.int64]
    labelled: list[int]


def digits(name: str = "digits", copies: int = 1) -> Data:
    """The 1,797 images in scikit-learn's wheel, pixels / 16; of the pool, so many noisy copies."""
    told: Any = load_digits()
    return Data(name, told.data / 16, told.target.astype(np.int64), tuple("0123456789"), copies=copies)


def wdbc() -> Data:
    """Wisconsin's breast cancer, 569 rows, standardised."""
    told: Any = load_breast_cancer()
    features = StandardScaler().fit_transform(told.data)
    classes = told.target.astype(np.int64)
    return Data("wdbc", features, classes, ("0", "1"), test_share=0.4, stratified=False, model="svm", first="20")


DATA: Mapping[str, Callable[[], Data]] = {
    "digits": digits,
    "digits4": lambda: digits("digits4", COPIES),
    "wdbc": wdbc,
}


class Sure(SVC):  # type: ignore[misc] # nothing tells its types
    """A support vector machine whose probabilities are the logistic of its decision: no second fit, the same order."""

    def predict_proba(self, features: Floats) -> Floats:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(rows, classes)."""
        decision = self.decision_function(features)
        if decision.ndim == 1:
            decision = np.stack([-decision, decision], axis=1) / 2
        exp = np.exp(decision - decision.max(axis=1, keepdims=True))
        found: Floats = exp / exp.sum(axis=1, keepdims=True)
        return found


def passes(forest: RandomForestClassifier, features: Floats) -> Floats:
    """What each tenth tree of a forest says, (rows, T, classes); all of them would be ten times as much to send."""
    found: Floats = np.stack([tree.predict_proba(features) for tree in forest.estimators_[::10]], axis=1)
    return found


MODELS: Mapping[str, Callable[[], Any]] = {
    "logistic": lambda: LogisticRegression(max_iter=2000),
    "svm": lambda: Sure(C=1.0, kernel="rbf"),
    "forest": lambda: RandomForestClassifier(100, random_state=0),
}
