"""The ranking: the order in which the media of a project are suggested, and why.

It is made from the pool when it is asked for, in a thread, for it takes seconds where there are a million media; events
go on meanwhile. What they changed since is looked at again in what is answered.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from streams.errors import BadQuery, UnknownProject, UnknownTask
from streams.events import ProjectUpdated
from streams.times import iso
from tables.pool import MEDIA, Media, Pool, open_to
from tables.rows import FOREVER, MEDIUM_BYTES, STATES, Change
from tables.scores import ACTIVE, EARLIER, NEVER_SCORED, UNSCORED, Floats, Scores, reduced, scores

Places = NDArray[np.intp]

SKIPPED = 200  # media of an old order that are looked at in vain: some milliseconds
LOOKED_AT = 1000 + SKIPPED  # of those before a medium, for its rank: all that an active set may show
Tier = Literal["active_model", "earlier_model", "not_scored"]
TIERS: dict[int, Tier] = {ACTIVE: "active_model", EARLIER: "earlier_model", UNSCORED: "not_scored"}


class Found(TypedDict):
    """What an extractor found, and the score in [0, 1] that it makes; the lower, the sooner."""

    utility: float
    score: float


class Reason(TypedDict):
    """Why a medium has its score in a task; one that no model has scored has neither extractors nor a model."""

    task_id: str
    tier: Tier
    score: float
    extractors: NotRequired[dict[str, Found]]
    label: NotRequired[str | None]
    model_id: NotRequired[str | None]
    scored_at: NotRequired[str]


@dataclass(frozen=True)
class Order:
    """The media of a task, or of the whole project, that may be annotated: their places in the pool, best first.

    best: those that nobody has. taken: those that somebody has; suggested: how many of them a reset would free.
    of_task: the scores, by task; states: in those of which they matter, as places in STATES. held: whether taken;
    hidden: whether skipped, so that nobody in particular gets them.
    due: when it changes without an event (milliseconds since the epoch); none if it does not.
    """

    media: Media
    best: Places
    taken: int
    suggested: int
    tier: NDArray[np.uint8]
    score: Floats
    of_task: dict[str, Scores]
    states: dict[str, NDArray[np.uint8]]
    held: NDArray[np.bool_]
    hidden: NDArray[np.bool_]
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
    tier: Tier
    reasons: list[Reason]


@dataclass
class Truth:
    """What an order is true of.

    version: how many changes were known.
    until: how far each topic was applied before the next one; none if that has not come: it is true until now.
    """

    version: int
    until: dict[str, int] | None = None


@dataclass(frozen=True)
class Made:
    """An order, and what it is true of."""

    task_id: str | None
    order: Order
    truth: Truth

    def due(self, now: int) -> bool:
        """Whether it would be another one by now, without any change."""
        return self.order.due is not None and self.order.due <= now


class Ranking:
    """The orders over a pool: of the whole project, and of each task that was asked for."""

    def __init__(self, project_id: str, patience_ms: int, as_of: Callable[[], dict[str, int]] = dict) -> None:
        """Nothing is known yet.

        patience_ms: with a batch of which chunks are missing; it counts without them then.
        as_of: how far each topic is applied.
        """
        self.pool = Pool(project_id)
        self._patience_ms = patience_ms
        self._as_of = as_of
        self._version = 0
        self._made: dict[str | None, Made] = {}  # those that are current
        self._open: list[Truth] = []  # of orders that are current, or are made and will be
        self._making: asyncio.Task[tuple[str | None, Made | None]] | None = None

    def update(self, rows: Iterable[Change]) -> None:
        """Take rows, as a pool does, before what they tell counts as applied."""
        if self._open:
            until = self._as_of()
            for truth in self._open:
                truth.until = until
        self._open.clear()
        self._made.clear()
        self._version += 1
        self.pool.update(rows)

    def sweep(self, rows: Iterable[Change]) -> None:
        """Take rows that go because nobody can see them: they change no order."""
        self.pool.update(rows, visible=False)

    async def best(
        self, task_id: str | None, limit: int, now: int, user_id: str | None = None
    ) -> tuple[list[Place], Made]:
        """The best media to annotate, that nobody has, best first; with the order that they are from.

        All is in it that is known when it is asked for.

        task_id: of one task, or of the whole project if none is given. now: milliseconds since the epoch.
        user_id: for whom; what is not for them is passed over.

        Raises:
            UnknownProject, UnknownTask, BadQuery: as `Pool.task`.
        """
        while True:
            made = await self.made(task_id, now)
            places = self.top(made, limit, now, user_id)
            if places is not None:
                return places, made

    async def made(self, task_id: str | None, now: int) -> Made:
        """The order of a task, or of the whole project, with all in it that is known when it is asked for.

        Raises:
            as `best`.
        """
        wanted = self._version
        while True:
            self.pool.check_task(task_id)
            made = self._made.get(task_id)
            if made is not None and not made.due(now):
                return made
            if self._making is None or self._making.done():
                self._making = asyncio.create_task(self._make(task_id, now))
            of, made = await asyncio.shield(self._making)  # whoever asked first may go
            if of == task_id and made is not None and made.truth.version >= wanted and not made.due(now):
                return made

    async def _make(self, task_id: str | None, now: int) -> tuple[str | None, Made | None]:
        """Make an order; there is none if project or task went since it was asked for."""
        truth, pool = Truth(self._version), self.pool.lent()
        self._open.append(truth)
        try:
            order = await asyncio.to_thread(order_of, pool, task_id, now, self._patience_ms)
        except (UnknownProject, UnknownTask, BadQuery):
            return task_id, None
        finally:
            self.pool.given_back(pool)
        made = Made(task_id, order, truth)
        if self.current(made):
            self._made[task_id] = made
        return task_id, made

    def current(self, made: Made) -> bool:
        """Whether nothing was changed since an order was made."""
        return made.truth.version == self._version

    def as_of(self, made: Made) -> dict[str, int]:
        """How far each topic is applied in an order."""
        return self._as_of() if made.truth.until is None else made.truth.until

    def eligible(self, made: Made) -> Callable[[bytes], bool]:
        """Whether a medium may be annotated now, whatever the project was when an order was made.

        Raises:
            as `best`.
        """
        self.pool.check_task(made.task_id)
        return eligible(self.pool, made.task_id)

    def top(self, made: Made, limit: int, now: int, user_id: str | None = None) -> list[Place] | None:
        """The best media of an order that may be annotated still; none at all if it is too old to tell.

        It is when many of the best, or all, have been annotated, deleted, given away or skipped since.

        Raises:
            as `best`: project or task went meanwhile.
        """
        order, places, skipped = made.order, list[Place](), 0
        eligible, current = self.eligible(made), self.current(made)
        for place in open_to(order.best, self.pool.hidden_from(user_id, order.media, order.hidden)):
            if len(places) == limit:
                break
            medium = medium_at(order.media, place)
            there = current or (eligible(medium) and self.pool.free(medium, now))
            if not there or (not current and self.pool.skipped(medium, user_id)):
                skipped += 1
                if skipped > SKIPPED:
                    return None
                continue
            places.append(self._place(made, place, len(places) + 1))
        return None if skipped and not places else places

    def rank(self, made: Made, medium: bytes, now: int) -> int | None:
        """The place of a medium in what `top` gives who asks without a name; none if it is not in it.

        Of an order that is not current, no more of the best are looked at again than can be shown.

        Raises:
            as `best`: project or task went meanwhile.
        """
        eligible, order = self.eligible(made), made.order

        def there(medium: bytes) -> bool:
            return eligible(medium) and self.pool.free(medium, now) and not self.pool.skipped(medium, None)

        found = np.flatnonzero(order.best == place_of(order.media, medium))
        if not len(found) or not there(medium):
            return None
        before = order.best[: found[0]]
        before = before[~order.hidden[before]]
        old = before[: 0 if self.current(made) else LOOKED_AT]
        gone = sum(not there(medium_at(order.media, place)) for place in old)
        return len(before) + 1 - gone

    def found(self, made: Made, picks: Mapping[bytes, tuple[int, float]]) -> list[Place]:
        """Media that were chosen before, and what an order says of them now; those that are gone are left out.

        picks: rank and score that they had, by their 12 bytes.
        """
        return [
            replace(place, rank=rank, score=score)
            for medium, (rank, score) in picks.items()
            if (place := self.place(made, medium)) is not None
        ]

    def place(self, made: Made, medium: bytes) -> Place | None:
        """What an order says of a medium, whoever has it, without a rank; none if it is gone."""
        where = place_of(made.order.media, medium)
        return self._place(made, where, 0) if where is not None and self.pool.exists(medium) else None

    def _place(self, made: Made, place: int, rank: int) -> Place:
        order = made.order
        medium = medium_at(order.media, place)
        return Place(
            medium=medium,
            uploaded_at=self.pool.uploaded(medium),
            rank=rank,
            score=float(order.score[place]),
            tier=TIERS[int(order.tier[place])],
            reasons=[self._reason(task, scores, place) for task, scores in order.of_task.items()],
        )

    def _reason(self, task: str, scores: Scores, place: int) -> Reason:
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
            "scored_at": iso(int(slot["at"])),
        }


def medium_at(media: Media, place: int) -> bytes:
    """The 12 bytes of a medium at a place: numpy hides zeros at the end."""
    return bytes(media[place]).ljust(MEDIUM_BYTES, b"\0")


def place_of(media: Media, medium: bytes) -> int | None:
    """Where a medium stands in an array of media; none if it is not in it."""
    place = int(np.searchsorted(media, np.frombuffer(medium, MEDIA)[0]))
    there = place < len(media) and medium_at(media, place) == medium
    return place if there else None


def rule(project: ProjectUpdated, task_id: str | None) -> tuple[list[str], list[int]]:
    """In which tasks a medium must be in one of which states (their places in STATES) to be annotated.

    A later task of a chain works on what an earlier one found, which counts as partly annotated.
    """
    if task_id is None:
        return [task.task_id for task in project.tasks], [STATES.index("none")]
    first = next((task.task_id for task in project.tasks if task.trainable), None)
    allowed = ("none",) if task_id == first else ("none", "partially_annotated")
    return [task_id], [STATES.index(each) for each in allowed]


def eligible(pool: Pool, task_id: str | None) -> Callable[[bytes], bool]:
    """Whether a medium may be annotated in a task, also one that is gone, or in the whole project.

    Raises:
        UnknownProject: it is gone.
    """
    storage, (tasks, allowed) = pool.storage, rule(pool.project, task_id)
    return lambda medium: pool.eligible(medium, storage, tasks, allowed)


def order_of(pool: Pool, task_id: str | None, now: int, patience_ms: int) -> Order:
    """The order of a task, or of the project: by the worst tier in which a medium is scored, by score, by a fixed hash.

    A medium's score is what the project makes of those of its tasks that are there: the mean, the least or the largest.

    Raises:
        UnknownProject, UnknownTask, BadQuery: as `Pool.task`.
    """
    pool.check_task(task_id)
    project, media = pool.project, pool.media()
    asked = [task for task in project.tasks if task.trainable and task_id in (None, task.task_id)]
    of_task = {task.task_id: scores(pool, task, project.active_learning, now, patience_ms) for task in asked}
    shape = (len(of_task), len(media))
    tiers = np.array([each.tier for each in of_task.values()], dtype=np.uint8).reshape(shape)
    told = np.array([each.score for each in of_task.values()]).reshape(shape)
    scored = tiers < UNSCORED
    tier = np.where(scored.any(axis=0), np.where(scored, tiers, 0).max(axis=0, initial=0), UNSCORED).astype(np.uint8)
    score = reduced(np.where(scored, told, np.nan), project.active_learning.inter_task_reduce)
    score = np.where(scored.any(axis=0), score, NEVER_SCORED)
    tasks, allowed = rule(project, task_id)
    eligible = np.ones(len(media), dtype=bool)
    states = {task: pool.states(task) for task in tasks}
    for state in states.values():
        eligible &= np.isin(state, allowed)
    best = np.lexsort((pool.chance(), score, tier))
    best = best[eligible[best]]
    taken, ends = pool.taken(now)
    due = [each.due for each in of_task.values() if each.due is not None]
    if (ends[eligible] < FOREVER).any():
        due.append(int(ends[eligible].min()))
    return Order(
        media,
        best[~taken[best]],
        taken=int(taken[best].sum()),
        suggested=int((ends[best] == FOREVER)[taken[best]].sum()),
        tier=tier,
        score=score,
        of_task=of_task,
        states=states,
        held=taken,
        hidden=pool.hidden(),
        due=min(due, default=None),
    )
