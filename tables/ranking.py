"""The ranking: the order in which the media of a project are suggested, and why.

It is made from the pool when it is asked for, in a thread, for it takes seconds where there are a million media; events
go on meanwhile. What they changed since is looked at again in what is answered.
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal, NotRequired, TypedDict

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from streams.errors import BadQuery, UnknownProject, UnknownTask
from streams.events import Chosen, Pick, ProjectUpdated
from streams.times import iso
from tables.choosing import Choice, Group, How, chosen, how_of, with_lots
from tables.heads import Quotas, apportioned, shares
from tables.pool import MEDIA, Media, Pool
from tables.rows import FOREVER, MEDIUM_BYTES, STATES, Change, medium_bytes, number_of
from tables.scores import ACTIVE, EARLIER, NEVER_SCORED, UNSCORED, Floats, Scores, parts, reduced, scores
from tables.sketches import Mask, Numbers, Places, Sketches
from tables.slots import NOTHING_FOUND, pairs, sketches_of
from tables.typical import SAMPLE, Level, levels, sample_of, typical

Known = dict[str, tuple[bytes, list[Level]]]  # of each task, what clusters are of, and they

TINY = 1e-9  # what a share times a count may lack of a whole number
PART = 4096  # places of an order that are looked through at once
AWAY_FROM = 5  # media that others have, for each of a set, from which it is kept away: more cost more than the set
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
class Labelled:
    """The best of a tier by the label that is predicted for them.

    places: of each label, those in the order, best first. there: how many of them are hidden from nobody in particular.
    """

    places: Mapping[int, Places]
    there: Counter[int]


@dataclass(frozen=True)
class Order:
    """The media of a task, or of the whole project, that may be annotated: their places in the pool, best first.

    best: those that nobody has. suggested: how many of the others a reset would free.
    of_task: the scores, by task; states: in those of which they matter, as places in STATES. open: whether a medium may
    be annotated. held: whether somebody has it. hidden: whether skipped, so that nobody in particular gets it.
    due: when it changes without an event (milliseconds since the epoch); none if it does not.
    ends: how many of the best are in a tier or in one before it, by tier. how: sets are put together of them.
    typical: of media that were not scored and come as typical ones do, by their places, how many these stand for, and
    how near they are; 0 and none if they stand for none.
    given: the places of those that somebody has and that might be chosen if nobody had, best first; before: how many of
    the best stand before each.
    labels: the best by label, by tier, and had: how many media of each label are annotated, or somebody has; where sets
    have quotas.
    """

    media: Media
    best: Places
    suggested: int
    tier: NDArray[np.uint8]
    score: Floats
    of_task: dict[str, Scores]
    states: dict[str, NDArray[np.uint8]]
    open: NDArray[np.bool_]
    held: NDArray[np.bool_]
    hidden: NDArray[np.bool_]
    due: int | None
    ends: Mapping[int, int]
    how: How
    typical: Mapping[int, tuple[int, float | None]]
    given: Places
    before: Places
    labels: Mapping[int, Labelled]
    had: Counter[int]

    @property
    def lead_task(self) -> str:
        """The task whose labels and sketches count."""
        return next(iter(self.of_task))

    @property
    def lead(self) -> Scores:
        """What is known in it."""
        return self.of_task[self.lead_task]

    def quota(self, quotas: Quotas, tier: int, hidden: Mask, given: Counter[int], count: int) -> dict[int, int]:
        """How many media of each label a set is to have of a tier.

        hidden: which media are not for who asks. given: how many of each label it has of the tiers before.
        """
        had, there = self.had + given, self.there(tier, hidden)
        whole = had + there
        for none in (0, NOTHING_FOUND):
            del whole[none]
        return apportioned(count, shares(quotas, whole), there, had)

    def there(self, tier: int, hidden: Mask) -> Counter[int]:
        """How many media of each label can be had of a tier; no quota counts on what is hidden."""
        found = self.labels[tier].there.copy()
        other = np.flatnonzero(hidden != self.hidden)
        other = other[self.open[other] & ~self.held[other] & (self.tier[other] == tier)]
        for label, gone in zip(self.lead.chosen["label"][other].tolist(), hidden[other].tolist(), strict=True):
            found[label] += -1 if gone else 1
        return +found

    def utility(self, places: Places) -> Floats:
        """What stands for the use of some media: the utility if one extractor counts, else the score turned around."""
        columns = [column for scores in self.of_task.values() for column in scores.columns.values()]
        return columns[0].utility[places] if len(columns) == 1 else -self.score[places]


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
    hidden: NDArray[np.bool_]
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
            count = limit - int(made.order.how.explore * limit + TINY)
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


def order_of(pool: Pool, task_id: str | None, now: int, patience_ms: int, known: Known) -> Order:
    """The order of a task, or of the project: by the worst tier in which a medium is scored, by score, by a fixed hash.

    A medium's score is what the project makes of those of its tasks that are there: the mean, the least or the largest.
    Those without a score come last, the typical ones first.

    known: clusters that were made before, for the next time.

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
    chance, (taken, until) = pool.chance(), pool.taken(now)
    how = how_of(project, asked[0].task_id) if asked else How()
    hidden = pool.hidden()
    turn, typical = np.zeros(len(media)), dict[int, tuple[int, float | None]]()
    if how.diversify and (tier == UNSCORED).any():
        task, told_there = next(iter(of_task.items()))
        candidates = (tier == UNSCORED) & ~hidden  # also in no other task
        first, typical = typical_of(pool, task, told_there, chance, ~eligible | taken, candidates, known)
        turn[:] = len(first)
        turn[first] = np.arange(len(first))
    every = np.lexsort((chance, turn, score, tier))
    every = every[eligible[every]]
    free = ~taken[every]
    best, given = every[free], every[~free]
    due = [each.due for each in of_task.values() if each.due is not None]
    if (until[eligible] < FOREVER).any():
        due.append(int(until[eligible].min()))
    ends = {each: int(np.searchsorted(tier[best], each, side="right")) for each in (ACTIVE, EARLIER, UNSCORED)}
    labels, had = dict[int, Labelled](), Counter[int]()
    if how.quotas is not None:
        lead = next(iter(of_task.values()))
        had = had_of(lead, taken | ~eligible)
        for each, begin in ((ACTIVE, 0), (EARLIER, ends[ACTIVE])):
            of_tier = best[begin : ends[each]]
            labels[each] = labelled(lead.chosen["label"][of_tier], begin, hidden[of_tier])
    return Order(
        media,
        best,
        suggested=int((until[given] == FOREVER).sum()),
        tier=tier,
        score=score,
        of_task=of_task,
        states=states,
        open=eligible,
        held=taken,
        hidden=hidden,
        due=min(due, default=None),
        ends=ends,
        how=how,
        typical=typical,
        given=given,
        before=np.cumsum(free, dtype=np.intp)[~free],
        labels=labels,
        had=had,
    )


