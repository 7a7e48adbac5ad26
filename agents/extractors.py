"""Extractors: from the artifacts of a batch inference to one utility per row; the higher, the sooner to label.

Each is a function of the name that stands in `streams.events.EXTRACTORS`. Its parameters are what it needs of a chunk,
and it is asked where all of them are there:

- `probabilities` (rows, classes), each row a distribution, or with `multi_label` a probability for each class;
- `passes` (rows, T, classes), the same of each of T stochastic passes or members of a committee;
- `features` (rows, D); `labels`, the predicted one of each row; `seen`, what the model was trained on;
- `multi_label`, whether classes are told apart each by itself.

Logarithms are natural ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from streams.tensors import Array

EXPLAINED = 0.995  # of the variance of the seen features, by the components that are kept
BLOCK = 1 << 20  # distances that are held at a time


def margin(probabilities: Array, *, multi_label: bool = False) -> Array:
    """How close the two best classes are, 0 (certain) to 1 (a draw), one value per row.

    With one class there is nothing to confuse it with: 0. multi_label: the mean over labels of 1 - |2q - 1|.
    Source: Scheffer et al. 2001; Settles 2009, section 3.1, turned around so that higher is sooner.

    >>> margin(np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]])).round(6)
    array([0.5, 1. ])
    """
    if multi_label:
        return undecided(probabilities)
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    best = np.partition(probabilities, -2, axis=1)
    return in_0_to_1(1 - (best[:, -1] - best[:, -2]))


def least_confidence(probabilities: Array, *, multi_label: bool = False) -> Array:
    """How far the best class is from certain, 0 to 1 (all classes are equal): (1 - p1) C / (C - 1), one value per row.

    With one class 0. multi_label: as `margin`.
    Source: Lewis & Gale 1994; Settles 2009, section 3.1, divided by its largest value.

    >>> least_confidence(np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])).round(6)
    array([0.45, 0.  ])
    """
    if multi_label:
        return undecided(probabilities)
    classes = probabilities.shape[1]
    if classes < 2:
        return np.zeros(len(probabilities))
    return in_0_to_1((1 - probabilities.max(axis=1)) * classes / (classes - 1))


def undecided(probabilities: Array) -> Array:
    """Of labels that are told apart each by itself, the mean of how undecided each is, 0 to 1: 1 - |2q - 1|."""
    found: Array = (1 - np.abs(2 * probabilities - 1)).mean(axis=1)
    return found


def in_0_to_1(utilities: Array) -> Array:
    """The same, without what rounding adds."""
    found: Array = np.clip(utilities, 0, 1)
    return found


def entropy(probabilities: Array, *, multi_label: bool = False) -> Array:
    """Shannon's entropy by its largest value, log C: 0 to 1, one value per row; 0 log 0 is 0.

    With one class 0. multi_label: the mean over labels of the entropy of q and 1 - q, by log 2.
    Source: Shannon 1948; Settles 2009, section 3.1.

    >>> entropy(np.array([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])).round(6)
    array([0.5, 1. ])
    """
    if multi_label:
        return in_0_to_1(spread(probabilities, multi_label=True) / np.log(2))
    classes = probabilities.shape[1]
    if classes < 2:
        return np.zeros(len(probabilities))
    return in_0_to_1(spread(probabilities) / np.log(classes))


def spread(probabilities: Array, *, multi_label: bool = False) -> Array:
    """The entropy along the last axis, in nats; of labels that are told apart each by itself, the mean of theirs."""
    if multi_label:
        found: Array = (surprise(probabilities) + surprise(1 - probabilities)).mean(axis=-1)
        return found
    whole: Array = surprise(probabilities).sum(axis=-1)
    return whole


def surprise(probabilities: Array) -> Array:
    """-p log p, in nats; 0 at 0."""
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return -probabilities * logs


def bald(passes: Array, *, multi_label: bool = False) -> Array:
    """How much the passes disagree, each being sure: H(mean p) - mean H(p), in nats, 0 to log C, one value per row.

    With one pass 0. multi_label: the mean over labels of that of q and 1 - q.
    Source: Houlsby et al. 2011, equation 2; Gal et al. 2017, for stochastic passes.

    >>> bald(np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]])).round(3)
    array([0.693, 0.   ])
    """
    of_mean = spread(passes.mean(axis=1), multi_label=multi_label)
    gain: Array = np.maximum(of_mean - spread(passes, multi_label=multi_label).mean(axis=1), 0)
    return gain


def vote_entropy(passes: Array, *, multi_label: bool = False) -> Array:
    """The entropy of the classes that the passes vote for, in nats, 0 to log min(T, C), one value per row.

    Each pass votes for its largest probability, of equal ones the first. multi_label: a pass votes for every label with
    more than 1/2, and against the others; the mean over labels.
    Source: Dagan & Engelson 1995, section 4.

    >>> vote_entropy(np.array([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]]])).round(3)
    array([0.562])
    """
    if multi_label:
        return spread((passes > 0.5).mean(axis=1), multi_label=True)
    votes = passes.argmax(axis=2)
    shares = (votes[:, :, None] == np.arange(passes.shape[2])).mean(axis=1)
    return spread(shares)


@dataclass(frozen=True)
class Subspace:
    """Where features that a model has learnt lie: around a mean (D,), along orthonormal components (k, D)."""

    mean: Array
    components: Array

    @classmethod
    def of(cls, features: Array) -> "Subspace":
        """The PCA of features that keeps the fewest components which explain more than 99.5 % of the variance.

        features: (rows >= 1, D).

        Raises:
            ValueError: the rows do not differ from each other.
        """
        # From the first row on: what is left of equal rows when their mean is taken away may be rounding, and no zeros.
        first = features[0]
        away = features - first
        if not away.any():
            raise ValueError("seen features must differ from each other")
        mean = away.mean(axis=0)
        _, singular, components = np.linalg.svd(away - mean, full_matrices=False)
        # By the largest, which may itself be too large or too small to be squared.
        variance = (singular / singular[0]) ** 2
        explained = np.cumsum(variance / variance.sum())
        return cls(first + mean, components[: int(np.searchsorted(explained, EXPLAINED, side="right")) + 1])

    def error(self, features: Array) -> Array:
        """The squared distance of each row from the subspace, (rows,)."""
        centred = features - self.mean
        # The residual itself: |x|^2 - |Wx|^2 is cheaper, and loses its digits where the error is small.
        residual = centred - (centred @ self.components.T) @ self.components
        error: Array = np.einsum("ij,ij->i", residual, residual)
        return error


@dataclass(frozen=True)
class Seen:
    """Features of media that the model was trained on, (rows, D), and the label of each; their PCAs are made once."""

    features: Array
    labels: Sequence[str | int | None]
    _found: dict[object, Subspace | ValueError] = field(default_factory=dict)

    def subspace(self) -> Subspace:
        """The PCA of all of them.

        Raises:
            ValueError: they do not differ from each other.
        """
        return self._once("all", lambda: self.features)

    def subspace_of(self, label: str | int) -> Subspace | None:
        """The PCA of those with a label; None if there is none.

        Raises:
            ValueError: they do not differ from each other.
        """
        if label not in self._labels:
            return None
        return self._once((label,), lambda: self.features[[each == label for each in self.labels]])

    @cached_property
    def _labels(self) -> frozenset[str | int | None]:
        return frozenset(self.labels)

    def _once(self, name: object, features: Callable[[], Array]) -> Subspace:
        if name not in self._found:
            try:
                self._found[name] = Subspace.of(features())
            except ValueError as why:
                self._found[name] = why
        found = self._found[name]
        if isinstance(found, ValueError):
            raise found
        return found


def fre_class_agnostic(features: Array, seen: Seen) -> Array:
    """Squared feature reconstruction error under a PCA of the seen features, one value per row.

    What the seen features cannot reconstruct is unlike what the model has learnt.

    features: (rows, D).
    Source: arXiv:2109.06873, section 3, and arXiv:2012.04250.

    Raises:
        ValueError: the seen features have no variance.

    >>> seen = Seen(np.array([[-5, 0], [0, 0.1], [5, 0]]), ["a"] * 3)
    >>> fre_class_agnostic(np.array([[2.0, 3.0], [4.0, 1.0]]), seen).round(2)
    array([8.8 , 0.93])
    """
    return seen.subspace().error(features)


def fre(features: Array, labels: Sequence[str | int | None], seen: Seen) -> tuple[Array, int]:
    """The same, each row under a PCA of the seen features of the label that was predicted for it.

    The utilities, (rows,), and for how many labels there is none, since their seen features have no variance: NaN, as
    where no label was predicted. A label without any seen row reconstructs perfectly: 0.

    features: (rows, D). labels: of each row.
    Source: arXiv:2109.06873, section 3.

    >>> seen = Seen(np.array([[-5, 0], [0, 0.1], [5, 0]]), ["a"] * 3)
    >>> fre(np.array([[2.0, 3.0], [4.0, 1.0]]), ["a", "b"], seen)[0].round(2)
    array([8.8, 0. ])
    """
    found = np.full(len(features), np.nan)
    rows: dict[str | int, list[int]] = {}
    for row, label in enumerate(labels):
        if label is not None:
            rows.setdefault(label, []).append(row)
    failed = 0
    for label, which in rows.items():
        try:
            subspace = seen.subspace_of(label)
        except ValueError:
            failed += 1
        else:
            found[which] = 0 if subspace is None else subspace.error(features[which])
    return found, failed


def novelty(features: Array, seen: Seen) -> Array:
    """How far the nearest seen feature is: the Euclidean distance, one value per row.

    The gain of the greedy choice for k centers. Of a batch with more seen rows than are kept, the nearest that is kept.

    features: (rows, D).
    Source: Sener & Savarese, arXiv:1708.00489, algorithm 1.

    >>> novelty(np.array([[3.0, 4.0], [1.0, 0.0]]), Seen(np.array([[0.0, 0.0], [1.0, 0.0]]), ["a", "b"])).round(3)
    array([4.472, 0.   ])
    """
    # Around their mean: far from zero the squares of features leave no digits to what they differ by.
    mean = seen.features.mean(axis=0)
    known, features, distance = seen.features - mean, features - mean, np.empty(len(features))
    norms = np.einsum("ij,ij->i", known, known)
    step = max(1, BLOCK // len(known))
    for first in range(0, len(features), step):
        rows = features[first : first + step]
        # Which is the nearest may be found with fewer digits than how far that is.
        nearest = (norms - 2 * rows @ known.T).argmin(axis=1)
        distance[first : first + step] = np.linalg.norm(rows - known[nearest], axis=1)
    same = {row.tobytes() for row in known}  # one far out may still leave too few digits to the others
    distance[[row.tobytes() in same for row in features]] = 0
    return distance
