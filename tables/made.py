"""An order that was made: what it is true of, what has changed since, and what was told of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from streams.events import Chosen
from tables.arrays import Mask, Places
from tables.order import Order, Tier
from tables.pool import MEDIA, Media
from tables.rows import HASH_BYTES, MEDIUM_BYTES
from tables.shelves import as_keys, places_in
from tables.sketches import Sketches
from tables.slots import sketches_of

SMALL = 50_000  # media of which an order is made anew whenever something has changed: some ten milliseconds
REST = 10  # times what it took to make an order of more pass before the next is made; twice that it is answered from,
REST_S = 15.0  # but no longer than twice this
SKETCHED = 50_000  # media of which sketches are kept, that were read
TOLD = 10_000  # media of which it is kept what is told: some megabytes
MANY = 100_000  # media that changed since an order was made; with more it is too old


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


class Place(NamedTuple):
    """A medium in the order (its 12 bytes), and why it stands there.

    uploaded_at: when it was uploaded last. rank: among those that nobody has, by score. choice: if it is of a set.
    """

    medium: bytes
    uploaded_at: int
    score: float
    tier: Tier
    reasons: list[Reason]
    rank: int = 0
    choice: Chosen | None = None


@dataclass(eq=False)
class Truth:
    """What an order is true of.

    version: how many changes were known.
    until: how far each topic was applied before the next one, and changed_at, when that came (seconds of a clock that
        only runs); none if that has not come: it is true until now.
    touched: the media, and images or videos, that may not be had any more, as far as that was not looked at; none if it
        may be all of them. anew: whether it was: the project has changed, or much else.
    """

    version: int
    until: dict[str, int] | None = None
    changed_at: float | None = None
    touched: set[bytes] | None = field(default_factory=set)
    anew: bool = False

    def changed(self, until: dict[str, int], touched: set[bytes], *, anew: bool) -> None:
        """Something has changed."""
        if self.until is None:
            self.until, self.changed_at = until, time.monotonic()
        if self.touched is not None:
            self.touched |= touched
        if anew or len(self.touched or ()) > MANY:
            self.touched, self.anew = None, True


@dataclass(frozen=True)
class Asked:
    """A set that is asked for.

    now: milliseconds since the epoch. user_id: for whom. hidden: which media are not for them. among: the places in the
    order of all others, and perhaps of some of these; none: all.
    """

    now: int
    user_id: str | None
    hidden: Mask
    among: Places | None


@dataclass
class Made:
    """An order, and what it is true of.

    at: when it was begun to be made (milliseconds since the epoch). began, took_s: the same in seconds, as `Truth` has
    them, and what it took. doubt: which media are to be looked at once more; gone: which of the others may not be
    had; hidden: which are not for nobody in particular. answers: what was answered from it, by how many media were
    asked for. told: what is told of media, by their places, and shown, as whoever shows them has it, by the media: of
    those that were not touched since.
    """

    task_id: str | None
    order: Order
    truth: Truth
    at: int
    began: float
    took_s: float
    answers: dict[int, Any] = field(default_factory=dict)
    told: dict[int, Place] = field(default_factory=dict)
    shown: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sketches = np.empty(0, np.intp), Sketches.none(0)  # those that were read, in the order of their places
        self.doubt, self.gone = (np.zeros(len(self.order.media), dtype=bool) for _ in range(2))
        self.hidden = self.order.hidden.copy()

    @cached_property
    def visible(self) -> Places | None:
        """The places in the order of what is not hidden from nobody in particular; none if nothing is."""
        order = self.order
        return np.flatnonzero(~order.hidden[order.best]) if order.hidden.any() else None

    def due(self, now: int) -> bool:
        """Whether it would be another one by now, without any change."""
        return self.order.due is not None and self.order.due <= now

    def serves(self, now: int) -> bool:
        """Whether it may be answered from, though it is not current: it is large, and has not been old for long."""
        return len(self.order.media) > SMALL and not self.truth.anew and self.old_s(now) < 2 * self.rest_s

    def old_s(self, now: int) -> float:
        """For how many seconds there has been something that it does not know; 0 if there is nothing."""
        old_s = 0.0 if self.truth.changed_at is None else time.monotonic() - self.truth.changed_at
        return old_s if self.order.due is None else max(old_s, (now - self.order.due) / 1000)

    def rested(self) -> bool:
        """Whether the next one may be made: making takes a share of the time."""
        return time.monotonic() - self.began >= self.rest_s

    @property
    def rest_s(self) -> float:
        """How long it is from when it was begun until the next one may be."""
        return min(REST * self.took_s, REST_S)

    def look(self) -> None:
        """Take notice of what was touched since it was looked at last."""
        media, touched = self.order.media, self.truth.touched
        if touched is not None and not touched:
            return
        self.answers.clear()
        self.truth.touched = set()
        if touched is None:
            self.doubt[:] = True
            self.forget()
            return
        places, there = places_in(media, as_keys([each for each in touched if len(each) == MEDIUM_BYTES], MEDIA))
        again = places[there].tolist()
        wholes = [each for each in touched if len(each) == HASH_BYTES]
        first = np.searchsorted(media, as_keys([each + b"\0\0\0\0" for each in wholes], MEDIA))
        end = np.searchsorted(media, as_keys([each + b"\xff\xff\xff\xff" for each in wholes], MEDIA), side="right")
        for begin, stop in zip(first[end > first].tolist(), end[end > first].tolist(), strict=True):
            again += range(begin, stop)
        self.doubt[again] = True
        for place in self.told.keys() & again:
            self.shown.pop(self.told.pop(place).medium, None)

    def forget(self) -> None:
        """Keep nothing of what was told."""
        self.told.clear()
        self.shown.clear()

    def sketches_of(self, places: Places, rows: Callable[[str, Media], list[bytes | None]]) -> Sketches:
        """The sketches of some media, each once, in the task that leads, of the batch that counts.

        rows: reads their score rows, unless that was done before.
        """
        if not len(places):
            return Sketches.none(0)
        order, (read, sketches) = self.order, self._sketches
        if len(read) > SKETCHED:
            read, sketches = read[:0], Sketches.none(0)
        at, there = places_in(read, places)
        if not there.all():
            new = places[~there]
            found = sketches_of(rows(order.lead_task, order.media[new]), order.lead.chosen.pairs(new))
            every = np.concatenate([read, new])
            by_place = np.argsort(every)
            read, sketches = every[by_place], (sketches + found)[by_place]
            self._sketches = read, sketches
            at = np.searchsorted(read, places)
        return sketches[at]
