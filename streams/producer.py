"""The producer client: numpy arrays in, where the model runs; it returns when Kafka has them, or says what is wrong."""

import asyncio
import threading
import time
import uuid
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from numpy.typing import ArrayLike, NDArray

from streams.artifacts import columns
from streams.errors import KafkaUnavailable, MalformedEvent
from streams.events import MSGPACK, ArtifactsInferred, decode, short
from streams.media import Image, Medium
from streams.record import Headers, Record
from streams.tensors import Tensor

CHUNK_BYTES = 900_000  # of the 1 MB that a chunk should not exceed
CHUNK_ROWS = 1000
TEXT_BYTES = 5  # what a text costs beside its bytes, at most
ROW_BYTES = 64  # what a row costs beside its numbers, ids and labels
TIMEOUT_S = 30.0

T = TypeVar("T")
Receipt = dict[str, int]  # the offset of the last record in each topic: an answer's `as_of` has reached it, or not


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


class Producer:
    """Publishes the events of one project; a context manager, to be used from one thread.

    Every method returns when Kafka has acknowledged all records.

    Raises:
        MalformedEvent: what was given is no event, as a worker would say of it; nothing of it was sent.
        KafkaUnavailable: Kafka does not answer, or refuses.
    """

    def __init__(
        self, broker: str, *, workspace_id: str, project_id: str, storage_id: str = "", prefix: str = ""
    ) -> None:
        """Connects when the block is entered.

        storage_id: the dataset storage that the media are in; the project's id if none is given.
        prefix: ACTIVESET_TOPIC_PREFIX of the workers.
        """
        self.broker = broker
        self.project_id = project_id
        self._about = {"workspace_id": workspace_id, "project_id": project_id}
        self._storage = {"dataset_storage_id": storage_id or project_id}
        self._prefix = prefix
        # A loop of its own, in a thread: a notebook has one already, which must not be blocked.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="activeset-producer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._kafka = self._wait(self._connect())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait(self._kafka.stop())
        finally:
            self._end()

    def project(self, tasks: Sequence[Mapping[str, Any]], *, name: str = "", preset: str = "balanced") -> Receipt:
        """The project as it is from now on: its tasks in pipeline order, and how media are chosen."""
        return self.publish(
            "project_updates",
            {**self._storage, "name": name, "tasks": list(tasks), "active_learning": {"preset": preset}},
        )

    def upload(self, media: Sequence[str | Mapping[str, Any]]) -> Receipt:
        """Media exist: ids of images, or objects with `media_type`, `media_id` and whatever should be shown again."""
        told = [{"media_type": "image", "media_id": str(each)} if isinstance(each, str) else each for each in media]
        parts = (told[first : first + CHUNK_ROWS] for first in range(0, len(told), CHUNK_ROWS))
        return self.publish("media_uploads", *({**self._storage, "media": part} for part in parts))

    def annotate(self, media: Sequence[str | Medium], states: Mapping[str, str], user_id: str | None = None) -> Receipt:
        """A person annotated media: in each task `annotated`, `partially_annotated`, `to_revisit`; `none` undoes it."""
        about = {"states": dict(states), **({"user_id": user_id} if user_id else {})}
        told = (msgspec.to_builtins(medium_of(each)) for each in media)
        return self.publish("annotation_updates", *({**each, **about} for each in told))

    def activate(self, task_id: str, model_id: str) -> Receipt:
        """A model became the active one of its task: what it says counts before what others said."""
        return self.publish("model_activations", {"task_id": task_id, "model_id": model_id})

    def infer(
        self,
        task_id: str,
        model_id: str,
        *,
        unseen: Artifacts,
        seen: Artifacts | None = None,
        classes: Sequence[str] | None = None,
        multi_label: bool = False,
    ) -> Receipt:
        """A batch inference, in chunks: first on media that the model was trained on, then on those it was not.

        classes: the label id of each column of the probabilities.
        """
        batch = {
            **self._storage,
            "task_id": task_id,
            "model_id": model_id,
            "batch_id": uuid.uuid4().hex,
            "multi_label": multi_label,
            **({"classes": [str(each) for each in classes]} if classes is not None else {}),
        }
        room = CHUNK_BYTES - len(encoded(batch))
        parts = [{"subset": "seen", **part} for part in chunks(seen, room)] if seen is not None else []
        parts += [{"subset": "unseen", **part} for part in chunks(unseen, room)]
        return self.publish(
            "inference_artifacts",
            *({**batch, **part, "chunk": n, "last": n == len(parts) - 1} for n, part in enumerate(parts)),
        )

    def publish(self, topic: str, *events: Mapping[str, Any]) -> Receipt:
        """Publish events of any topic, without the members that all have; nothing is sent if one is malformed."""
        about = {**self._about, "timestamp": time.time_ns() // 1_000_000}
        headers: Headers = [("content-type", MSGPACK.encode())]
        records = []
        for event in events:
            value = encoded({**about, **event})
            record = Record(self._prefix + topic, 0, self.project_id.encode(), value, headers)
            checked = decode(record, topic)
            if isinstance(checked, ArtifactsInferred):
                columns(checked)
            records.append(record)
        offset = self._wait(self._send(records))
        return {} if offset is None else {topic: offset}

    async def _connect(self) -> AIOKafkaProducer:
        kafka = AIOKafkaProducer(
            bootstrap_servers=self.broker,
            acks="all",
            enable_idempotence=True,
            max_request_size=2 * CHUNK_BYTES,
            request_timeout_ms=int(TIMEOUT_S * 1000),
        )
        try:
            await kafka.start()
        except BaseException:
            await kafka.stop()
            raise
        return kafka

    async def _send(self, records: Sequence[Record]) -> int | None:
        """Send records in order; the offset of the last one, once all are acknowledged."""
        sent = [
            await self._kafka.send(record.topic, record.value, record.key, headers=record.headers) for record in records
        ]
        told = await asyncio.gather(*sent)
        return int(told[-1].offset) if told else None

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, TIMEOUT_S), self._loop).result()
        except (KafkaError, OSError, TimeoutError) as why:
            raise KafkaUnavailable(f"Kafka at {self.broker} did not take what was sent: {why!r}") from why

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


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


def labels_of(given: Sequence[Any]) -> list[str | list[str] | None]:
    """Labels as texts, or lists of them."""
    return [
        each if each is None else str(each) if isinstance(each, str) else [str(label) for label in each]
        for each in given
    ]


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
    media = [medium_of(each) for each in artifacts.media]
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
    blind = [medium_of(each) for each in artifacts.no_prediction]
    for first in range(0, len(blind), CHUNK_ROWS):
        yield {"media": [], "no_prediction": blind[first : first + CHUNK_ROWS]}


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
