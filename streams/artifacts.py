"""The columns of a chunk of artifacts: checked, as arrays, and without the rows that hold no numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streams.errors import MalformedEvent
from streams.events import ArtifactsInferred
from streams.media import Medium
from streams.tensors import Array, array_of

SUM_TOLERANCE = 0.02  # of a distribution in half precision over many classes
ROUNDED = 1e-6  # by which a probability in single precision may be out of 0..1
SPATIAL = 3  # axes of a row's features: D, height and width


@dataclass(frozen=True)
class Columns:
    """What a chunk says of its media, a row for each region of one; columns that were not sent are None.

    probabilities: (rows, classes), the mean of the passes if there were several; each row a distribution, or with
    `multi_label` a probability for each class. passes: (rows, passes, classes), if they were told one by one.
    features: (rows, D), spatial axes averaged away; float32 if they were sent in that or half precision and nothing was
    averaged.
    utilities: numbers that the producer computed itself, (rows,) each.
    left_out: rows that had a number that is not finite, and are not here.
    """

    media: list[Medium]
    labels: list[str | None]
    probabilities: Array | None
    passes: Array | None
    features: Array | None
    utilities: dict[str, Array]
    left_out: int


def columns(event: ArtifactsInferred) -> Columns:
    """The columns of a chunk; rows with a number that is not finite are left out by themselves.

    Where no label was sent, the predicted one is the class of the largest probability, if the classes are named.

    Raises:
        MalformedEvent: columns of unequal length, a tensor that does not fit its shape, or numbers that are no
            probabilities.
    """
    rows = len(event.media)
    given: dict[str, Array] = {}
    if event.probabilities is not None:
        given["probabilities"] = array_of("probabilities", event.probabilities, axes=(2, 3))
    if event.features is not None:
        given["features"] = array_of("features", event.features, axes=(1, 2, 3, 4, 5), single=True)
    external = {name: f"utilities.{name}" for name in event.utilities or {}}
    for name, field in external.items():
        given[field] = array_of(field, (event.utilities or {})[name], axes=(1,))
    lengths = {name: len(array) for name, array in given.items()}
    if event.labels is not None:
        lengths["labels"] = len(event.labels)
    for name, length in lengths.items():
        if length != rows:
            raise MalformedEvent(f"{name} must have as many rows as media, {rows}, not {length}", "columns")
    finite = np.ones(rows, dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):  # a mean may overflow
        if "features" in given:
            given["features"] = flat(given["features"])
        for array in given.values():
            finite &= np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    media, told = event.media, event.labels
    if not finite.all():
        kept = np.flatnonzero(finite)
        media, told = [media[row] for row in kept], None if told is None else [told[row] for row in kept]
        given = {name: array[kept] for name, array in given.items()}
    passes, probabilities = None, given.get("probabilities")
    if probabilities is not None:
        probabilities = distributions(probabilities, event)
        if probabilities.ndim == 3:
            passes, probabilities = probabilities, probabilities.mean(axis=1)
    labels = labels_of(event, told, len(media), probabilities)
    utilities = {name: given[field] for name, field in external.items()}
    return Columns(media, labels, probabilities, passes, given.get("features"), utilities, rows - len(media))


def distributions(given: Array, event: ArtifactsInferred) -> Array:
    """Probabilities of shape (rows, classes), or (rows, passes, classes), checked, and without what rounding adds."""
    classes = given.shape[-1]
    if len(given) and event.classes is not None and len(event.classes) != classes:
        raise MalformedEvent(
            f"classes must name the {classes} columns of probabilities, not {len(event.classes)}", "columns"
        )
    if given.size and not (given.min() >= -ROUNDED and given.max() <= 1 + ROUNDED):
        raise MalformedEvent("probabilities must be in 0..1", "columns")
    if not event.multi_label and given.size:
        sums = given.sum(axis=-1)
        off = np.abs(sums - 1)
        if off.max() > SUM_TOLERANCE:
            worst = float(sums.flat[off.argmax()])
            raise MalformedEvent(
                f"probabilities must sum to 1 in each row, not to {worst:.6g}; or set multi_label", "columns"
            )
    return np.clip(given, 0, 1)


def flat(features: Array) -> Array:
    """Features of shape (rows, D): axes of length 1 are dropped, then those behind D, spatial ones, averaged.

    As models emit them: a number, D, (D, L), or (D, H, W) for each row, with or without axes of length 1 anywhere.

    Raises:
        MalformedEvent: more axes than that.

    >>> [flat(np.ones((2, *shape))).shape[1] for shape in ((), (3,), (3, 1, 1), (3, 4, 4), (1, 3, 4, 4), (1, 3, 4))]
    [1, 3, 3, 3, 3, 3]
    """
    shape = [length for length in features.shape[1:] if length > 1] or [1]
    if len(shape) > SPATIAL:
        raise MalformedEvent(
            f"features must have at most {SPATIAL} axes behind the rows, not the shape {shape}", "columns"
        )
    squeezed = features.reshape(len(features), *shape)
    averaged: Array = (
        squeezed.mean(axis=tuple(range(2, squeezed.ndim)), dtype=np.float64) if squeezed.ndim > 2 else squeezed
    )
    return averaged


def labels_of(
    event: ArtifactsInferred, told: Sequence[str | list[str] | None] | None, rows: int, probabilities: Array | None
) -> list[str | None]:
    """The label of each row that is kept: as told (of several, the first), else of the largest probability."""
    if told is not None:
        return [(each[0] if each else None) if isinstance(each, list) else each for each in told]
    if probabilities is None or event.classes is None or event.multi_label:
        return [None] * rows
    return [event.classes[i] for i in probabilities.argmax(axis=1).tolist()]
