"""Chunks: the columns of a batch inference, split so that Kafka takes them, and events written as MessagePack."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from streams.decode import short
from streams.errors import MalformedEvent
from streams.media import Image, Medium
from streams.tensors import Tensor

CHUNK_BYTES = 900_000  # of the 1 MB that a chunk should not exceed
CHUNK_ROWS = 1000
TEXT_BYTES = 5  # what a text costs beside its bytes, at most
ROW_BYTES = 64  # what a row costs beside its numbers, ids and labels


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """What a model said of some media, a row for each, or for each region of one.

    media: ids of images, or `VideoFrame`s. labels: what a person annotated (seen), or the model predicted (unseen).
    probabilities: (rows, classes), or (rows, passes, classes). features: (rows, D), spatial axes behind D.
    utilities: numbers of your own, (rows,) each; at most 8. no_prediction: media in which the model found nothing.
    """

    media: Sequence[str | Medium]
    labels: Sequence[str | Sequence[str] | None] | None = None
    probabilities: ArrayLike | None = None
    features: ArrayLike | None = None
    utilities: Mapping[str, ArrayLike] = field(default_factory=dict)
    no_prediction: Sequence[str | Medium] = ()


def encoded(event: Mapping[str, Any]) -> bytes:
    """An event as MessagePack."""
    try:
        return msgspec.msgpack.encode(event)
    except (TypeError, ValueError, OverflowError, RecursionError) as why:  # UnicodeEncodeError is a ValueError
        raise MalformedEvent(f"an event must be made of texts, numbers, lists and objects: {short(str(why))}") from why


def medium_of(given: str | Medium) -> Medium:
    """A medium; a text is the id of an image."""
    if isinstance(given, str):
        return Image(str(given))  # numpy has texts of its own
    if not isinstance(given, Medium):
        raise MalformedEvent(f"media must be ids of images, or media, not {short(repr(given))}")
    return given


def media_of(given: Sequence[str | Medium]) -> list[Medium]:
    """Media, out of a list of them or of ids of images."""
    return [medium_of(each) for each in listed("media", given)]


def labels_of(given: Sequence[Any]) -> list[str | list[str] | None]:
    """Labels as texts, or lists of them; a whole number is the text that it is written as."""
    return [each if each is None else label_of(each) for each in listed("labels", given)]


def label_of(given: Any) -> str | list[str]:
    """A label, or the list of labels of one row."""
    if isinstance(given, list | tuple | np.ndarray) and np.ndim(given) == 1:
        return [text_of(each) for each in given]
    return text_of(given)


def text_of(label: Any) -> str:
    """A label as a text."""
    if not isinstance(label, str | int | np.integer) or isinstance(label, bool):
        raise MalformedEvent(f"labels must be texts, whole numbers, or lists of them, not {short(repr(label))}")
    return str(label)


def listed(name: str, given: Any) -> list[Any]:
    """What was given as a list, in its order."""
    if isinstance(given, str | bytes | Set | Mapping) or not isinstance(given, Iterable):
        raise MalformedEvent(f"{name} must be a list, not {short(repr(given))}")
    return list(given)


def numbers(name: str, column: ArrayLike, rows: int) -> NDArray[Any]:
    """A column as an array that can be sent: halves, singles and doubles as they are, other numbers as doubles."""
    try:
        array = np.asarray(column)
    except ValueError as why:
        raise MalformedEvent(f"{name} must be an array: its rows are of unequal length or depth") from why
    if array.dtype.kind not in "fiub":
        raise MalformedEvent(f"{name} must be real numbers, not {array.dtype}")
    if array.ndim == 0 or len(array) != rows:
        told = "a single number" if array.ndim == 0 else len(array)
        raise MalformedEvent(f"{name} must have as many rows as media, {rows}, not {told}")
    return array if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else array.astype(np.float64)


def chunks(artifacts: Artifacts, room: int = CHUNK_BYTES) -> Iterator[dict[str, Any]]:
    """The columns of artifacts in chunks that Kafka takes; all rows of a medium are in one.

    room: bytes that a chunk's rows may have.

    Raises:
        MalformedEvent: columns of unequal length or that are no numbers, or a medium that does not fit into a chunk.
    """
    media = media_of(artifacts.media)
    given = {
        name: numbers(name, column, len(media))
        for name, column in (("probabilities", artifacts.probabilities), ("features", artifacts.features))
        if column is not None
    }
    utilities = {name: numbers(f"utilities.{name}", column, len(media)) for name, column in artifacts.utilities.items()}
    labels = None if artifacts.labels is None else labels_of(artifacts.labels)
    if labels is not None and len(labels) != len(media):
        raise MalformedEvent(f"labels must have as many rows as media, {len(media)}, not {len(labels)}")
    columns = [*given.values(), *utilities.values()]
    row_bytes = ROW_BYTES + sum(column.nbytes // max(1, len(media)) for column in columns)
    for rows in split(media, labels, row_bytes, room):
        part: dict[str, Any] = {"media": [media[row] for row in rows]}
        part |= {name: Tensor.of(column[rows]) for name, column in given.items()}
        if utilities:
            part["utilities"] = {name: Tensor.of(column[rows]) for name, column in utilities.items()}
        if labels is not None:
            part["labels"] = [labels[row] for row in rows]
        yield part
    blind = media_of(artifacts.no_prediction)
    for first in range(0, len(blind), CHUNK_ROWS):
        yield {"media": [], "no_prediction": blind[first : first + CHUNK_ROWS]}


def packed(values: Sequence[Any]) -> Iterator[list[Any]]:
    """Values in lists that fit into a chunk, as they are written in MessagePack."""
    part: list[Any] = []
    weight = 0
    for value in values:
        more = len(encoded(value))
        if part and (weight + more > CHUNK_BYTES or len(part) == CHUNK_ROWS):
            yield part
            part, weight = [], 0
        part.append(value)
        weight += more
    if part:
        yield part


def split(
    media: Sequence[Medium], labels: Sequence[str | list[str] | None] | None, row_bytes: int, room: int = CHUNK_BYTES
) -> Iterator[NDArray[np.intp]]:
    """The rows of each chunk.

    row_bytes: what each row costs beside its id and labels.
    """
    rows_of: dict[Medium, list[int]] = {}
    for row, medium in enumerate(media):
        rows_of.setdefault(medium, []).append(row)
    chunk: list[int] = []
    weight = 0
    for medium, rows in rows_of.items():
        texts = [medium.media_id] * len(rows)
        for row in rows if labels is not None else ():
            told = labels[row] if labels is not None else None
            texts += [told] if isinstance(told, str) else told or []
        more = row_bytes * len(rows) + sum(len(text.encode(errors="replace")) + TEXT_BYTES for text in texts)
        if more > room:
            raise MalformedEvent(f"a medium must fit into a chunk of {room} bytes: {short(str(medium))} has {more}")
        if chunk and (weight + more > room or len(chunk) + len(rows) > CHUNK_ROWS):
            yield np.array(chunk)
            chunk, weight = [], 0
        chunk += rows
        weight += more
    if chunk:
        yield np.array(chunk)
