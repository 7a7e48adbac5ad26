"""The producer client: numpy arrays in, where the model runs; it returns when Kafka has them, or says what is wrong."""

import asyncio
import threading
import time
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.artifacts import columns
from streams.chunks import CHUNK_BYTES, Artifacts, chunks, encoded, listed, media_of, packed, text_of
from streams.decode import MSGPACK, decode, short
from streams.errors import REFUSALS, KafkaUnavailable, MalformedEvent, RecordRefused
from streams.events import OF_TOPIC, ArtifactsInferred
from streams.media import Image, Medium, Video
from streams.record import MESSAGE_BYTES, Headers, Record

__all__ = ["Artifacts", "Producer", "Receipt"]

TIMEOUT_S = 30.0  # without an answer from Kafka

T = TypeVar("T")
Receipt = dict[str, int]  # the offset of the last record in each topic: an answer's `as_of` has reached it, or not


class Producer:
    """Publishes the events of one project; a context manager, to be used from one thread.

    Every method returns when Kafka has acknowledged all records.

    Raises:
        MalformedEvent: what was given is no event, as a worker would say of it; nothing of it was sent.
        RecordRefused: Kafka refuses what was sent, and would again; what is before it may have been taken.
        KafkaUnavailable: Kafka does not answer.
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
        self._kafka: AIOKafkaProducer | None = None
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
            self._wait(self._close())
        finally:
            self._end()

    def project(
        self,
        tasks: Sequence[Mapping[str, Any]],
        *,
        name: str = "",
        preset: str = "balanced",
        active_learning: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """The project as it is from now on: its tasks in pipeline order, and how media are chosen.

        active_learning: what else is to be set (`streams.events.ActiveLearning`).
        """
        how = {"preset": preset, **(active_learning or {})}
        return self.publish(
            "project_updates", {**self._storage, "name": name, "tasks": listed("tasks", tasks), "active_learning": how}
        )

    def delete_project(self) -> Receipt:
        """The project is gone, with all that it had; told again later, it begins anew."""
        return self.publish("project_deletions", {})

    def upload(self, media: Sequence[str | Mapping[str, Any]]) -> Receipt:
        """Media exist: ids of images, or objects with `media_type`, `media_id` and whatever should be shown again."""
        told = [
            {"media_type": "image", "media_id": str(each)} if isinstance(each, str) else each
            for each in listed("media", media)
        ]
        return self.publish("media_uploads", *({**self._storage, "media": part} for part in packed(told)))

    def delete(self, media: Sequence[str | Image | Video]) -> Receipt:
        """Media are gone: ids of images, or images and videos; a video takes its frames along."""
        told = [Image(str(each)) if isinstance(each, str) else each for each in listed("media", media)]
        return self.publish("media_deletions", *({**self._storage, "media": part} for part in packed(told)))

    def annotate(self, media: Sequence[str | Medium], states: Mapping[str, str], user_id: str | None = None) -> Receipt:
        """A person annotated media: in each task `annotated`, `partially_annotated`, `to_revisit`; `none` undoes it."""
        about = {"states": dict(states), **({"user_id": user_id} if user_id else {})}
        told = [msgspec.to_builtins(medium) for medium in media_of(media)]
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
        novelty: bool = False,
    ) -> Receipt:
        """A batch inference, in chunks: first on media that the model was trained on, then on those it was not.

        classes: the label id of each column of the probabilities. novelty: whether that utility is wanted, which costs
        more than the others.
        """
        batch = {
            **self._storage,
            "task_id": task_id,
            "model_id": model_id,
            "batch_id": uuid.uuid4().hex,
            "multi_label": multi_label,
            "novelty": novelty,
            **({"classes": [text_of(each) for each in listed("classes", classes)]} if classes is not None else {}),
        }
        room = CHUNK_BYTES - len(encoded(batch))
        if room < CHUNK_BYTES // 2:
            raise MalformedEvent(f"classes must leave room for rows in a chunk of {CHUNK_BYTES} bytes")
        parts = [{"subset": "seen", **part} for part in chunks(seen, room)] if seen is not None else []
        parts += [{"subset": "unseen", **part} for part in chunks(unseen, room)]
        return self.publish(
            "inference_artifacts",
            *({**batch, **part, "chunk": n, "last": n == len(parts) - 1} for n, part in enumerate(parts)),
        )

    def publish(self, topic: str, *events: Mapping[str, Any]) -> Receipt:
        """Publish events of any topic, without the members that all have; nothing is sent if one is malformed."""
        if topic not in OF_TOPIC:
            raise MalformedEvent(f"topic must be one of {', '.join(OF_TOPIC)}, not {short(topic)!r}")
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
            max_request_size=MESSAGE_BYTES,
            request_timeout_ms=int(TIMEOUT_S * 1000),
        )
        try:
            await asyncio.wait_for(kafka.start(), TIMEOUT_S)
        except BaseException:
            await kafka.stop()
            raise
        return kafka

    async def _send(self, records: Sequence[Record]) -> int | None:
        """Send records in order; the offset of the last one, once all are acknowledged."""
        if self._kafka is None:
            self._kafka = await self._connect()
        try:
            sent = [
                await self._kafka.send(record.topic, record.value, record.key, headers=record.headers)
                for record in records
            ]
            await asyncio.gather(*sent, return_exceptions=True)  # no error is left unheard
            told = [await each for each in sent]
        except (KafkaError, OSError):
            # Kafka counts what a connection has sent, and takes nothing after what is missing: the next one is new.
            await self._close()
            raise
        return int(told[-1].offset) if told else None

    async def _close(self) -> None:
        kafka, self._kafka = self._kafka, None
        if kafka is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(kafka.stop(), TIMEOUT_S)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._loop.is_running():
            work.close()
            raise RuntimeError("a Producer is used in a block: with Producer(...) as producer")
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except REFUSALS as why:
            raise RecordRefused(f"Kafka at {self.broker} refuses what was sent, and would again: {why!r}") from why
        except (KafkaError, OSError, TimeoutError) as why:
            raise KafkaUnavailable(f"Kafka at {self.broker} did not take what was sent: {why!r}") from why

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
