"""The ranking: the order in which the media of a project are suggested, and why.

It is made from the pool when it is asked for, and kept until a row changes; whether a grant has run out is asked when
reading.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tables.pool import Pool
from tables.rows import MEDIUM_BYTES, STATES, Change
from tables.scores import ACTIVE, EARLIER, NEVER_SCORED, UNSCORED, Floats, Scores, reduced, scores

Places = NDArray[np.intp]

TIERS = {ACTIVE: "active_model", EARLIER: "earlier_model", UNSCORED: "not_scored"}


@dataclass(frozen=True)
class Order:
    """The media of a task, or of the whole project, that may be annotated: their places in the pool, best first.

    due: when it changes without an event (milliseconds since the epoch); none if it does not.
    """

    best: Places
    tier: NDArray[np.uint8]
    score: Floats
    of_task: dict[str, Scores]
    due: int | None


@dataclass(frozen=True)
class Place:
    """A medium in the order (its 12 bytes), and why it stands there.

    uploaded_at: when it was uploaded last.
    """

    medium: bytes
    uploaded_at: int
    rank: int
    score: float
    tier: str
    reasons: list[dict[str, Any]]


class Ranking:
    """The orders over a pool: of the whole project, and of each task that was asked for."""

    def __init__(self, project_id: str, patience_ms: int) -> None:
        """Nothing is known yet.

        patience_ms: with a batch of which chunks are missing; it counts without them then.
        """
        self.pool = Pool(project_id)
        self._patience_ms = patience_ms
        self._orders: dict[str | None, Order] = {}

    def update(self, rows: Iterable[Change]) -> None:
        """Take rows, as a pool does."""
        self.pool.update(rows)
        self._orders.clear()

    def order(self, task_id: str | None, now: int) -> Order:
        """The media that may be annotated, best first: by tier, then by score, then by a fixed hash.

        now: milliseconds since the epoch.

        Raises:
            UnknownProject, UnknownTask, BadQuery: as `Pool.task`.
        """
        if task_id is not None:
            self.pool.task(task_id)
        found = self._orders.get(task_id)
        if found is None or (found.due is not None and found.due <= now):
            found = self._orders[task_id] = order(self.pool, task_id, now, self._patience_ms)
        return found

    def top(self, task_id: str | None, limit: int, now: int) -> list[Place]:
        """The best media to annotate now, that nobody has, best first.

        task_id: of one task, or of the whole project if none is given.
        now: milliseconds since the epoch.

        Raises:
            as `order`.
        """
        order, media = self.order(task_id, now), self.pool.media()
        free = order.best[~self.pool.taken(now)[order.best]][:limit]
        places = []
        for rank, place in enumerate(free, 1):
            medium = bytes(media[place]).ljust(MEDIUM_BYTES, b"\0")
            places.append(
                Place(
                    medium=medium,
                    uploaded_at=self.pool.uploaded(medium),
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
            "extractors": {
                name: {"utility": float(each.utility[place]), "score": float(each.score[place])}
                for name, each in scores.columns.items()
                if np.isfinite(each.score[place])
            },
            "label": self.pool.name(slot["label"]),
            "model_id": self.pool.name(slot["model"]),
        }


def order(pool: Pool, task_id: str | None, now: int, patience_ms: int) -> Order:
    """The order of a task, or of the project: by the worst tier in which a medium is scored, then by score.

    A medium's score is what the project makes of those of its tasks that are there: the mean, the least or the largest.
    """
    project, media = pool.project, pool.media()
    trainable = [task for task in project.tasks if task.trainable]
    asked = [task for task in trainable if task_id in (None, task.task_id)]
    of_task = {task.task_id: scores(pool, task, project.active_learning, now, patience_ms) for task in asked}
    shape = (len(of_task), len(media))
    tiers = np.array([each.tier for each in of_task.values()], dtype=np.uint8).reshape(shape)
    told = np.array([each.score for each in of_task.values()]).reshape(shape)
    scored = tiers < UNSCORED
    tier = np.where(scored.any(axis=0), np.where(scored, tiers, 0).max(axis=0, initial=0), UNSCORED).astype(np.uint8)
    score = reduced(np.where(scored, told, np.nan), project.active_learning.inter_task_reduce)
    score = np.where(scored.any(axis=0), score, NEVER_SCORED)
    # A later task of a chain works on what an earlier one found, which counts as partly annotated.
    later = task_id is not None and asked[0] is not trainable[0]
    allowed = [STATES.index(each) for each in (("none", "partially_annotated") if later else ("none",))]
    eligible = np.ones(len(media), dtype=bool)
    for task in project.tasks if task_id is None else asked:
        eligible &= np.isin(pool.states(task.task_id), allowed)
    best = np.lexsort((pool.chance(), score, tier))
    due = [each.due for each in of_task.values() if each.due is not None]
    return Order(best[eligible[best]], tier, score, of_task, min(due, default=None))
