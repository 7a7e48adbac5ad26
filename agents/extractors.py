"""Extractors: from the artifacts of a batch inference to one utility per row; the higher, the sooner to label.

Each is a function of the name that stands in `streams.events.EXTRACTORS`. Its parameters are what it needs of a chunk,
and it is asked where all of them are there:

- `probabilities` (rows, classes), each row a distribution, or with `multi_label` a probability for each class;
- `passes` (rows, T, classes), the same of each of T stochastic passes or members of a committee;
- `features` (rows, D); `labels`, the predicted one of each row; `seen`, what the model was trained on;
- `multi_label`, whether classes are told apart each by itself.

Logarithms are natural ones.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.tensors import Array

Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]

EXPLAINED = 0.995  # of the variance of the seen features, by the components that are kept
LEADING = 0.85  # of it, by those whose part is taken away first
TINY = 1e-20  # squares that are smaller, or larger than its inverse, are not left to single precision
LANES = 16  # to a multiple of which a core multiplies matrices fastest
CACHED = 1 << 16  # numbers of features that are scored at a time: they stay in a core's cache
FAR = 2e4  # times the variance that is left: means with larger squares cost single precision too many digits
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
    """Where features that a model has learnt lie: around a mean (D,), along orthonormal components (k, D).

    The components stand in order. far: whether the mean is so far from zero that it is taken away by itself; leading:
    how many components are, before the rest is estimated (`Parts.quick`). across: all other directions, (D - k, D),
    where they are known and few.
    """

    mean: Array
    far: bool
    components: Array
    leading: int
    across: Array | None

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
        mean = away.mean(axis=0)
        away -= mean
        mean += first
        spread = float(np.vdot(away, away))
        if not TINY < spread < 1 / TINY:
            if not away.any():
                raise ValueError("seen features must differ from each other")
            # By a power of two, which loses no digits: what is far out, or near, must bear to be squared.
            away = np.ldexp(away, -np.frexp(np.abs(away).max())[1])
        # By the smaller of two products, for a third of what a singular value decomposition costs. Squares lose the
        # digits of small variances; those that are kept are not small.
        few = len(away) < away.shape[1]
        variance, vectors = np.linalg.eigh(away @ away.T if few else away.T @ away)
        variance, vectors = np.maximum(variance[::-1], 0), vectors[:, ::-1]
        explained = np.cumsum(variance / variance.sum())
        leading, count = (np.searchsorted(explained, (LEADING, EXPLAINED), side="right") + 1).tolist()
        leading = leading if leading <= count // 4 else count
        far = float(np.vdot(mean, mean)) > FAR * spread / len(away) * (1 - float(explained[count - 1]))
        if few:
            return cls(mean, far, (vectors[:, :count] / np.sqrt(variance[:count])).T @ away, leading, None)
        components, across = (np.ascontiguousarray(part.T) for part in np.split(vectors, [count], axis=1))
        return cls(mean, far, components, leading, across if len(across) < count + leading else None)

    def error(self, features: Array, rows: Rows, space: Array | None = None) -> Array:
        """The squared distance of some rows of features from the subspace, (rows,).

        Its relative error is below 1e-4 for features in single precision, which are scored in it, and else below 1e-6.
        space: what `room` gave for these features, to be used again.
        """
        if features.dtype != np.float32:
            features = features.astype(np.float64, copy=False)
        space = room(features) if space is None else space
        step = space.shape[1]
        found, doubt = np.empty((2, len(rows)), features.dtype)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            parts = self.prepare(features.dtype)
            for first in range(0, len(rows), step):
                block = slice(first, first + step)
                found[block], doubt[block] = parts.quick(features, rows[block], space)
            unsure = np.flatnonzero(~((found > doubt) & (found > TINY) & (doubt < 1 / TINY)))
        found = found.astype(np.float64, copy=False)
        for first in range(0, len(unsure), step):
            these = unsure[first : first + step]
            found[these] = self._residual(features[rows[these]])
        return found

    def _residual(self, features: Array) -> Array:
        """The same, by the residual itself, in double precision."""
        away = features - self.mean
        away -= (away @ self.components.T) @ self.components
        error: Array = np.einsum("ij,ij->i", away, away)
        return error

    def prepare(self, dtype: Any) -> "Parts":
        """What `error` needs, in a precision."""
        if dtype not in self._made:
            mean = self.mean.astype(dtype)
            rest = self.mean - mean if self.far else self.mean
            leading, others = np.split(self.components, [self.leading])
            if self.across is not None:
                leading, others = leading[:0], self.across
            leading, width = leading.astype(dtype), len(others)
            squared = np.zeros((len(mean), width + -width % LANES), dtype)
            squared[:, :width] = others.T
            taken = np.vstack([rest.astype(dtype), leading])
            shift = rest @ (squared if self.across is not None else leading.T)
            self._made[dtype] = Parts(
                mean if self.far else None, taken, np.vecdot(taken, taken), shift.astype(dtype), squared
            )
        return self._made[dtype]

    @cached_property
    def _made(self) -> "dict[Any, Parts]":
        return {}


class Parts(NamedTuple):
    """A subspace in some precision.

    mean: it, where it is far from zero. taken: what is left of it in this precision, or all of it; and the leading
    components, (l, D), of which there are none where all that is across is known. squares: of their lengths.
    squared: the other components, or what is across, (D, n). shift: of taken[0] along the leading, or across.
    """

    mean: Array | None
    taken: Array
    squares: Array
    shift: Array
    squared: Array

    def quick(self, features: Array, rows: Rows, space: Array) -> tuple[Array, Array]:
        """The error of a few rows for less than the residual; and what it must be larger than, to have enough digits.

        Where all that is across is known, the square of the part along it. Else |x|^2 - |Wx|^2, half of what the
        residual costs; x is what the leading components leave, or nearly all of these would go.

        space: two arrays for at least as many rows.
        """
        away, left = space[:, : len(rows)]
        np.take(features, rows, axis=0, out=away, mode="clip")
        if self.mean is not None:
            away -= self.mean
        of_first, of_whole = (2e-5, 2e-2) if away.dtype == np.float32 else (1e-18, 1e-7)
        if len(self.taken) == 1:
            along = away @ self.squared
            along -= self.shift
            return np.vecdot(along, along), of_first * np.vecdot(away, away)
        first = np.ones((len(self.taken), len(rows)), away.dtype)
        np.matmul(self.taken[1:], away.T, out=first[1:])
        first[1:] -= self.shift[:, np.newaxis]
        np.matmul(first.T, self.taken, out=left)
        np.subtract(away, left, out=left)
        whole, along = np.vecdot(left, left), left @ self.squared
        first *= first
        return whole - np.vecdot(along, along), of_first * (self.squares @ first) + of_whole * whole


def room(features: Array) -> Array:
    """Two arrays for as many rows as are scored at a time, (2, rows, D), in the precision in which they are."""
    step = max(1, min(CACHED // max(1, features.shape[1]), len(features)))
    dtype: Any = np.float32 if features.dtype == np.float32 else np.float64
    return np.empty((2, step, features.shape[1]), dtype)


@dataclass(frozen=True)
class Seen:
    """Features of media that the model was trained on, (rows, D), and the label of each; their PCAs are made once."""

    features: Array
    labels: Sequence[str | int | None]
    _found: dict[object, Subspace | ValueError] = field(default_factory=dict)

    def fit(self, dtype: Any) -> None:
        """Make all PCAs, for features of a precision, so that nobody who asks for one has to wait."""
        labels = [label for label in self._rows if label]  # 0 stands for none
        wanted: list[Callable[[], Subspace | None]] = [partial(self.subspace_of, label) for label in labels]
        for subspace in (self.subspace, *wanted):
            with suppress(Exception), np.errstate(all="ignore"):  # whoever asks is told
                found = subspace()
                if found is not None:
                    found.prepare(dtype)

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
        if label not in self._rows:
            return None
        return self._once((label,), lambda: self.features[self._rows[label]])

    @cached_property
    def _rows(self) -> dict[str | int | None, list[int]]:
        rows: dict[str | int | None, list[int]] = {}
        for row, label in enumerate(self.labels):
            rows.setdefault(label, []).append(row)
        return rows

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
    return seen.subspace().error(features, np.arange(len(features)))


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
    numbers: defaultdict[str | int | None, int] = defaultdict(count().__next__)
    of_row = np.fromiter(map(numbers.__getitem__, labels), np.intp, len(labels))
    of_row = of_row.astype(np.min_scalar_type(len(numbers)))  # small numbers sort faster
    rows = np.split(np.argsort(of_row, kind="stable"), np.cumsum(np.bincount(of_row))[:-1])
    failed, space = 0, room(features)  # made once: a fresh page of memory costs as much as what is done with it
    for label, which in zip(numbers, rows, strict=True):
        if label is None:
            continue
        try:
            subspace = seen.subspace_of(label)
        except ValueError:
            failed += 1
        else:
            found[which] = 0 if subspace is None else subspace.error(features, which, space)
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
