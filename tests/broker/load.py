"""A load: events of all kinds about a dozen projects, in all partitions, at a rate; some malformed, some misplaced.

All that it chooses comes from a seed. It keeps no account of what it has sent: Kafka has it.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import KafkaError, KafkaException, Producer

from streams.partition import partition_of
from streams.tensors import Tensor
from tests.broker.oracle import MOVED_FROM

WORKSPACE = "w"
PARTITIONS = 8
PROJECTS = 12
TASKS = ("t1", "t2")
MODELS = ("model-1", "model-2", "model-3")
CLASSES = ("a", "b", "c")
STATES = ("annotated", "annotated", "partially_annotated", "to_revisit", "none")
COLUMNS = 6  # of features
IMAGES = 400  # of a project to begin with: more than is annotated, deleted and suggested of it together
BEGINNING = 1_767_225_600_000
MALFORMED, MISPLACED = 0.03, 0.06  # shares of the records
FLUSH_S = 30.0

Event = dict[str, Any]
Headers = list[tuple[str, str | bytes | None]]


def medium(media_id: str) -> Event:
    """An image on the wire."""
    return {"media_type": "image", "media_id": media_id}


def frame(media_id: str, index: int) -> Event:
    """A frame of a video on the wire."""
    return {"media_type": "video_frame", "media_id": media_id, "frame_index": index}


def passing(media_id: str) -> bool:
    """Whether an image is one of those that are deleted and come again, and then may be suggested again."""
    return media_id.startswith("passing-")


def homes(name: str, count: int) -> list[str]:
    """Ids of projects, the first of which are one in each partition."""
    found: list[str] = []
    taken: set[int] = set()
    number = 0
    while len(found) < count:
        project = f"{name}-{number}"
        number += 1
        home = partition_of(project.encode(), PARTITIONS)
        if home not in taken or len(taken) == PARTITIONS:
            found.append(project)
            taken.add(home)
    return found


@dataclass
class Project:
    """What the load must know of a project, to speak of what is there."""

    name: str
    images: int = 0
    videos: int = 0
    batches: int = 0


@dataclass
class Load:
    """A source of events.

    mortals: projects that are deleted and come again; nobody else should look at them.
    images: of each project, to begin with.
    """

    kafka: str
    prefix: str
    seed: int
    projects: list[str] = field(default_factory=lambda: homes("project", PROJECTS))
    mortals: list[str] = field(default_factory=lambda: homes("mortal", 2))
    images: int = IMAGES
    sent: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._numbers = np.random.default_rng(self.seed)
        self._known = {name: Project(name) for name in [*self.projects, *self.mortals]}
        self._waiting: deque[tuple[str, str, Event]] = deque()  # chunks of batches that have begun
        self._clock = BEGINNING
        self._failed: list[KafkaError] = []
        self._producer = Producer(
            {
                "bootstrap.servers": self.kafka,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "enable.idempotence": True,
                "log_level": 2,  # not that the broker went away when the test is over
            }
        )
        self._kinds: dict[Callable[[Project], None], int] = {
            self._uploads: 12,
            self._deletes: 4,
            self._annotates: 40,
            self._activates: 4,
            self._infers: 8,
            self._updates: 2,
            self._passes: 6,
        }

    def begin(self) -> None:
        """Tell of every project, with images enough, and a batch inference."""
        for project in self._known.values():
            self._update(project)
            self._upload(project, self.images)
            self._activates(project)
            self._infers(project)
        while self._waiting:
            self._send(*self._waiting.popleft())
        self._flush()

    def run(self, rate: float, count: int | None = None) -> None:
        """Publish events.

        rate: of a second.
        count: how many, unless the load is stopped before; none, if only that ends it.
        """
        due = time.monotonic()
        for _ in itertools.repeat(None) if count is None else range(count):
            due += 1 / rate
            if self.stop.wait(max(0.0, due - time.monotonic())):
                break
            self.step()
        self._flush()

    @contextmanager
    def running(self, rate: float, count: int | None = None) -> Iterator[threading.Thread]:
        """Publish events in a thread, while the block runs and no longer."""
        failed: list[BaseException] = []

        def work() -> None:
            try:
                self.run(rate, count)
            except BaseException as why:  # noqa: BLE001 - told to who waits
                failed.append(why)

        thread = threading.Thread(target=work, name="load", daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            self.stop.set()
            thread.join(FLUSH_S)
        if failed:
            raise failed[0]

    def step(self) -> None:
        """Publish the next event."""
        if self._waiting and self._random.random() < 0.5:
            self._send(*self._waiting.popleft())
        elif self._random.random() < MALFORMED:
            self._nonsense()
        elif self._random.random() < 0.03:
            self._dies(self._known[self._random.choice(self.mortals)])
        else:
            project = self._known[self._random.choice([*self.projects, *self.mortals])]
            [kind] = self._random.choices([*self._kinds], [*self._kinds.values()])
            kind(project)

    def _uploads(self, project: Project) -> None:
        if self._random.random() < 0.2:
            video = {"media_type": "video", "media_id": f"video-{project.videos}"}
            project.videos += 1
            self._tell("media_uploads", project, dataset_storage_id="s", **video, frame_count=60, frame_stride=20)
        else:
            self._upload(project, self._random.randint(1, 3))

    def _upload(self, project: Project, count: int) -> None:
        media = [medium(f"image-{project.images + number}") for number in range(count)]
        project.images += count
        self._tell("media_uploads", project, dataset_storage_id="s", media=media)

    def _deletes(self, project: Project) -> None:
        # Only what is there: an image whose deletion comes before its upload may be suggested twice.
        image = medium(f"image-{self._random.randrange(project.images)}")
        self._tell("media_deletions", project, dataset_storage_id="s", **image)

    def _passes(self, project: Project) -> None:
        """One of a few images is deleted, or comes again."""
        topic = self._random.choice(("media_uploads", "media_deletions"))
        image = medium(f"passing-{self._random.randint(1, 5)}")
        self._tell(topic, project, dataset_storage_id="s", **image)

    def _annotates(self, project: Project) -> None:
        about = self._frame(project) if project.videos and self._random.random() < 0.2 else medium(self._image(project))
        states = {task: self._random.choice(STATES) for task in self._random.sample(TASKS, self._random.randint(1, 2))}
        self._tell("annotation_updates", project, **about, states=states, user_id="u")

    def _activates(self, project: Project) -> None:
        task, model = self._random.choice(TASKS), self._random.choice(MODELS)
        self._tell("model_activations", project, task_id=task, model_id=model)

    def _updates(self, project: Project) -> None:
        how = {
            "preset": self._random.choice(("balanced", "geti", "random")),
            "inter_task_reduce": self._random.choice(("min", "mean", "max")),
            "tasks": {
                TASKS[0]: {"extractors": {"margin": 1, "external:doubt": self._random.random() + 0.1}},
                TASKS[1]: {"intra_task_reduce": "min", "stratify": self._random.random() < 0.5},
            },
        }
        self._update(project, name=f"at {self._clock}", how=how)

    def _update(self, project: Project, name: str = "", how: Event | None = None) -> None:
        tasks = [{"task_id": task, "task_type": "classification"} for task in TASKS]
        how = how or {}
        self._tell("project_updates", project, dataset_storage_id="s", name=name, tasks=tasks, active_learning=how)

    def _dies(self, project: Project) -> None:
        self._tell("project_deletions", project)
        self._update(project)

    def _infers(self, project: Project) -> None:
        """A batch inference begins: some chunks, seen and unseen, which wait to be sent among other events."""
        project.batches += 1
        about = {
            "dataset_storage_id": "s",
            "task_id": self._random.choice(TASKS),
            "model_id": self._random.choice(MODELS),
            "batch_id": f"batch-{project.batches}",
            "classes": CLASSES,
        }
        subsets = ["seen"] * self._random.randint(0, 2) + ["unseen"] * self._random.randint(1, 3)
        whole = self._random.random() < 0.85  # others stay without their last chunk
        for chunk, subset in enumerate(subsets):
            last = chunk == len(subsets) - 1
            if last and chunk and not whole:
                break
            told = {**about, **self._columns(project, seen=subset == "seen"), "subset": subset}
            self._waiting.append(("inference_artifacts", project.name, {**told, "chunk": chunk, "last": last}))

    def _columns(self, project: Project, *, seen: bool) -> Event:
        media = [medium(self._image(project)) for _ in range(self._random.randint(4, 24))]
        if project.videos:
            media.append(self._frame(project))
        features = self._numbers.normal(size=(len(media), COLUMNS)).astype(self._random.choice(("<f4", "<f8")))
        if self._random.random() < 0.1:
            features[0, 0] = np.nan  # the row is left out
        told: Event = {"media": media, "features": Tensor.of(features)}
        if seen:
            return {**told, "labels": [self._random.choice(CLASSES) for _ in media]}
        told["probabilities"] = self._numbers.dirichlet(np.ones(len(CLASSES)), len(media)).tolist()
        if self._random.random() < 0.3:
            told["utilities"] = {"doubt": self._numbers.random(len(media)).tolist()}
        return {**told, "no_prediction": [medium(self._image(project))]}

    def _image(self, project: Project) -> str:
        return f"image-{self._random.randrange(project.images + 2)}"  # the last ones are not there yet

    def _frame(self, project: Project) -> Event:
        return frame(f"video-{self._random.randrange(project.videos)}", self._random.choice((0, 20, 40)))

    def _nonsense(self) -> None:
        """A record that is no event."""
        project = self._random.choice(self.projects)
        about = {"workspace_id": WORKSPACE, "project_id": project, "timestamp": self._clock}
        artifacts = {"dataset_storage_id": "s", "task_id": "t1", "model_id": "m", "batch_id": "b", "chunk": 0}
        skewed = {**about, **artifacts, "subset": "unseen", "media": [medium("image-1")], "probabilities": [[0.3, 0.1]]}
        topic, value = self._random.choice(
            [
                ("media_uploads", b"{oops"),
                ("media_uploads", None),
                ("annotation_updates", b"\xff\xfe"),
                ("annotation_updates", msgspec.json.encode({**about, **medium("image-1"), "states": {"t1": "done"}})),
                ("model_activations", msgspec.json.encode({**about, "project_id": "another"})),
                ("inference_artifacts", msgspec.json.encode(skewed)),
                ("active_set_events", msgspec.json.encode({**about, "change": "nothing", "request_id": "r"})),
            ]
        )
        self._produce(topic, project, value, [])
        if self._random.random() < 0.2:  # as if it had been moved, but not by a worker
            activated = {**about, "task_id": "t1", "model_id": MODELS[0]}
            forged: Headers = [(MOVED_FROM, self._random.choice((b"nowhere", None)))]
            self._produce("model_activations", project, msgspec.json.encode(activated), forged)

    def _tell(self, topic: str, project: Project, **event: Any) -> None:
        self._send(topic, project.name, event)

    def _send(self, topic: str, project: str, event: Event) -> None:
        self._clock += self._random.randint(1, 20)
        whole = {"workspace_id": WORKSPACE, "project_id": project, "timestamp": self._clock, **event}
        if self._random.random() < 0.5:
            self._produce(topic, project, msgspec.json.encode(whole), [])
        else:
            headers: Headers = [("content-type", b"application/msgpack")]
            self._produce(topic, project, msgspec.msgpack.encode(whole), headers)

    def _produce(self, topic: str, project: str, value: bytes | None, headers: Headers) -> None:
        key = project.encode()
        if self._random.random() < MISPLACED:
            away = (partition_of(key, PARTITIONS) + self._random.randrange(1, PARTITIONS)) % PARTITIONS
            self._producer.produce(
                self.prefix + topic, value, key, headers=headers, partition=away, on_delivery=self._delivered
            )
        else:
            self._producer.produce(self.prefix + topic, value, key, headers=headers, on_delivery=self._delivered)
        self.sent += 1
        self._producer.poll(0)

    def _delivered(self, why: KafkaError | None, _: object) -> None:
        if why is not None:
            self._failed.append(why)

    def _flush(self) -> None:
        left = self._producer.flush(FLUSH_S)
        assert left == 0, f"Kafka did not take {left} records within {FLUSH_S:.0f} s"
        if self._failed:
            raise KafkaException(self._failed[0])
