"""How the runs of a worker end: kept in its folder, since a worker that has ended tells nobody any more."""

import json
import logging
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from aiokafka.errors import KafkaError

from agents.watch import Stalled
from streams.errors import BadSettings, CorruptStore

# It was told to; it was told to and did not get done in time; it left no word; Kafka, its disk, a standstill, a setting
# or a mistake of ours ended it.
Reason = Literal["told", "late", "killed", "kafka", "disk", "stalled", "settings", "bug"]
# The first that fits counts: an error of Kafka's that is one of the connection's is no disk's.
REASONS: tuple[tuple[type[BaseException], Reason], ...] = (
    (KafkaError, "kafka"),
    (ConnectionError, "kafka"),
    (TimeoutError, "kafka"),
    (CorruptStore, "disk"),
    (OSError, "disk"),
    (Stalled, "stalled"),
    (BadSettings, "settings"),
)

log = logging.getLogger("activeset.worker")


def reason_of(why: BaseException | None) -> Reason:
    """What an error that ends a worker comes of."""
    for kind, reason in REASONS:
        if isinstance(why, kind):
            return reason
    return "bug"


class Ends:
    """The ends of a worker's runs so far, in a file; the folder is this worker's alone."""

    def __init__(self, folder: Path) -> None:
        """Reads what is kept: nothing, if there is no file, or one that is not as it was written."""
        self._path = folder / "ends.json"
        self.counts: Counter[Reason] = Counter(dict.fromkeys(get_args(Reason), 0))
        with suppress(OSError, ValueError, AttributeError, TypeError):
            told = json.loads(self._path.read_text())
            self.counts.update({reason: int(told[reason]) for reason in get_args(Reason) if reason in told})

    def begin(self) -> None:
        """A run begins. Unless somebody says how it ended, it was killed."""
        self.note("killed")

    def note(self, reason: Reason) -> None:
        """The run ends so: in the file, not in the counts, which are of the runs before it."""
        counts = self.counts + Counter([reason])
        new = self._path.with_suffix(".new")
        try:
            new.write_text(json.dumps(counts))
            new.replace(self._path)  # whole or not at all
        except OSError as why:
            log.warning("how this worker ends cannot be kept: %r", why)
