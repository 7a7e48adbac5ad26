"""The rows of a partition as the next event finds them: those on their way to Kafka, before those that are here.

Events are folded one after the other, and written in groups: what an event made of a row is what the next one reads,
while both wait for Kafka. If Kafka does not take them, the worker ends, and nobody has seen them.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge

from tables.rows import Change, range_of
from tables.store import Store


class Pending:
    """Rows that are folded and not written yet, over those of a store."""

    def __init__(self, store: Store) -> None:
        """Nothing waits yet."""
        self._store = store
        # By project and kind: a scan passes over the rest.
        self._waiting: dict[bytes, dict[bytes, tuple[bytes | None, int]]] = {}

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of some keys; None where there is no row."""
        if not self._waiting or not keys:
            return self._store.get(keys)
        of = range_of(keys[0])
        # Most are asked of one range: then all that lie between two of it do, too.
        if min(keys).startswith(of) and max(keys).startswith(of):
            there = self._waiting.get(of, {})
            waiting = [there.get(key) for key in keys] if there else []
        else:
            waiting = [self._waiting.get(range_of(key), {}).get(key) for key in keys]
        if not any(waiting):
            return self._store.get(keys)
        elsewhere = [key for key, row in zip(keys, waiting, strict=True) if row is None]
        here = dict(zip(elsewhere, self._store.get(elsewhere), strict=True))
        return [here[key] if row is None else row[0] for key, row in zip(keys, waiting, strict=True)]

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All rows whose keys start with a prefix, in order of their keys, from a key on.

        prefix: at least a project and a kind.
        """
        there = self._waiting.get(range_of(prefix), {})
        waiting = {key: value for key, (value, _) in there.items() if key.startswith(prefix) and key >= after}
        new = [(key, value) for key, value in sorted(waiting.items()) if value is not None]
        return merge(new, (row for row in self._store.scan(prefix, after) if row[0] not in waiting))

    def fold(self, changes: Iterable[Change], event: int) -> set[bytes]:
        """Take what an event changed; the answer is of which ranges that is.

        event: a number that rises from one to the next.
        """
        of, there, ranges = b"", dict[bytes, tuple[bytes | None, int]](), set[bytes]()
        for key, value in changes:  # most are of one range
            if not of or not key.startswith(of):
                of = range_of(key)
                there = self._waiting.setdefault(of, {})
                ranges.add(of)
            there[key] = (value, event)
        return ranges

    def written(self, changes: Iterable[Change], event: int) -> None:
        """Let go of what an event changed, now that the store has it, unless a later one changed it again."""
        of, there = b"", dict[bytes, tuple[bytes | None, int]]()
        for key, _ in changes:
            if not of or not key.startswith(of):
                of = range_of(key)
                there = self._waiting.get(of, {})
            row = there.get(key)
            if row is not None and row[1] <= event:
                del there[key]
                if not there:
                    self._waiting.pop(of, None)
