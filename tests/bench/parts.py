"""The parts of an ingest, out of the product's own functions: from a record to the rows that it changes."""

from collections.abc import Iterable, Mapping, Sequence

from agents.decide import Decider, changes, scored_columns
from streams.decode import decode
from streams.events import ArtifactsInferred
from streams.record import Record, heard
from tables.rows import Change, Kind, Rows, prefix_of


class Parts:
    """Scores chunks; keeps the PCAs of the last batches, as a worker does."""

    def __init__(self) -> None:
        self._decider = Decider(lambda *_: None)

    async def rows_of(self, record: Record, offset: int, rows: Rows) -> list[Change]:
        """The rows that a chunk changes.

        rows: those that there are.
        """
        event = decode(record, "inference_artifacts")
        assert isinstance(event, ArtifactsInferred)
        wanted = event.subset == "unseen" and event.features is not None
        given, found = scored_columns(event, await self._decider.known(event, rows) if wanted else None)
        return changes(event, rows, heard(record, offset, event), given, found)


class InTable:
    """The rows of a plain table, read a key at a time; those of seen media are kept in memory, for it has no scan."""

    def __init__(self, table: Mapping[bytes, bytes]) -> None:
        self._table = table
        self._kept: dict[bytes, bytes] = {}

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of some keys."""
        return [self._table.get(key) for key in keys]

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterable[tuple[bytes, bytes]]:
        """All references whose keys start with a prefix, in order."""
        return ((key, self._kept[key]) for key in sorted(self._kept) if key.startswith(prefix) and key >= after)

    def keep(self, project: str, changed: Iterable[Change]) -> None:
        """Take the references among rows that change."""
        prefix = prefix_of(project, Kind.REFERENCE)
        for key, value in changed:
            if key.startswith(prefix):
                if value is None:
                    del self._kept[key]
                else:
                    self._kept[key] = value
