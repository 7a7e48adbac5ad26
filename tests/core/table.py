"""The rows of a partition in a dict, and events that it hears."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from agents.decide import Decider
from streams.decode import decode
from streams.media import Image
from streams.record import Heard, Record
from tables.choosing import by_score
from tables.made import Made, Place
from tables.ranking import Ranking
from tables.rows import SWEEPS, Change, Kind, medium_bytes, prefix_of
from tables.slots import slots_of
from tables.sweep import Sweep

NOW = 1_767_225_600_000


class Table(dict[bytes, bytes]):
    """The rows of a partition, in a dict."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:  # type: ignore[override] # the rows', not the dict's
        return [super(Table, self).get(key) for key in keys]

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterable[tuple[bytes, bytes]]:
        return [(key, self[key]) for key in sorted(self) if key.startswith(prefix) and key >= after]

    async def hears(self, topic: str, offset: int = 0, heard_at: int | None = None, **event: Any) -> None:
        whole = {"workspace_id": "w", "project_id": "p", "timestamp": NOW, **event}
        record = Record(topic, 0, whole["project_id"].encode(), json.dumps(whole).encode(), [])
        heard = Heard(offset, whole["timestamp"] if heard_at is None else heard_at)
        fold = await Decider(lambda *_: None).decide(decode(record, topic), self, heard)
        self.take(fold(self))

    def sweep(self) -> int:
        """Sweep all there is to sweep; the answer tells how many rows went, or became less."""
        count = 0
        while told := next(iter(self.scan(SWEEPS)), None):
            sweep = Sweep(*told, self)
            while not sweep.done:
                changes = sweep.next(self)
                count += len(changes)
                self.take(changes)
        return count

    def take(self, changes: Iterable[Change]) -> None:
        """Write rows."""
        for key, value in changes:
            if value is None:
                self.pop(key, None)
            else:
                self[key] = value

    def kind(self, kind: Kind) -> dict[bytes, bytes]:
        """The rows of a kind."""
        prefix = prefix_of("p", kind)
        return {key[len(prefix) :]: value for key, value in self.scan(prefix)}

    def slots(self, image: str) -> Any:
        """The slots of an image's scores."""
        [value] = [value for key, value in self.kind(Kind.SCORE).items() if key.endswith(medium_bytes(Image(image)))]
        return slots_of([value])[0]


def chunk(model: str, *images: str, **more: Any) -> dict[str, Any]:
    return {
        "dataset_storage_id": "s",
        "task_id": "t",
        "model_id": model,
        "batch_id": f"batch of {model}",
        "subset": "unseen",
        "chunk": 0,
        "last": True,
        "media": [{"media_type": "image", "media_id": each} for each in images],
        "probabilities": [[0.75, 0.25]] * len(images),
        "features": [[float(len(images)), float(n)] for n in range(len(images))],
        **more,
    }


def picks(*images: str) -> list[dict[str, Any]]:
    return [
        {"medium": {"media_type": "image", "media_id": each}, "rank": n, "score": 0.0}
        for n, each in enumerate(images, 1)
    ]


def top_of(ranking: Ranking, made: Made, limit: int, user_id: str | None = None) -> list[Place] | None:
    """The best media of an order by score that may be annotated still; none if it is too old."""
    asked = ranking.asked(made, NOW, user_id)
    left = ranking.left(made, range(len(made.order.best)), limit, asked)
    return None if left is None else ranking.still(made, by_score(left), asked)


async def top(ranking: Ranking, task: str | None = "t", limit: int = 9999, now: int = NOW) -> list[Place]:
    """The best media of a ranking."""
    places, _ = await ranking.best(task, limit, now)
    return places
