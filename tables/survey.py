"""A survey: a pool as arrays, one entry for each of its media.

It puts the rows in order first: of a pool that is lent, in another thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tables.arrays import Floats, Mask, Numbers, Places
from tables.pool import MEDIA, Media, Pool
from tables.rows import HASH_BYTES, STATES, Kind, hashed, live
from tables.shelves import Fixed, Keys, as_keys, places_in
from tables.told import Codes, Names, Times, Told

PARTS = np.dtype([("whole", f"S{HASH_BYTES}"), ("frame", ">u4")])  # a medium, taken apart
NONE_STATE = STATES.index("none")


@dataclass(frozen=True)
class Said:
    """Slots of media, in the order of these and newest first.

    of: of which medium each is; place: among those of it; which: of what was told. All (slots,).
    """

    told: Told
    of: Places
    place: Places
    which: Places

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, some: Places | Mask) -> "Said":
        return replace(self, of=self.of[some], place=self.place[some], which=self.which[some])

    @property
    def names(self) -> Names:
        """What codes stand for."""
        return self.told.names

    @property
    def batch(self) -> Codes:
        """The batch of each, as a code."""
        return self.told.batch[self.which]

    @property
    def label(self) -> Codes:
        """The label of each, as a code."""
        return self.told.label[self.which]

    @property
    def at(self) -> Times:
        """When each was told."""
        return self.told.at[self.which]

    def column(self, name: str) -> Floats:
        """A utility of each; NaN where there is none."""
        found: Floats = self.told.column(name)[self.which]
        return found

    def has(self, name: str) -> bool:
        """Whether any has a utility."""
        return name in self.told.columns and bool(np.isfinite(self.column(name)).any())

    def firsts(self) -> "Said":
        """Of each medium the first."""
        return self[np.diff(self.of, prepend=-1) > 0]


class Survey:
    """What a pool knows of each of its media, in their order."""

    def __init__(self, pool: Pool) -> None:
        """Nothing is looked at yet."""
        self.pool = pool

    @cached_property
    def _uploads(self) -> tuple[Fixed, Times]:
        """What was uploaded and exists, in the project's own dataset storage: what is in another is not trained with.

        With when each was deleted last, itself or with the project; before all time if it never was.
        """
        rows, removals = self.pool.all(Kind.UPLOAD), self.pool.all(Kind.REMOVAL)
        times = np.full(len(rows.keys), self.pool.removed())
        places, there = places_in(rows.keys, removals.keys)
        places = places[there]
        times[places] = np.maximum(times[places], removals.values["at"][there])
        left = (rows.values["at"] > times) & (rows.values["storage"] == self.pool.storage)
        return Fixed(rows.keys[left], rows.values[left]), times[left]

    @cached_property
    def _all(self) -> tuple[Media, Places]:
        """All media, and of each the upload."""
        uploads, removed = self._uploads
        if not uploads.values["frame_count"].any():
            return uploads.keys.astype(MEDIA), np.arange(len(uploads.keys))
        counts, strides = (
            uploads.values["frame_count"].astype(np.int64),
            uploads.values["frame_stride"].astype(np.int64),
        )
        implied = np.where(counts > 0, -(-counts // np.maximum(strides, 1)), 1)
        of = np.repeat(np.arange(len(counts)), implied)
        frame = (np.arange(len(of)) - np.repeat(np.cumsum(implied) - implied, implied)) * strides[of]
        both = np.unique(np.concatenate([of << 32 | frame, *self._named(uploads.keys, counts, removed)]))
        of, found = both >> 32, np.empty(len(both), PARTS)
        found["whole"], found["frame"] = uploads.keys[of], both & 0xFFFFFFFF
        return found.view(MEDIA), of

    def _named(self, wholes: Keys, counts: NDArray[np.int64], removed: Times) -> Iterator[NDArray[np.int64]]:
        """Frames of videos that scores name, whether or not a stride implies them; with the place of their upload."""
        for told in self.pool.told().values():
            parts = told.keys.view(PARTS)
            of, there = places_in(wholes, np.ascontiguousarray(parts["whole"]))
            frame = parts["frame"].astype(np.int64)
            there &= (frame < counts[of]) & (told.at[told.first[:-1]] > removed[of])
            yield of[there] << 32 | frame[there]

    @property
    def media(self) -> Media:
        """All media that exist: images, and of each video the frames that are implied or named by a score; in order.

        Raises:
            UnknownProject: nothing was told of the project, or it is gone.
        """
        return self._all[0]

    @cached_property
    def removed(self) -> Times:
        """When each medium was deleted last, itself or with the project; before all time if it never was."""
        return self._uploads[1][self._all[1]]

    def said(self, task_id: str) -> Said:
        """All slots of media in a task, but those of what a medium was before it was deleted."""
        told = self.pool.told().get(hashed(task_id), Told.none())
        counts = np.diff(told.first).astype(np.intp)
        row = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(row)) - told.first[row]
        where, there = places_in(self.media, told.keys)
        alive = np.flatnonzero(there[row])
        of = where[row[alive]]
        later = told.at[alive] > self.removed[of]
        if not later.all():
            alive, of = alive[later], of[later]
        return Said(told, of, place[alive], alive)

    def states(self, task_id: str) -> NDArray[np.uint8]:
        """The annotation state of each medium in a task."""
        found = np.full(len(self.media), NONE_STATE, np.uint8)
        places, rows = self._alive(Kind.STATE, hashed(task_id), "at")
        found[places] = rows["state"]
        return found

    def truth(self, task_id: str) -> Numbers:
        """The hash of the label that a person gave each medium in a task, as a model was told it; 0 for none."""
        found = np.zeros(len(self.media), np.uint64)
        places, rows = self._alive(Kind.LABEL, hashed(task_id), "at")
        found[places] = rows["label"]
        return found

    def taken(self, now: int) -> tuple[Places, Times]:
        """The media that somebody has, suggested or leased until later than now, and until when.

        now: milliseconds since the epoch.
        """
        places, grants = self._alive(Kind.GRANT, b"", "uploaded_at")
        held = live(grants, self.pool.reset, now)
        return places[held], grants["until"][held]

    def _alive(self, kind: Kind, task: bytes, at: str) -> tuple[Places, Any]:
        """The media of which there are rows of a kind, later than they were deleted, and these. at: when each is of."""
        rows = self.pool.all(kind, task)
        places, there = places_in(self.media, rows.keys)
        places, values = places[there], rows.values[there]
        later = values[at] > self.removed[places]
        return places[later], values[later]

    def hidden(self) -> Mask:
        """Which media are not for nobody in particular."""
        hidden = np.zeros(len(self.media), dtype=bool)
        places, there = places_in(self.media, as_keys(self.pool.hidden(), MEDIA))
        hidden[places[there]] = True
        return hidden

    def chance(self) -> Numbers:
        """A number for each medium that looks drawn by lot, and is the same for ever."""
        return self.pool.chance_of(self.media)
