"""The ranking: the order in which the media of a project are suggested, and why.

It is made from the pool when it is asked for, in a thread, for it takes a second where there are a million media;
events go on meanwhile. What they changed since is looked at again in what is answered. Where there are many media, an
order that is a little old is answered from while the next one is made.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from weakref import WeakSet

import numpy as np
from msgspec import structs

from streams.errors import BadQuery, UnknownProject, UnknownTask
from streams.events import Chosen, Pick
from streams.times import iso
from tables.arrays import Mask, Places
from tables.choosing import Choice, Group, How, chosen, with_lots
from tables.heads import drawn_at_least
from tables.made import SMALL, TOLD, Asked, Made, Place, Reason, Truth
from tables.memory import trim
from tables.order import TIERS, Known, Order, eligible, medium_at, order_of, place_of
from tables.pool import READ, Pool
from tables.rows import HASH_BYTES, MEDIUM_BYTES, Change, Kind, Rows, medium_bytes, number_of, prefix_of
from tables.scores import ACTIVE, EARLIER, NEVER_SCORED, UNSCORED, Scores
from tables.shelves import places_in
from tables.sketches import Sketches

PART = 16384  # places of an order that are looked through at once
AWAY_FROM = 5  # media that others have, for each of a set, from which it is kept away: more cost more than the set
LOOKED_AT = 1200  # of those before a medium, for its rank: more than an active set may show
SLOWER = 5  # times as long as the processor takes for it an order may take before that counts
UNSETTLED = 1 / 8  # of the rows of a kind, changed since they were put in order
# Where in a key, after project and kind, what stands that may not be had any more when its row changes; how long it is.
TOUCHED = {
    Kind.UPLOAD: (0, HASH_BYTES),
    Kind.REMOVAL: (0, HASH_BYTES),
    Kind.STATE: (HASH_BYTES, MEDIUM_BYTES),
    Kind.GRANT: (0, MEDIUM_BYTES),
    Kind.SKIP: (0, MEDIUM_BYTES),
}


class Ranking:
    """The orders over a pool: of the whole project, and of each task that was asked for."""

    def __init__(
        self, project_id: str, rows: Rows, patience_ms: int, as_of: Callable[[], dict[str, int]] = dict
    ) -> None:
        """Nothing is known yet.

        rows: where the sketches of media are read when they are needed.
        patience_ms: with a batch of which chunks are missing; it counts without them then.
        as_of: how far each topic is applied.
        """
        self.pool = Pool(project_id, rows)
        self._head = len(prefix_of(project_id))
        self._patience_ms = patience_ms
        self._as_of = as_of
        self._version = 0
        self._made: dict[str | None, Made] = {}  # the latest ones
        self._truths: WeakSet[Truth] = WeakSet()  # of orders that somebody has, or that are made
        self._known: Known = {}
        self._making: asyncio.Task[tuple[str | None, Made | None]] | None = None
        self._loading = False

    def load(self, kind: Kind, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Take rows of a scan of one kind, in order of their keys; `loaded` ends that."""
        self._loading = True
        self.pool.load(kind, rows)

    async def loaded(self) -> None:
        """All rows are here."""
        await self._settle()
        self._loading = False

    async def _settle(self) -> tuple[None, None]:
        """Put what has changed among the other rows."""
        pool = self.pool.lent()
        await asyncio.to_thread(pool.settle)
        await asyncio.to_thread(trim)
        self.pool.given_back(pool)
        return None, None

    def update(self, rows: Sequence[Change]) -> None:
        """Take rows, as a pool does, before what they tell counts as applied."""
        self._version += 1
        rows = [row for row in rows if row[0][self._head] in READ]  # what was learnt may be a thousand others
        if self._truths:
            until, (touched, anew) = self._as_of(), self._touched(rows)
            for truth in self._truths:
                truth.changed(until, touched, anew=anew)
        self.pool.update(rows)
        if self.pool.waiting > UNSETTLED and not self._loading and not self._busy:
            self._making = asyncio.create_task(self._settle())

    def _touched(self, rows: Iterable[Change]) -> tuple[set[bytes], bool]:
        """Which media, images and videos rows are about that may not be had any more; and whether these may be all."""
        head, touched, anew = self._head, set[bytes](), False
        for key, _ in rows:
            kind = key[head]
            if kind in TOUCHED:
                first, size = TOUCHED[Kind(kind)]
                about = key[head + 1 + first : head + 1 + first + size]
                touched.add(about)
                anew |= not about
            else:
                anew |= kind == Kind.PROJECT
        return touched, anew

    def sweep(self, rows: Iterable[Change]) -> None:
        """Take rows that go because nobody can see them: they change no order."""
        self.pool.update(rows)

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
        wanted, old = self._version, None
        while True:
            made = await self.made(task_id, now, old)
            count = limit - drawn_at_least(made.order.how.explore, limit)
            asked = self.asked(made, now, user_id)
            groups = self._groups(made, count, asked)
            old = made
            if groups is None:
                continue
            if made.order.how.explore or any(group.sketches for group in groups):
                of = await asyncio.to_thread(self._set, made.order, groups, asked, limit, seed)
                asked = self.asked(made, now, user_id)  # what was hidden meanwhile is, too
            else:  # it takes less than a thread does to begin
                of = self._set(made.order, groups, asked, limit, seed)
            places = self.still(made, of, asked)
            # That nothing is left only an order can tell that knows all.
            if places or (not of and made.truth.version >= wanted and not made.due(now)):
                return places, made

    def asked(self, made: Made, now: int, user_id: str | None = None) -> Asked:
        """Somebody asks."""
        made.look()
        hidden = self.pool.hidden_from(user_id, made.order.media, made.hidden)
        return Asked(now, user_id, hidden, made.visible if hidden is made.hidden else None)

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
                group = replace(group, labels=order.lead.chosen.labels(order.best[candidates]), quota=quota)
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
        most = AWAY_FROM * group.count
        given = order.given[: np.searchsorted(order.before, candidates[-1], side="right")][:most]
        given = np.concatenate([self._lately_given(made, asked, int(candidates[-1]), most), given])[:most]
        models, times = np.unique(told.chosen.models(order.best[candidates]), return_counts=True)

        def read(places: Places) -> Sketches:
            # Features of two models cannot be compared.
            alike = told.chosen.models(places) == models[times.argmax()]
            return made.sketches_of(places, self.pool.score_rows).where(alike)

        return replace(group, sketches=lambda: read(order.best[candidates]), fixed=lambda: read(given))

    def _lately_given(self, made: Made, asked: Asked, last: int, most: int) -> Places:
        """The media before a place that somebody has since the order was made."""
        order, before = made.order, made.order.best[:last]
        media = [(place, medium_at(order.media, place)) for place in before[made.gone[before]][:most].tolist()]
        return np.array([place for place, medium in media if not self.pool.free(medium, asked.now)], np.intp)

    def _set(self, order: Order, groups: list[Group], asked: Asked, limit: int, seed: str) -> list[Choice]:
        """What is chosen of the candidates, and by lot of all that is for who asks."""
        found = chosen(groups)
        if order.how.explore:
            places = np.flatnonzero(~asked.hidden[order.best])
            chance = self.pool.chance_of(order.media[order.best[places]])
            found = with_lots(found, places, chance, order.how.explore, limit, number_of(seed))
        for n, each in enumerate(found):
            if each.why.by == "score" and each.place >= order.ends[EARLIER]:
                why, place = structs.replace(each.why, by="chance"), int(order.best[each.place])
                if place in order.typical:
                    size, away = order.typical[place]
                    why = structs.replace(why, by="typicality", cluster_size=size, distance=away)
                found[n] = Choice(each.place, why)
        return sorted(found, key=lambda each: each.place)

    def still(self, made: Made, of: list[Choice], asked: Asked) -> list[Place]:
        """Those of a set that may be annotated still."""
        order, last = made.order, max((each.place for each in of), default=-1)
        made.look()
        chosen = np.array([each.place for each in of], np.intp)
        places, among, at = order.best[chosen], order.best[: last + 1], chosen
        if asked.among is not None:
            shown, there = places_in(asked.among, chosen)
            if there.all():
                at, among = shown, order.best[asked.among[: max(shown, default=-1) + 1]]
        left = self._may(made, places, asked)
        rank = np.cumsum(~(made.gone[among] | asked.hidden[among]))[at]
        each_of = zip(of, places.tolist(), rank.tolist(), left.tolist(), strict=True)
        return [self._place(made, place, rank, each.why) for each, place, rank, may in each_of if may]

    def _may(self, made: Made, places: Places, asked: Asked) -> Mask:
        """Which of some media may be annotated by who asks. What is in doubt is looked at, for some 10 us each.

        Raises:
            as `best`: project or task went meanwhile.
        """
        eligible, pool = self.eligible(made), self.pool
        for place in places[made.doubt[places]].tolist():
            medium = medium_at(made.order.media, place)
            made.gone[place] = not (eligible(medium) and pool.free(medium, asked.now))
            made.hidden[place] = pool.skipped(medium, None)
            asked.hidden[place] = pool.skipped(medium, asked.user_id)  # it may be the same array, and the same
            made.doubt[place] = False
        may: Mask = ~(made.gone[places] | asked.hidden[places])
        return may

    @property
    def _busy(self) -> bool:
        return self._making is not None and not self._making.done()

    async def made(self, task_id: str | None, now: int, old: Made | None = None) -> Made:
        """The order of a task, or of the whole project, with all in it that is known when it is asked for.

        Of many media it may be a little old: then the next one is made meanwhile, if the last one has rested.

        old: another one is wanted than this.

        Raises:
            as `best`.
        """
        wanted = self._version
        while True:
            self.pool.check_task(task_id)
            made = self._made.get(task_id)
            if made is not None and made is not old:
                if self.current(made) and not made.due(now):
                    return made
                if made.serves(now):
                    if made.rested() and not self._busy:
                        self._begin(task_id, now)
                    return made
            making = self._making if self._making is not None and self._busy else self._begin(task_id, now)
            of, made = await asyncio.shield(making)  # whoever asked first may go
            if of == task_id and made is not None and made.truth.version >= wanted and not made.due(now):
                return made

    def _begin(self, task_id: str | None, now: int) -> "asyncio.Task[tuple[str | None, Made | None]]":
        """Begin to make an order; nobody need wait for it."""
        self._making = asyncio.create_task(self._make(task_id, now))
        self._making.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._making

    async def _make(self, task_id: str | None, now: int) -> tuple[str | None, Made | None]:
        """Make an order; there is none if project or task went since it was asked for."""
        truth, pool, began = Truth(self._version), self.pool.lent(), time.monotonic()
        self._truths.add(truth)
        try:
            order, cpu_s = await asyncio.to_thread(self._timed, pool, task_id, now)
        except (UnknownProject, UnknownTask, BadQuery):
            return task_id, None
        finally:
            self.pool.given_back(pool)
        # What the processor has to do counts, and less how long others kept it from that.
        made = Made(task_id, order, truth, now, began, max(cpu_s, (time.monotonic() - began) / SLOWER))
        kept = {of: each for of, each in self._made.items() if self.current(each) or each.serves(now)}
        self._made = {**kept, task_id: made}
        if len(order.media) > SMALL:
            await asyncio.to_thread(trim)
        return task_id, made

    def _timed(self, pool: Pool, task_id: str | None, now: int) -> tuple[Order, float]:
        """An order, and the seconds of CPU that it took; to be made in a thread."""
        began = time.thread_time()
        return order_of(pool, task_id, now, self._patience_ms, self._known), time.thread_time() - began

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

        It is when all have been annotated, deleted, given away or skipped since.

        Raises:
            as `best`: project or task went meanwhile.
        """
        left, found, best = [np.empty(0, np.intp)], 0, made.order.best
        if isinstance(places, range) and asked.among is not None:
            places = asked.among[slice(*np.searchsorted(asked.among, (places.start, places.stop)))]
        first, step = 0, count
        while first < len(places) and found < count:
            some = places[first : first + step]
            first, step = first + step, min(2 * step, PART)
            part = np.arange(some.start, some.stop) if isinstance(some, range) else some
            left.append(part[self._may(made, best[part], asked)][: count - found])
            found += len(left[-1])
        looked_at = best[places[:first]] if not isinstance(places, range) else best[places.start : places.stop][:first]
        return None if not found and made.gone[looked_at].any() else np.concatenate(left)

    def rank(self, made: Made, medium: bytes, now: int) -> int | None:
        """The place of a medium by score among those that may be had without a name; none if it may not.

        Of an order that is not current, no more of the best are looked at again than can be shown.

        Raises:
            as `best`: project or task went meanwhile.
        """
        asked, order = self.asked(made, now), made.order
        found = np.flatnonzero(order.best == place_of(order.media, medium))
        if not len(found) or not self._may(made, order.best[found], asked)[0]:
            return None
        before = order.best[: found[0]]
        before = before[~asked.hidden[before]]
        self._may(made, before[:LOOKED_AT], asked)
        return len(before) + 1 - int((made.gone[before] | asked.hidden[before]).sum())

    def found(self, made: Made, picks: Iterable[Pick]) -> list[Place]:
        """Media that were chosen before, and what an order says of them now; those that are gone are left out."""
        return [
            place._replace(rank=pick.rank, score=pick.score, choice=pick.choice)
            for pick in picks
            if (place := self.place(made, medium_bytes(pick.medium))) is not None
        ]

    def place(self, made: Made, medium: bytes) -> Place | None:
        """What an order says of a medium, whoever has it, without a rank; none if it is gone."""
        where = place_of(made.order.media, medium)
        return self._place(made, where, 0) if where is not None and self.pool.exists(medium) else None

    def _place(self, made: Made, place: int, rank: int, choice: Chosen | None = None) -> Place:
        told = made.told.get(place)
        if told is None:
            if len(made.told) >= TOLD:
                made.forget()
            order = made.order
            medium = medium_at(order.media, place)
            told = made.told[place] = Place(
                medium=medium,
                uploaded_at=self.pool.uploaded(medium),
                score=float(order.score[place]),
                tier=TIERS[int(order.tier[place])],
                reasons=[self._reason(task, scores, place) for task, scores in order.of_task.items()],
            )
        return Place(*told[:5], rank, choice)

    def _reason(self, task: str, scores: Scores, place: int) -> Reason:
        if scores.tier[place] == UNSCORED:
            return {"task_id": task, "tier": TIERS[UNSCORED], "score": NEVER_SCORED}
        chosen = scores.chosen
        return {
            "task_id": task,
            "tier": TIERS[int(scores.tier[place])],
            "score": float(scores.score[place]),
            "extractors": {
                name: {"utility": float(each.utility[place]), "score": float(each.score[place])}
                for name, each in scores.columns.items()
                if np.isfinite(each.score[place])
            },
            "label": self.pool.name(chosen.of_label(place)),
            "model_id": self.pool.name(chosen.model(place)),
            "scored_at": iso(int(chosen.at[place])),
        }
