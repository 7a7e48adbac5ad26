"""Scoring: from the columns of an unseen chunk to the utilities and the predicted label of each medium."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agents.extractors import Seen, fre, fre_class_agnostic, margin
from streams.artifacts import Columns
from streams.media import Medium
from streams.tensors import Array
from tables.rows import HASH_BYTES, number_of
from tables.slots import UTILITIES


@dataclass(frozen=True)
class Scored:
    """What came of the media of a chunk: the label that was predicted for each, and its utilities, NaN where none is.

    utilities: of the built-in extractors; external: as the producer named them. In the order of the labels.
    failed: how often an extractor, or one label of it, could not answer; the others stand.
    """

    labels: dict[Medium, str | None]
    utilities: dict[str, Array]
    external: dict[str, Array]
    failed: int


def score(columns: Columns, seen: Seen | None, *, multi_label: bool) -> Scored:
    """The utilities that the columns allow, one for each medium: of its regions, the largest.

    Its label is that of the region with the largest utility of the first extractor that has any.

    seen: features of media that the model was trained on, if there are any.
    """
    # Each gives its utilities, and how often it could not answer.
    extractors: dict[str, Callable[[], tuple[Array, int]]] = {}
    if columns.probabilities is not None:
        probabilities = columns.probabilities
        extractors["margin"] = lambda: (margin(probabilities, multi_label=multi_label), 0)
    if columns.features is not None and seen is not None and seen.features.shape[1:] == columns.features.shape[1:]:
        features, predicted = columns.features, [each if each is None else number_of(each) for each in columns.labels]
        if any(seen.labels):  # as hashes, 0 for none: where none is known, no predicted one is like any
            extractors["fre"] = lambda: fre(features, predicted, seen)
        extractors["fre_class_agnostic"] = lambda: (fre_class_agnostic(features, seen), 0)
    found: dict[str, Array] = {}
    failed = 0
    for name, extractor in extractors.items():
        try:
            found[name], without = extractor()
        except (ValueError, np.linalg.LinAlgError, FloatingPointError, MemoryError):
            without = 1
        failed += without

    places = {medium: place for place, medium in enumerate(dict.fromkeys(columns.media))}
    of_row = np.array([places[medium] for medium in columns.media], dtype=np.intp)

    def largest(column: Array) -> Array:
        reduced = np.full(len(places), np.nan)
        np.fmax.at(reduced, of_row, column)
        return reduced

    nothing = np.full(len(places), np.nan)
    labels: dict[Medium, str | None] = dict.fromkeys(places)
    leading = next((each for each in found.values() if np.isfinite(each).any()), np.zeros(len(of_row)))
    for row in np.argsort(np.nan_to_num(leading, nan=-np.inf), kind="stable"):
        labels[columns.media[row]] = columns.labels[row]
    return Scored(
        labels,
        {name: largest(found[name]) if name in found else nothing for name in UTILITIES},
        {name: largest(column) for name, column in columns.utilities.items()},
        failed,
    )


def seen_of(references: list[bytes]) -> Seen | None:
    """What references hold; none if there are none.

    references: a label's hash and features (f8) each; all of one length.
    """
    if not references:
        return None
    labels = [int.from_bytes(value[:HASH_BYTES], "little") for value in references]
    numbers = b"".join(value[HASH_BYTES:] for value in references)
    features = np.frombuffer(numbers, "<f8").reshape(len(references), -1)
    return Seen(features, labels)