def typical_of(
    pool: Pool,
    task_id: str,
    told: Scores,
    chance: Numbers,
    covered: NDArray[np.bool_],
    candidates: NDArray[np.bool_],
    known: Known,
) -> tuple[Places, dict[int, tuple[int, float | None]]]:
    """The media that no model has scored, of which features are known, the most typical first; and of what they are.

    covered: whether a medium is annotated, or somebody has it. candidates: whether it may be among them if not.
    known: clusters that were made before.
    """
    there = np.flatnonzero((told.tier == UNSCORED) & (told.chosen["model"] != 0))
    models, times = np.unique(told.chosen["model"][there], return_counts=True)
    if not len(models):
        return there, {}
    there = there[told.chosen["model"][there] == models[times.argmax()]]
    there = there[np.argsort(chance[there], kind="stable")[:SAMPLE]]
    sketches = sketches_of(pool.score_rows(task_id, pool.media()[there]), pairs(told.chosen[there]))
    rows = sample_of(sketches, chance[there])
    sample, sketches = there[rows], sketches[rows]
    name = blake2b(pool.media()[sample].tobytes() + sketches.values.tobytes() + sketches.scale.tobytes()).digest()
    for gone in known.keys() - {task.task_id for task in pool.project.tasks}:
        del known[gone]
    if task_id not in known or known[task_id][0] != name:
        known[task_id] = name, levels(sketches)
    found = typical(known[task_id][1], covered[sample], candidates[sample])
    clusters = zip(sample[found.order].tolist(), found.size.tolist(), found.distance.tolist(), strict=True)
    return sample[found.order], {place: (size, away if size else None) for place, size, away in clusters}


def labelled(labels: Numbers, begin: int, hidden: Mask) -> Labelled:
    """The best of a tier by their labels. begin: where the first of them stands. hidden: from nobody in particular."""
    return Labelled({int(labels[each[0]]): begin + each for each in parts(labels)}, counts(labels[~hidden]))


def had_of(told: Scores, gone: Mask) -> Counter[int]:
    """How many media are gone of each label: the one that a person gave them, else the predicted one."""
    predicted = np.where(told.tier[gone] < UNSCORED, told.chosen["label"][gone], 0)
    known = np.where(told.truth[gone] != 0, told.truth[gone], predicted)
    return counts(known[known != 0])


def counts(labels: Numbers) -> Counter[int]:
    """How often each label is there."""
    of, numbers = np.unique(labels, return_counts=True)
    return Counter(dict(zip(of.tolist(), numbers.tolist(), strict=True)))
