"""The rows of a partition as the next event finds them: those on their way to Kafka, before those that are here.

Events are folded one after the other, and written in groups: what an event made of a row is what the next one reads,
while both wait for Kafka. If Kafka does not take them, the worker ends, and nobody has seen them.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain
from typing import Any, Final

from tables.rows import Change, range_of
from tables.store import Store

Ranges = dict[bytes, dict[bytes, bytes | None]]  # rows by project and kind: a scan passes over the rest
ELSEWHERE: Final[Any] = object()  # a row that does not wait


class Pending:
    """Rows that are folded and not written yet, over those of a store."""

    def __init__(self, store: Store) -> None:
        """Nothing waits yet."""
        self._store = store
        self._folded: Ranges = {}
        self._writing: Ranges = {}  # the group before them

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of some keys; None where there is no row."""
        if not keys or not (self._folded or self._writing):
            return self._store.get(keys)
        waiting = self._waiting(keys)
        elsewhere = [key for key, row in zip(keys, waiting, strict=True) if row is ELSEWHERE]
        there = self._store.get(elsewhere)
        if len(there) == len(keys):
            return there
        here = iter(there)
        return [next(here) if row is ELSEWHERE else row for row in waiting]

    def _waiting(self, keys: Sequence[bytes]) -> list[Any]:
        """What waits of some keys, at least one."""
        of = range_of(keys[0])
        # Most are asked of one range: then all that lie between two of it are, too.
        if min(keys).startswith(of) and max(keys).startswith(of):
            new, old = self._folded.get(of, {}), self._writing.get(of, {})
            return [new[key] if key in new else old.get(key, ELSEWHERE) for key in keys]
        return [self._waiting([key])[0] for key in keys]

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All rows whose keys start with a prefix, in order of their keys, from a key on.

        prefix: at least a project and a kind.
        """
        of = range_of(prefix)
        rows = chain(self._writing.get(of, {}).items(), self._folded.get(of, {}).items())
        waiting = {key: value for key, value in rows if key.startswith(prefix) and key >= after}
        new = [(key, value) for key, value in sorted(waiting.items()) if value is not None]
        return merge(new, (row for row in self._store.scan(prefix, after) if row[0] not in waiting))

    def fold(self, changes: Iterable[Change]) -> set[bytes]:
        """Take what an event changed; the answer is of which ranges that is."""
        of, there, ranges = b"", dict[bytes, bytes | None](), set[bytes]()
        for key, value in changes:  # most are of one range
            if not of or not key.startswith(of):
                of = range_of(key)
                there = self._folded.setdefault(of, {})
                ranges.add(of)
            there[key] = value
        return ranges

    def take(self) -> list[Change]:
        """All that was folded since the last time, to be written; each row as it was folded last."""
        self._writing, self._folded = self._folded, {}
        return [change for each in self._writing.values() for change in each.items()]

    def written(self) -> None:
        """The store has what was taken."""
        self._writing = {}
