"""The rows of a partition as the next event finds them: those on their way to Kafka, before those that are here.

Events are folded one after the other, and written in groups: what an event made of a row is what the next one reads,
while both wait for Kafka. If Kafka does not take them, the worker ends, and nobody has seen them.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge

from tables.rows import Change
from tables.store import Store


class Pending:
    """Rows that are folded and not written yet, over those of a store."""

    def __init__(self, store: Store) -> None:
        """Nothing waits yet."""
        self._store = store
        self._waiting: dict[bytes, tuple[bytes | None, int]] = {}

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of some keys; None where there is no row."""
        if not self._waiting:
            return self._store.get(keys)
        elsewhere = [key for key in keys if key not in self._waiting]
        here = dict(zip(elsewhere, self._store.get(elsewhere), strict=True))
        return [self._waiting[key][0] if key in self._waiting else here[key] for key in keys]

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All rows whose keys start with a prefix, in order of their keys, from a key on."""
        waiting = {key: value for key, (value, _) in self._waiting.items() if key.startswith(prefix) and key >= after}
        new = [(key, value) for key, value in sorted(waiting.items()) if value is not None]
        return merge(new, (row for row in self._store.scan(prefix, after) if row[0] not in waiting))

    def fold(self, changes: Iterable[Change], event: int) -> None:
        """Take what an event changed.

        event: a number that rises from one to the next.
        """
        for key, value in changes:
            self._waiting[key] = (value, event)

    def written(self, changes: Iterable[Change], event: int) -> None:
        """Let go of what an event changed, now that the store has it, unless a later one changed it again."""
        for key, _ in changes:
            if key in self._waiting and self._waiting[key][1] <= event:
                del self._waiting[key]
