"""What is fed to the arms: the events of a project as records, made before any clock runs, and sent as they are."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from numpy.typing import NDArray

from streams.decode import JSON, MSGPACK
from streams.record import MESSAGE_BYTES
from streams.settings import Settings
from streams.tensors import Tensor

CLASSES = 10
SEEN = 1000
LATENT = 32  # axes along which most of the features lie
TASK, MODEL = "task", "model"
UPLOADS = 1000  # in an event


@dataclass(frozen=True)
class Load:
    """A batch inference: so many chunks of unseen rows, float16, after those that the model was trained on.

    features: numbers of each row; 0: none are told, and no media are seen.
    """

    chunks: int = 40
    rows: int = 256
    features: int = 256
    preset: str = "balanced"
    form: str = MSGPACK

    @property
    def total(self) -> int:
        """Unseen rows of all chunks."""
        return self.chunks * self.rows

    def events(self, project: str, batch: str) -> "Events":
        """The events of a project that has this batch."""
        about = {"workspace_id": "w", "project_id": project, "timestamp": time.time_ns() // 1_000_000}
        stored = {**about, "dataset_storage_id": project}
        head = {
            **stored,
            "task_id": TASK,
            "model_id": MODEL,
            "batch_id": batch,
            "classes": [f"class {n}" for n in range(CLASSES)],
        }
        random = np.random.default_rng(self.features)
        space = Space(random, self.features)
        seen = [self._chunk(head, "seen", "seen", 0, SEEN, space, random)] if self.features else []
        unseen = [
            self._chunk(head, "unseen", "image", n * self.rows, self.rows, space, random) for n in range(self.chunks)
        ]
        parts = [*seen, *unseen]
        values = [self.encoded({**part, "chunk": n, "last": n == len(parts) - 1}) for n, part in enumerate(parts)]
        media = [name("image", n) for n in range(self.total)]
        return Events(
            project,
            [
                ("project_updates", [self.encoded({**stored, "tasks": [TOLD], "active_learning": self._learning()})]),
                ("model_activations", [self.encoded({**about, "task_id": TASK, "model_id": MODEL})]),
                (
                    "media_uploads",
                    [
                        self.encoded({**stored, "media": media[first : first + UPLOADS]})
                        for first in range(0, len(media), UPLOADS)
                    ],
                ),
            ],
            values[: len(seen)],
            values[len(seen) :],
            self.form,
        )

    def _learning(self) -> dict[str, Any]:
        return {"preset": self.preset}

    def _chunk(
        self,
        head: dict[str, Any],
        subset: str,
        of: str,
        first: int,
        rows: int,
        space: "Space",
        random: np.random.Generator,
    ) -> dict[str, Any]:
        """A chunk; what is seen is labelled."""
        labels = (np.arange(rows) + first) % CLASSES
        told: dict[str, Any] = {**head, "subset": subset, "media": [name(of, first + n) for n in range(rows)]}
        told["probabilities"] = Tensor.of(probabilities(random, labels))
        if self.features:
            told["features"] = Tensor.of(space.features(labels))
        if subset == "seen":
            told["labels"] = [head["classes"][label] for label in labels]
        return told

    def encoded(self, event: dict[str, Any]) -> bytes:
        """An event as it stands in a record."""
        return msgspec.json.encode(event) if self.form == JSON else msgspec.msgpack.encode(event)


TOLD = {"task_id": TASK, "task_type": "classification"}


@dataclass(frozen=True)
class Events:
    """The events of a project: what is told first, by topic, then the chunks."""

    project: str
    first: list[tuple[str, list[bytes]]]
    seen: list[bytes]
    unseen: list[bytes]
    form: str


class Space:
    """Where features lie: around a centre for each class, along some axes, with a little noise in all directions."""

    def __init__(self, random: np.random.Generator, features: int) -> None:
        self._random = random
        self._centres = random.normal(size=(CLASSES, features))
        self._axes = random.normal(size=(CLASSES, min(LATENT, max(features // 4, 1)), features)) / features**0.5

    def features(self, labels: NDArray[np.int64]) -> NDArray[np.float16]:
        """Features of rows with these labels, (rows, D)."""
        axes = self._axes[labels]
        along = self._random.normal(size=axes.shape[:2])
        noise = 0.02 * self._random.normal(size=(len(labels), axes.shape[2]))
        found = self._centres[labels] + np.einsum("nk,nkd->nd", along, axes) + noise
        return np.asarray(found, np.float16)


def probabilities(random: np.random.Generator, labels: NDArray[np.int64]) -> NDArray[np.float16]:
    """Probabilities as a trained classifier gives them, (rows, CLASSES); the largest is mostly that of the label."""
    found: NDArray[np.float64] = random.dirichlet(np.full(CLASSES, 0.5), len(labels))
    found[np.arange(len(labels)), labels] += 1
    halves: NDArray[np.float16] = (found / 2).astype(np.float16)
    return halves


def name(of: str, number: int) -> dict[str, str]:
    """A medium."""
    return {"media_type": "image", "media_id": f"{of}-{number:07}"}


@dataclass(frozen=True)
class Feed:
    """Sends records."""

    kafka: AIOKafkaProducer
    settings: Settings

    async def send(self, topic: str, project: str, values: Sequence[bytes], form: str = MSGPACK) -> int:
        """Send the values in order; the offset of the last one, once Kafka has all."""
        headers = [("content-type", form.encode())]
        sent = [
            await self.kafka.send(self.settings.name(topic), value, project.encode(), headers=headers)
            for value in values
        ]
        told = await asyncio.gather(*sent)
        return int(told[-1].offset)


@asynccontextmanager
async def a_feed(settings: Settings) -> AsyncIterator[Feed]:
    """A feed to the topics of these settings."""
    kafka = AIOKafkaProducer(bootstrap_servers=settings.broker, acks="all", max_request_size=MESSAGE_BYTES)
    async with kafka:
        yield Feed(kafka, settings)
