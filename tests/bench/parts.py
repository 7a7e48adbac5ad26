"""The parts of an ingest, out of the product's own functions: from a record to the rows that it changes."""

from collections.abc import Iterable, Sequence

from agents.decide import Decider, changes
from agents.score import score
from streams.artifacts import columns
from streams.decode import decode
from streams.events import ArtifactsInferred
from streams.record import Record, heard
from tables.rows import Change, Kind, Rows, prefix_of


class Parts:
    """Scores chunks; keeps the PCAs of the last batches, as a worker does."""

    def __init__(self) -> None:
        self._decider = Decider(lambda *_: None)

    def rows_of(self, record: Record, offset: int, rows: Rows) -> list[Change]:
        """The rows that a chunk changes.

        rows: those that there are.
        """
        event = decode(record, "inference_artifacts")
        assert isinstance(event, ArtifactsInferred)
        given = columns(event)
        told = heard(record, offset, event)
        if event.subset == "seen":
            return changes(event, rows, told, given)
        known = None if given.features is None else self._decider.known(event, rows)
        scored = score(given, known, multi_label=event.multi_label, novelty=event.novelty)
        return changes(event, rows, told, given, scored)


class References:
    """Rows of which only the references of seen media are kept, in memory; of all others it says that there are none.

    What plain Faust reads: its tables have no scan, and the rows that it overwrites it need not read.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Nothing of any key."""
        return [None] * len(keys)

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
