"""The ranking: the order in which the media of a project are suggested, and why.

It is made from the pool when it is asked for, and kept until a row changes; whether a grant has run out is asked when
reading.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.events import ProjectUpdated, Task
from tables.pool import Numbers, Pool
from tables.rows import EMPTY, MEDIUM_BYTES, SCORE, STATES, UTILITIES, Change, Kind, hashed

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

ACTIVE, EARLIER, UNSCORED = 1, 2, 3
TIERS = {ACTIVE: "active_model", EARLIER: "earlier_model", UNSCORED: "not_scored"}
NEVER_SCORED = 1.0
BATCH = np.dtype([("model", "<u8"), ("batch", "<u8")])  # the key of a batch, after its task


@dataclass(frozen=True)
class Scores:
    """What a task says of each medium of a pool: tier, score in [0, 1], and why.

    chosen: the slot that counts, `EMPTY` where there is none.
    extractor: the place in UTILITIES of the one that counts; -1 where there is none.
    """

    tier: NDArray[np.uint8]
    score: Floats
    utility: Floats
    extractor: NDArray[np.int8]
    chosen: NDArray[np.void]

    @classmethod
    def none(cls, media: int) -> "Scores":
        """As many media, and nothing said of them."""
        return cls(
            tier=np.full(media, UNSCORED, dtype=np.uint8),
            score=np.full(media, NEVER_SCORED),
            utility=np.full(media, np.nan),
            extractor=np.full(media, -1, dtype=np.int8),
            chosen=np.full(media, EMPTY),
        )


@dataclass(frozen=True)
class Order:
    """The media of a task, or of the whole project, that may be annotated: their places in the pool, best first."""

    best: Places
    tier: NDArray[np.uint8]
    score: Floats
    of_task: dict[str, Scores]


@dataclass(frozen=True)
class Place:
    """A medium in the order (its 12 bytes), and why it stands there.

    uploaded_at: when it was uploaded last; deleted_at: when it was deleted before that, none if it never was.
    """

    medium: bytes
    uploaded_at: int
    deleted_at: int | None
    rank: int
    score: float
    tier: str
    reasons: list[dict[str, Any]]


class Ranking:
    """The orders over a pool: of the whole project, and of each task that was asked for."""

    def __init__(self, project_id: str) -> None:
        self.pool = Pool(project_id)
        self._orders: dict[str | None, Order] = {}

    def update(self, rows: Iterable[Change]) -> None:
        """Take rows, as a pool does."""
        self.pool.update(rows)
        self._orders.clear()

    def order(self, task_id: str | None) -> Order:
        """The media that may be annotated, best first: by tier, then by score, then by a fixed hash.

        Raises:
            UnknownProject, UnknownTask, BadQuery: as `Pool.task`.
        """
        if task_id is not None:
            self.pool.task(task_id)
        if task_id not in self._orders:
            self._orders[task_id] = order(self.pool, task_id)
        return self._orders[task_id]

    def top(self, task_id: str | None, limit: int, now: int) -> list[Place]:
        """The best media to annotate now, that nobody has, best first.

        task_id: of one task, or of the whole project if none is given.
        now: milliseconds since the epoch.

        Raises:
            as `order`.
        """
        order, media = self.order(task_id), self.pool.media()
        free = order.best[~self.pool.taken(now)[order.best]][:limit]
        removed = self.pool.removed()[free]
        places = []
        for rank, place in enumerate(free, 1):
            medium = bytes(media[place]).ljust(MEDIUM_BYTES, b"\0")
            places.append(
                Place(
                    medium=medium,
                    uploaded_at=self.pool.uploaded(medium),
                    deleted_at=int(removed[rank - 1]) if removed[rank - 1] >= 0 else None,
                    rank=rank,
                    score=float(order.score[place]),
                    tier=TIERS[int(order.tier[place])],
                    reasons=[self._reason(task, scores, place) for task, scores in order.of_task.items()],
                )
            )
        return places

    def _reason(self, task: str, scores: Scores, place: int) -> dict[str, Any]:
        if scores.tier[place] == UNSCORED:
            return {"task_id": task, "tier": TIERS[UNSCORED], "score": NEVER_SCORED}
        slot = scores.chosen[place]
        return {
            "task_id": task,
            "tier": TIERS[int(scores.tier[place])],
            "score": float(scores.score[place]),
            "extractor": UTILITIES[scores.extractor[place]],
            "utility": float(scores.utility[place]),
            "label": self.pool.name(slot["label"]),
            "model_id": self.pool.name(slot["model"]),
        }


def order(pool: Pool, task_id: str | None) -> Order:
    """The order of a task, or of the project: by the worst tier in which a medium is scored, then by its mean score."""
    project, media = pool.project, pool.media()
    asked = [task for task in project.tasks if task.trainable and task_id in (None, task.task_id)]
    of_task = {task.task_id: scores(pool, task, project) for task in asked}
    shape = (len(of_task), len(media))
    tiers = np.array([each.tier for each in of_task.values()], dtype=np.uint8).reshape(shape)
    told = np.array([each.score for each in of_task.values()]).reshape(shape)
    scored = tiers < UNSCORED
    count = scored.sum(axis=0)
    tier = np.where(count > 0, np.where(scored, tiers, 0).max(axis=0, initial=0), UNSCORED).astype(np.uint8)
    score = np.where(count > 0, np.where(scored, told, 0.0).sum(axis=0) / np.maximum(count, 1), NEVER_SCORED)
    eligible = np.ones(len(media), dtype=bool)
    for place, task in enumerate(project.tasks):
        if task_id in (None, task.task_id):
            # A later task of a chain works on what an earlier one found, which counts as partly annotated.
            later = task_id is not None and place > 0
            allowed = ("none", "partially_annotated") if later else ("none",)
            eligible &= np.isin(pool.states(task.task_id), [STATES.index(each) for each in allowed])
    best = np.lexsort((pool.chance(), score, tier))
    return Order(best[eligible[best]], tier, score, of_task)


def scores(pool: Pool, task: Task, project: ProjectUpdated) -> Scores:
    """Ranks within each model's media become scores.

    The pool of a rank is all media that the model has scored, whatever was annotated since.
    """
    found = Scores.none(len(pool.media()))
    if project.active_learning.preset == "random":
        return found
    slots = usable_slots(pool, task.task_id)
    active = pool.active_model(task.task_id)
    # The active model's latest slot, else the latest.
    value = np.where(slots["model"] == active, slots["at"] + 2**60, slots["at"])
    found.chosen[:] = slots[np.arange(len(slots)), np.where(slots["at"] < 0, -1, value).argmax(axis=1)]
    models = found.chosen["model"]
    chance = pool.chance()
    stratified = task.task_type == "classification" and not task.multi_label
    for model in np.unique(models[found.chosen["at"] >= 0]):
        rows = np.flatnonzero((models == model) & (found.chosen["at"] >= 0))
        extractor = counting(found.chosen[rows])
        if extractor is None:
            continue
        utility = found.chosen[UTILITIES[extractor]][rows].astype(np.float64)
        # Media in which the model found nothing stand in the middle, so that what it misses still surfaces.
        utility = np.where(np.isfinite(utility), utility, np.median(utility[np.isfinite(utility)]))
        labels = found.chosen["label"][rows]
        strata = labels if stratified and UTILITIES[extractor] == "margin" else np.zeros_like(labels)
        found.tier[rows] = ACTIVE if model == active else EARLIER
        found.utility[rows] = utility
        found.extractor[rows] = extractor
        found.score[rows] = ranked(utility, strata, chance[rows])
    return found


def usable_slots(pool: Pool, task_id: str) -> NDArray[np.void]:
    """The slots of each medium, `EMPTY` where a batch is not complete or the medium was deleted since."""
    slots: NDArray[np.void] = pool.gathered(Kind.SCORE, hashed(task_id), SCORE, EMPTY)
    complete = np.frombuffer(pool.complete_batches(task_id), BATCH)
    usable = (slots["at"] > pool.removed()[:, None]) & np.isin(pairs(slots), pairs(complete))
    slots[~usable] = EMPTY
    return slots


def counting(chosen: NDArray[np.void]) -> int | None:
    """The extractor that counts for a model's media: the first that said anything, as a place in UTILITIES."""
    told = [bool(np.isfinite(chosen[name]).any()) for name in UTILITIES]
    return told.index(True) if any(told) else None


def ranked(utility: Floats, strata: Numbers, chance: Numbers) -> Floats:
    """Scores from utilities, (rows,) each: the rank within the stratum, best first, by the size of the largest one.

    So the best of each stratum have score 0, and a stratum that is small has no bad scores. Ties go by chance.

    >>> utility = np.array([0.9, 0.8, 0.7, 0.1])
    >>> ranked(utility, np.array([1, 1, 2, 1], np.uint64), np.arange(4, dtype=np.uint64)).round(3)
    array([0.   , 0.333, 0.   , 0.667])
    """
    order = np.lexsort((chance, -utility, strata))
    _, first, counts = np.unique(strata[order], return_index=True, return_counts=True)
    ranks = np.empty(len(utility))
    ranks[order] = np.arange(len(utility)) - np.repeat(first, counts)
    found: Floats = ranks / max(1, counts.max(initial=0))
    return found


def pairs(slots: NDArray[np.void]) -> Numbers:
    """A number for each pair of a model and its batch."""
    return np.asarray(slots["model"] ^ slots["batch"].byteswap(), dtype=np.uint64)
