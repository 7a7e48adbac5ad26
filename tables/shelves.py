"""Shelves: the rows of one kind as sorted arrays, and what has changed since in a dict, which is put among them later.

A row takes as many bytes as it has, and no Python object. Arrays are never changed: another thread may read them, and
make new ones, while changes go on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tables.arrays import Array, Mask, Places

Keys = NDArray[np.bytes_]  # in order, each once; numpy hides zeros at the end, in all of them alike


class Block(Protocol):
    """Rows in order of their keys."""

    @property
    def keys(self) -> Keys:
        """Their keys."""
        ...

    def of(self, keys: Keys, values: Sequence[bytes]) -> Self:
        """Others of this form, which may build on it: keys in order, and their values."""
        ...

    def followed(self, parts: Sequence[Self]) -> Self:
        """The rows with those of others, whose keys come after these, one after the other."""
        ...

    def mixed(self, stay: Mask, others: Self, where: Mask) -> Self:
        """Those that stay with others among them. where: which of all these are the others."""
        ...


B = TypeVar("B", bound=Block)


@dataclass(frozen=True)
class Fixed:
    """Rows of one length. keys: (rows,) of S; values: (rows,) of a structured dtype."""

    keys: Keys
    values: Any

    @classmethod
    def none(cls, key_bytes: int, form: "np.dtype[Any]") -> "Fixed":
        """No rows; values may be longer than the form, and are cut."""
        return cls(np.empty(0, f"S{key_bytes}"), np.empty(0, form))

    def of(self, keys: Keys, values: Sequence[bytes]) -> "Fixed":
        """Others of this form."""
        size = self.values.dtype.itemsize
        return Fixed(keys, np.frombuffer(b"".join([each[:size] for each in values]), self.values.dtype))

    def followed(self, parts: Sequence["Fixed"]) -> "Fixed":
        """The rows with those of others after them."""
        every = [self, *parts]
        return Fixed(np.concatenate([each.keys for each in every]), np.concatenate([each.values for each in every]))

    def mixed(self, stay: Mask, others: "Fixed", where: Mask) -> "Fixed":
        """Those that stay with others among them."""
        return Fixed(
            interleaved(self.keys[stay], others.keys, where), interleaved(self.values[stay], others.values, where)
        )

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        place = place_in(self.keys, key)
        return None if place is None else self.values[place].tobytes()


class Shelf(Generic[B]):
    """Rows of one kind: a block of most of them, and what has changed since."""

    def __init__(self, block: B) -> None:
        """There is nothing but a block."""
        self.block = block
        self._parts: list[B] = []
        self._lent: dict[bytes, bytes | None] = {}  # changes that another thread puts among the rows
        self._fresh: dict[bytes, bytes | None] = {}  # those after them
        self._borrowed: dict[bytes, bytes | None] | None = None  # of whom this one was lent, those it was lent with

    def __len__(self) -> int:
        """About how many rows there are."""
        return len(self.block.keys) + len(self._lent) + len(self._fresh)

    @property
    def waiting(self) -> int:
        """How many changes are not among the rows."""
        return len(self._fresh)

    def load(self, keys: Keys, values: Sequence[bytes]) -> None:
        """Take rows of a scan, in order of their keys: what changed meanwhile counts more."""
        self._parts.append((self._parts or [self.block])[-1].of(keys, values))

    def change(self, key: bytes, value: bytes | None) -> None:
        """Take a row; none deletes it."""
        self._fresh[key] = value

    def changed(self, key: bytes) -> tuple[bytes | None] | None:
        """The row of a key, if it changed since it was put among the others; none in it if it was deleted."""
        for changes in (self._fresh, self._lent):
            if key in changes:
                return (changes[key],)
        return None

    def lent(self) -> "Shelf[B]":
        """The shelf as it is, for another thread."""
        self._lent, self._fresh = {**self._lent, **self._fresh}, {}
        shelf = Shelf(self.block)
        shelf._parts, shelf._lent, shelf._borrowed = self._parts, self._lent, self._lent
        return shelf

    def given_back(self, shelf: "Shelf[B]") -> None:
        """Keep what another thread has put in order, if it has, of what it was lent last."""
        if self._lent is shelf._borrowed is not shelf._lent:
            self.block, self._parts, self._lent = shelf.block, [], {}

    def settle(self) -> B:
        """All rows: what has changed is put among them."""
        block, changes = self.block, {**self._lent, **self._fresh}
        if self._parts:
            block = block.followed(self._parts)
        if changes:
            block = with_changes(block, changes)
        self.block, self._parts, self._lent, self._fresh = block, [], {}, {}
        return block


def with_changes(block: B, changes: Mapping[bytes, bytes | None]) -> B:
    """Rows with changes among them."""
    told = sorted(changes)  # keys alone: pairs take three times as long
    values = {key: value for key in told if (value := changes[key]) is not None}
    others = block.of(as_keys(values, block.keys.dtype), [*values.values()])
    places, there = places_in(block.keys, as_keys(told, block.keys.dtype))
    stay = np.ones(len(block.keys), dtype=bool)
    stay[places[there]] = False
    left = block.keys[stay]
    where = np.zeros(len(left) + len(others.keys), dtype=bool)
    where[np.searchsorted(left, others.keys) + np.arange(len(others.keys))] = True
    return block.mixed(stay, others, where)


def interleaved(some: Array, others: Array, where: Mask) -> Array:
    """Two arrays as one. where: which of all are the others."""
    found = np.empty(len(where), some.dtype)
    found[where] = others
    found[~where] = some
    return found


def as_keys(keys: Iterable[bytes], form: "np.dtype[Any]") -> Keys:
    """Keys, all of the form's length, as one array."""
    return np.frombuffer(b"".join(keys), form)


def tails(keys: Sequence[bytes], first: int) -> Keys:
    """What follows in keys of one length, from a byte on, as one array."""
    each = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
    return np.ascontiguousarray(each[:, first:]).view(f"S{each.shape[1] - first}").reshape(-1)


def place_in(keys: Keys, key: bytes) -> int | None:
    """Where a key stands among others that are in order; none if it is not there."""
    named = np.frombuffer(key, keys.dtype)[0]
    place = int(np.searchsorted(keys, named))
    return place if place < len(keys) and keys[place] == named else None


def places_in(keys: Array, some: Array) -> tuple[Places, Mask]:
    """Where some keys stand among others that are in order, and which of them do at all; all (some,)."""
    if len(keys) == len(some) and np.array_equal(keys, some):
        return np.arange(len(some)), np.ones(len(some), dtype=bool)
    if not len(keys):
        return np.zeros(len(some), np.intp), np.zeros(len(some), dtype=bool)
    places = np.minimum(np.searchsorted(keys, some), len(keys) - 1)
    return places, keys[places] == some
