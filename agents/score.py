"""Scoring: from the columns of an unseen chunk to the utilities and the predicted label of each medium."""

import inspect
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import extractors
from agents.extractors import Seen
from streams.artifacts import Columns
from streams.tensors import Array
from tables.arrays import Places, each_bytes
from tables.rows import HASH_BYTES, medium_bytes, number_of
from tables.sketches import Sketches
from tables.slots import UTILITIES

log = logging.getLogger("activeset.agents")

# What each extractor is given, by the names of its parameters.
NEEDS = {name: tuple(inspect.signature(getattr(extractors, name)).parameters) for name in UTILITIES}


@dataclass(frozen=True)
class Scored:
    """What came of the media of a chunk, and the label that was predicted for each.

    media: the 12 bytes of each, once. utilities: of the built-in extractors, NaN where there is none; external: as the
    producer named them; sketches: of the features. All in the order of the media.
    failed: how often an extractor, or one label of it, could not answer; the others stand.
    """

    media: list[bytes]
    labels: list[str | None]
    utilities: dict[str, Array]
    external: dict[str, Array]
    sketches: Sketches
    failed: int


def score(columns: Columns, seen: Seen | None, *, multi_label: bool, novelty: bool = False) -> Scored:
    """The utilities that the columns allow, one for each medium: of its regions, the largest.

    Its label and sketch are those of the region with the largest utility of the first extractor that has any.

    seen: features of media that the model was trained on, if there are any. novelty: whether that is asked for.
    """
    given = given_of(columns, seen, multi_label=multi_label)
    found: dict[str, Array] = {}
    failed = 0
    for name, needs in NEEDS.items():
        if not columns.media or any(given[each] is None for each in needs) or (name == "novelty" and not novelty):
            continue
        try:
            with np.errstate(divide="ignore", invalid="ignore"):  # what is no number is no utility
                utilities = getattr(extractors, name)(**{each: given[each] for each in needs})
            found[name], without = utilities if isinstance(utilities, tuple) else (utilities, 0)
        except Exception as why:  # noqa: BLE001 - no chunk stops a worker, whatever an extractor cannot take
            log.debug("%s has no answer: %r", name, why)
            without = 1
        failed += without

    media, labels = [medium_bytes(each) for each in columns.media], columns.labels
    features, external = columns.features, columns.utilities
    places = {medium: place for place, medium in enumerate(dict.fromkeys(media))}
    if len(places) < len(media):
        of_row = np.array([places[medium] for medium in media], dtype=np.intp)
        leads = leading(found, of_row, len(places))
        media, labels = [*places], [labels[row] for row in leads.tolist()]
        found = {name: largest(each, of_row, len(places)) for name, each in found.items()}
        external = {name: largest(each, of_row, len(places)) for name, each in external.items()}
        features = None if features is None else features[leads]
    nothing = np.full(len(media), np.nan)
    return Scored(
        media,
        labels,
        {name: found.get(name, nothing) for name in UTILITIES},
        external,
        Sketches.none(len(media)) if features is None else Sketches.of(features),
        failed,
    )


def leading(found: Mapping[str, Array], of_row: Places, media: int) -> Places:
    """Of each medium the region with the largest utility of the first extractor that has any; of equal ones the last.

    of_row: of which medium each region is.
    """
    first = next((each for each in found.values() if np.isfinite(each).any()), np.zeros(len(of_row)))
    order = np.argsort(np.nan_to_num(first, nan=-np.inf), kind="stable")
    leads = np.zeros(media, np.intp)
    leads[of_row[order]] = order  # the last one stays
    return leads


def largest(utility: Array, of_row: Places, media: int) -> Array:
    """Of each medium the largest utility of a region. of_row: of which medium each region is."""
    reduced = np.full(media, np.nan)
    np.fmax.at(reduced, of_row, utility)
    return reduced


def given_of(columns: Columns, seen: Seen | None, *, multi_label: bool) -> dict[str, Any]:
    """What a chunk gives to extractors, by the names of their parameters; none where it has nothing."""
    alike = columns.features is not None and seen is not None and seen.features.shape[1:] == columns.features.shape[1:]
    # As hashes, 0 for none: where none is known, no predicted one is like any.
    labelled = seen is not None and any(seen.labels)
    numbers = {each: number_of(each) if each is not None else None for each in {*columns.labels}}
    labels = [numbers[each] for each in columns.labels] if labelled else None
    return {
        "probabilities": columns.probabilities,
        "passes": columns.passes,
        "features": columns.features,
        "labels": labels,
        "seen": seen if alike else None,
        "multi_label": multi_label,
    }


REFERENCE = (("label", "<u8"), ("bytes", "u1"))  # then the features, of so many bytes each


@dataclass(frozen=True)
class Learnt:
    """What a chunk of seen media leaves behind.

    labels: the number of the label of each medium that has one; of several regions, that of the first.
    references: features of each region, as they are kept, in single precision if they came so; by a hash, the medium
    and which of its regions it is. By the hash, that some of them are a sample: the frames of a video follow each
    other.
    """

    labels: dict[bytes, int]
    references: dict[bytes, bytes]


def learnt(columns: Columns) -> Learnt:
    """What a chunk of seen media leaves behind."""
    names = {medium: medium_bytes(medium) for medium in columns.media}
    numbers = {label: number_of(label) for label in {*columns.labels}}
    media, labels = [names[medium] for medium in columns.media], [numbers[label] for label in columns.labels]
    of_first = dict(zip(reversed(media), reversed(labels), strict=True))
    references: dict[bytes, bytes] = {}
    if columns.features is not None:
        regions: Counter[bytes] = Counter()
        for medium, value in zip(media, reference_values(labels, columns.features), strict=True):
            digest = blake2b(medium, digest_size=HASH_BYTES).digest()
            references[digest + medium + regions[medium].to_bytes(4, "big")] = value
            regions[medium] += 1
    return Learnt({medium: label for medium, label in of_first.items() if label}, references)


def reference_values(labels: list[int], features: NDArray[Any]) -> list[bytes]:
    """References as they are kept. labels: as numbers; features: (rows, D), float32 or float64."""
    size = features.dtype.itemsize
    rows: Any = np.empty(len(labels), np.dtype([*REFERENCE, ("features", f"<f{size}", features.shape[1:])]))
    rows["label"], rows["bytes"], rows["features"] = labels, size, features
    return each_bytes(rows)


def single(references: list[bytes]) -> bool:
    """Whether all features of references are in single precision."""
    return all(value[HASH_BYTES] == np.dtype(np.float32).itemsize for value in references)


def seen_of(references: list[bytes]) -> Seen | None:
    """What references hold; none if there are none. All have as many features."""
    if not references:
        return None
    labels, features = list[int](), list[Array]()
    for size, alike in groupby(references, lambda value: value[HASH_BYTES]):
        some = [*alike]
        width = (len(some[0]) - np.dtype([*REFERENCE]).itemsize) // size
        rows: Any = np.frombuffer(b"".join(some), np.dtype([*REFERENCE, ("features", f"<f{size}", (width,))]))
        labels += rows["label"].tolist()
        features.append(rows["features"].astype(np.float64))
    return Seen(np.concatenate(features), labels)
