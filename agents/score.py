"""Scoring: from the columns of an unseen chunk to the utilities and the predicted label of each medium."""

from dataclasses import dataclass

import numpy as np

from agents.extractors import fre_class_agnostic, margin
from streams.artifacts import Columns
from streams.media import Medium
from streams.tensors import Array
from tables.rows import UTILITIES


@dataclass(frozen=True)
class Scored:
    """What came of the media of a chunk: the label that was predicted for each, and its utilities, NaN where none is.

    utilities: in the order of the labels.
    failed: how many extractors could not answer; the others stand.
    """

    labels: dict[Medium, str | None]
    utilities: dict[str, Array]
    failed: int


def score(columns: Columns, seen: Array | None, *, multi_label: bool) -> Scored:
    """The utilities that the columns allow, one row per medium: of its regions, the one with the largest utility.

    seen: features of media that the model was trained on, (rows, D), if there are any.
    """
    found: dict[str, Array] = {}
    failed = 0
    if columns.probabilities is not None:
        found["margin"] = margin(columns.probabilities, multi_label=multi_label)
    if columns.features is not None and seen is not None:
        try:
            found["fre_class_agnostic"] = fre_class_agnostic(columns.features, seen)
        except (ValueError, np.linalg.LinAlgError, FloatingPointError, MemoryError):
            failed += 1
    places = {medium: place for place, medium in enumerate(dict.fromkeys(columns.media))}
    of_row = np.array([places[medium] for medium in columns.media], dtype=np.intp)
    utilities = {name: np.full(len(places), np.nan) for name in UTILITIES}
    for name, column in found.items():
        utilities[name] = np.full(len(places), -np.inf)
        np.maximum.at(utilities[name], of_row, column)
    labels: dict[Medium, str | None] = dict.fromkeys(places)
    leading = next(iter(found.values()), np.zeros(len(of_row)))
    for row in np.argsort(leading, kind="stable"):
        labels[columns.media[row]] = columns.labels[row]
    return Scored(labels, utilities, failed)
