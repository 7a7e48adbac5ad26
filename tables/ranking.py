"""The ranking: the order in which the media of a project are suggested, and why.

It is made from the pool when it is asked for, in a thread, for it takes seconds where there are a million media; events
go on meanwhile. What they changed since is looked at again in what is answered.
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NotRequired, TypedDict

import numpy as np
from msgspec import structs

from streams.errors import BadQuery, UnknownProject, UnknownTask
from streams.events import Chosen, Pick
from streams.times import iso
from tables.arrays import Mask, Places
from tables.choosing import Choice, Group, How, chosen, with_lots
from tables.heads import drawn_at_least
from tables.order import (
    TIERS,
    Known,
    Order,
    Tier,
    eligible,
    medium_at,
    order_of,
    place_of,
)
from tables.pool import Pool
from tables.rows import Change, medium_bytes, number_of
from tables.scores import ACTIVE, EARLIER, NEVER_SCORED, UNSCORED, Scores
from tables.sketches import Sketches
from tables.slots import pairs, sketches_of

PART = 4096  # places of an order that are looked through at once
AWAY_FROM = 5  # media that others have, for each of a set, from which it is kept away: more cost more than the set
SKIPPED = 200  # media of an old order that are looked at in vain: some milliseconds
LOOKED_AT = 1000 + SKIPPED  # of those before a medium, for its rank: all that an active set may show


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
class Place:
    """A medium in the order (its 12 bytes), and why it stands there.

    uploaded_at: when it was uploaded last. rank: among those that nobody has, by score. choice: if it is of a set.
    """

    medium: bytes
    uploaded_at: int
    rank: int
    score: float
    tier: Tier
    reasons: list[Reason]
    choice: Chosen | None = None


@dataclass(frozen=True)
class Asked:
    """A set that is asked for.

    now: milliseconds since the epoch. user_id: for whom. hidden: which media are not for them.
    passed: the places in the order that were looked at in vain.
    """

    now: int
    user_id: str | None
    hidden: Mask
    passed: list[int] = field(default_factory=list)


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
    """An order, and what it is true of. answers: what was answered from it, by how many media were asked for."""

    task_id: str | None
    order: Order
    truth: Truth
    answers: dict[int, Any] = field(default_factory=dict)

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
        self._known: Known = {}
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
        self, task_id: str | None, limit: int, now: int, user_id: str | None = None, seed: str = ""
    ) -> tuple[list[Place], Made]:
        """A set of media to annotate that nobody has, best first; with the order that they are from.

        All is in it that is known when it is asked for.

        task_id: of one task, or of the whole project if none is given. now: milliseconds since the epoch.
        user_id: for whom; what is not for them is passed over. seed: by which lots are drawn.

        Raises:
            UnknownProject, UnknownTask, BadQuery: as `Pool.task`.
        """
        while True:
            made = await self.made(task_id, now)
            count = limit - drawn_at_least(made.order.how.explore, limit)
            asked = self.asked(made, now, user_id)
            groups = self._groups(made, count, asked)
            if groups is None:
                continue
            of = await asyncio.to_thread(self._set, made.order, groups, asked, limit, seed)
            places = self.still(made, of, asked)
            if places or not of:
                return places, made

    def asked(self, made: Made, now: int, user_id: str | None = None) -> Asked:
        """Somebody asks."""
        return Asked(now, user_id, self.pool.hidden_from(user_id, made.order.media, made.order.hidden))

    def _groups(self, made: Made, count: int, asked: Asked) -> list[Group] | None:
        """The candidates for a set of so many, of one tier after the other; none if the order is too old to tell."""
        order, how, groups, begin, given = made.order, made.order.how, list[Group](), 0, Counter[int]()
        for tier in (ACTIVE, EARLIER, UNSCORED):
            of_tier = range(begin, order.ends[tier])
            begin, way = of_tier.stop, how if tier != UNSCORED else How()
            shares: list[tuple[range | Places, int]] = [(of_tier, count)]
            quota = None
            if how.quotas is not None and tier in order.labels:
                wanted = order.quota(how.quotas, tier, asked.hidden, given, count)
                quota = {label: number for label, number in wanted.items() if number}
                shares = [(order.labels[tier].places[label], number) for label, number in quota.items()]
            found = [self.left(made, places, way.candidates(number, len(places)), asked) for places, number in shares]
            left = [each for each in found if each is not None]
            if len(left) < len(found):
                return None
            candidates = np.sort(np.concatenate(left)) if left else np.empty(0, np.intp)
            group = Group(candidates, min(count, len(candidates)), order.utility(order.best[candidates]))
            if quota is not None:
                group = replace(group, labels=order.lead.chosen["label"][order.best[candidates]], quota=quota)
                given += Counter({label: min(quota[label], len(each)) for label, each in zip(quota, left, strict=True)})
            if how.diversify and tier != UNSCORED and len(candidates) > group.count:
                group = self._with_features(group, made, asked)
            groups.append(group)
            count -= group.count
            if not count:
                break
        return groups

    def _with_features(self, group: Group, made: Made, asked: Asked) -> Group:
        """A group with sketches, also of the best before its last one that somebody has; to be read in a thread."""
        order, told, candidates = made.order, made.order.lead, group.places
        given = order.given[: np.searchsorted(order.before, candidates[-1], side="right")]
        given = np.concatenate([self._lately_given(made, asked), given])[: AWAY_FROM * group.count]
        models, times = np.unique(told.chosen["model"][order.best[candidates]], return_counts=True)

        def read(places: Places) -> Callable[[], Sketches]:
            rows, of = self.pool.score_rows(order.lead_task, order.media[places]), told.chosen[places]
            # Features of two models cannot be compared.
            alike = of["model"] == models[times.argmax()]
            return lambda: sketches_of([row if so else None for row, so in zip(rows, alike, strict=True)], pairs(of))

        return replace(group, sketches=read(order.best[candidates]), fixed=read(given))

    def _lately_given(self, made: Made, asked: Asked) -> Places:
        """The media that were passed over because somebody has them since the order was made."""
        order = made.order
        media = [(place, medium_at(order.media, place)) for place in order.best[asked.passed].tolist()]
        return np.array([place for place, medium in media if not self.pool.free(medium, asked.now)], np.intp)

    def _set(self, order: Order, groups: list[Group], asked: Asked, limit: int, seed: str) -> list[Choice]:
        """What is chosen of the candidates, and by lot of all that is for who asks."""
        found = chosen(groups)
        if order.how.explore:
            places = np.flatnonzero(~asked.hidden[order.best])
            chance = self.pool.chance_of(order.media[order.best[places]])
            found = with_lots(found, places, chance, order.how.explore, limit, number_of(seed))
        for n, each in enumerate(found):
            place = int(order.best[each.place])
            if each.why.by == "score" and order.tier[place] == UNSCORED:
                why = structs.replace(each.why, by="chance")
                if place in order.typical:
                    size, away = order.typical[place]
                    why = structs.replace(why, by="typicality", cluster_size=size, distance=away)
                found[n] = Choice(each.place, why)
        return sorted(found, key=lambda each: each.place)

    def still(self, made: Made, of: list[Choice], asked: Asked) -> list[Place]:
        """Those of a set that may be annotated still."""
        order, eligible, current, places = made.order, self.eligible(made), self.current(made), list[Place]()
        last = max((each.place for each in of), default=-1)
        over = {*asked.passed, *np.flatnonzero(asked.hidden[order.best[: last + 1]]).tolist()}
        before = sorted(over)
        for each in of:
            place = int(order.best[each.place])
            medium = medium_at(order.media, place)
            if current or self._may(eligible, medium, asked):
                places.append(self._place(made, place, each.place + 1 - bisect_left(before, each.place), each.why))
        return places

    def _may(self, eligible: Callable[[bytes], bool], medium: bytes, asked: Asked) -> bool:
        """Whether a medium may be annotated by who asks."""
        free = eligible(medium) and self.pool.free(medium, asked.now)
        return free and not self.pool.skipped(medium, asked.user_id)

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
            order = await asyncio.to_thread(order_of, pool, task_id, now, self._patience_ms, self._known)
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

    def left(self, made: Made, places: range | Places, count: int, asked: Asked) -> Places | None:
        """The first so many of some places of an order that may be annotated still; none if it is too old to tell.

        It is when many of the best, or all, have been annotated, deleted, given away or skipped since.

        Raises:
            as `best`: project or task went meanwhile.
        """
        order, left, skipped = made.order, list[int](), 0
        eligible, current = self.eligible(made), self.current(made)
        first, step = 0, count + 1
        while first < len(places):
            some = places[first : first + step]
            first, step = first + step, min(2 * step, PART)
            part = np.arange(some.start, some.stop) if isinstance(some, range) else some
            for place in part[~asked.hidden[order.best[part]]].tolist():
                if len(left) == count:
                    return np.array(left, np.intp)
                medium = medium_at(order.media, int(order.best[place]))
                if current or self._may(eligible, medium, asked):
                    left.append(place)
                    continue
                skipped += 1
                asked.passed.append(place)
                if skipped > SKIPPED:
                    return None
        return None if skipped and not left else np.array(left, np.intp)

    def rank(self, made: Made, medium: bytes, now: int) -> int | None:
        """The place of a medium by score among those that may be had without a name; none if it may not.

        Of an order that is not current, no more of the best are looked at again than can be shown.

        Raises:
            as `best`: project or task went meanwhile.
        """
        eligible, order, asked = self.eligible(made), made.order, self.asked(made, now)
        found = np.flatnonzero(order.best == place_of(order.media, medium))
        if not len(found) or not self._may(eligible, medium, asked):
            return None
        before = order.best[: found[0]]
        before = before[~asked.hidden[before]]
        old = before[: 0 if self.current(made) else LOOKED_AT]
        gone = sum(not self._may(eligible, medium_at(order.media, place), asked) for place in old)
        return len(before) + 1 - gone

    def found(self, made: Made, picks: Iterable[Pick]) -> list[Place]:
        """Media that were chosen before, and what an order says of them now; those that are gone are left out."""
        return [
            replace(place, rank=pick.rank, score=pick.score, choice=pick.choice)
            for pick in picks
            if (place := self.place(made, medium_bytes(pick.medium))) is not None
        ]

    def place(self, made: Made, medium: bytes) -> Place | None:
        """What an order says of a medium, whoever has it, without a rank; none if it is gone."""
        where = place_of(made.order.media, medium)
        return self._place(made, where, 0) if where is not None and self.pool.exists(medium) else None

    def _place(self, made: Made, place: int, rank: int, choice: Chosen | None = None) -> Place:
        order = made.order
        medium = medium_at(order.media, place)
        return Place(
            medium=medium,
            uploaded_at=self.pool.uploaded(medium),
            rank=rank,
            score=float(order.score[place]),
            tier=TIERS[int(order.tier[place])],
            reasons=[self._reason(task, scores, place) for task, scores in order.of_task.items()],
            choice=choice,
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
