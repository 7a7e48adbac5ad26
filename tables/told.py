"""What was told of media in a task: the slots of its score rows as columns, one value after the other.

A utility that nobody told takes no place, nor do sketches, which are read where they are needed. What is the same in
many slots, batch and label, stands once and has a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from streams.events import EXTRACTORS
from tables.arrays import Array, Floats, Mask, Numbers
from tables.rows import EXTERNALS, MEDIUM_BYTES
from tables.shelves import Keys, interleaved, place_in
from tables.slots import NOTHING_FOUND, named, pairs, taken_apart

Codes = NDArray[np.int32]
Times = NDArray[np.int64]
NONE, BLIND = 0, 1  # the codes of no label, or no batch, and of the label of what the model found nothing in


@dataclass(frozen=True)
class Names:
    """What codes stand for: batches, as `pairs` has them, and the model of each; and labels. Code 0 stands for none."""

    pairs: Numbers = field(default_factory=lambda: np.zeros(1, np.uint64))
    models: Numbers = field(default_factory=lambda: np.zeros(1, np.uint64))
    labels: Numbers = field(default_factory=lambda: np.array([0, NOTHING_FOUND], np.uint64))


def coded(known: Numbers, told: Numbers) -> tuple[Numbers, Codes, NDArray[np.intp]]:
    """Numbers by their places among those that are known, which become more; and of each new one where it is told."""
    distinct, first, inverse = np.unique(told, return_index=True, return_inverse=True)
    order = np.argsort(known)
    places = np.minimum(np.searchsorted(known, distinct, sorter=order), len(known) - 1)
    codes = order[places]
    new = known[codes] != distinct
    codes[new] = len(known) + np.arange(np.count_nonzero(new))
    return np.concatenate([known, distinct[new]]), codes[inverse].astype(np.int32), first[new]


@dataclass(frozen=True)
class Told:
    """Score rows in order of their media.

    keys: of the rows. first: where the slots of each begin, and where the last ones end, (rows + 1,).
    batch, label: of each slot, by their codes in `names`; at: when. columns: utilities by their names, those of batches
    by the bytes of their places; NaN where there is none. All (slots,).
    """

    keys: Keys
    first: NDArray[np.uint32]
    batch: Codes
    label: Codes
    at: Times
    columns: Mapping[str, Floats]
    names: Names

    @classmethod
    def none(cls) -> "Told":
        """Nothing was told."""
        codes = np.empty(0, np.int32)
        first = np.zeros(1, np.uint32)
        return cls(
            np.empty(0, f"S{MEDIUM_BYTES}"), first, codes, codes, np.empty(0, np.int64), MappingProxyType({}), Names()
        )

    def of(self, keys: Keys, values: Sequence[bytes]) -> "Told":
        """Others, whose codes are told by all names that are known here, and more."""
        counts = np.zeros(len(values), np.uint32)
        groups = [*taken_apart(values)]
        for which, count, _ in groups:
            counts[which] = count
        first = np.concatenate([np.zeros(1, np.uint32), np.cumsum(counts, dtype=np.uint32)])
        size = int(first[-1])
        pair, model, label = (np.empty(size, np.uint64) for _ in range(3))
        at, columns = np.empty(size, np.int64), dict[str, Floats]()
        for which, count, (slots, *more) in groups:
            where = first[which][:, None] + np.arange(count, dtype=np.uint32)
            pair[where], model[where], label[where], at[where] = (
                pairs(slots),
                slots["model"],
                slots["label"],
                slots["at"],
            )
            said = dict[str, Array]()
            for part in more:
                name = named(part.dtype)
                if name in EXTRACTORS:
                    said[name] = part[name]
                elif name == "external":
                    said |= {external(n): part[name][..., n] for n in range(EXTERNALS)}
            for name, utility in said.items():
                if np.isfinite(utility).any():
                    columns.setdefault(name, np.full(size, np.nan))[where] = utility
        all_pairs, batch, new = coded(self.names.pairs, pair)
        labels, codes, _ = coded(self.names.labels, label)
        names = Names(all_pairs, np.concatenate([self.names.models, model[new]]), labels)
        return Told(keys, first, batch, codes, at, columns, names)

    def followed(self, parts: Sequence["Told"]) -> "Told":
        """The rows with those of others after them. Each was made of the one before it, and so knows its names."""
        every = [self, *parts]
        counts = np.concatenate([np.diff(each.first) for each in every])

        def joined(name: str) -> Array:
            found: Array = np.concatenate([getattr(each, name) for each in every])
            return found

        columns = {name: np.concatenate([each.column(name) for each in every]) for name in columns_of(every)}
        first = np.concatenate([np.zeros(1, np.uint32), np.cumsum(counts, dtype=np.uint32)])
        return Told(joined("keys"), first, joined("batch"), joined("label"), joined("at"), columns, every[-1].names)

    def mixed(self, stay: Mask, others: "Told", where: Mask) -> "Told":
        """Those that stay with others, made of these, among them."""
        counts, more = np.diff(self.first), np.diff(others.first)
        left = np.repeat(stay, counts)
        both = interleaved(counts[stay], more, where)
        of = np.repeat(where, both)

        def joined(own: Array, other: Array) -> Array:
            return interleaved(own[left], other, of)

        columns = {name: joined(self.column(name), others.column(name)) for name in columns_of([self, others])}
        return Told(
            interleaved(self.keys[stay], others.keys, where),
            np.concatenate([np.zeros(1, np.uint32), np.cumsum(both, dtype=np.uint32)]),
            joined(self.batch, others.batch),
            joined(self.label, others.label),
            joined(self.at, others.at),
            columns,
            others.names,
        )

    def column(self, name: str) -> Floats:
        """The utility of a name, (slots,)."""
        return self.columns[name] if name in self.columns else np.full(len(self.at), np.nan)

    def newest(self, key: bytes) -> int | None:
        """When anything was said of a medium last; none if nothing was."""
        place = place_in(self.keys, key)
        return None if place is None else int(self.at[self.first[place]])


def external(number: int) -> str:
    """The column of a utility that producers computed, by its place in the row of its batch."""
    return f"external {number}"


def columns_of(every: Sequence[Told]) -> list[str]:
    """The columns that any of these has."""
    return [*dict.fromkeys(name for each in every for name in each.columns)]
