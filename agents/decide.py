"""From an event to how it changes rows: artifacts are scored ahead, off the event loop; the rest is a fold, at once."""

import asyncio
import logging
from collections.abc import Callable

from agents.fold import fold, fold_seen, fold_unseen, references
from agents.score import score
from streams.artifacts import columns
from streams.errors import MalformedEvent
from streams.events import ArtifactsInferred, Event
from tables.partition import Fold
from tables.rows import Change, Rows

log = logging.getLogger("activeset.agents")

ROW_BYTES = 1024 * 1024  # of a row: Kafka must take it, whatever the event looked like that it came from


async def decide(event: Event, rows: Rows, offset: int, count: Callable[[str, int], None]) -> Fold:
    """What an event does to the rows; it raises MalformedEvent if a row of it would be too large to keep.

    rows: with all that earlier events of its topic did to them; only artifacts look at them already.
    offset: the event's place in its topic.
    count: told how many rows of a chunk were left out, and how many extractors failed.

    Raises:
        MalformedEvent: its columns do not fit together.
    """
    if isinstance(event, ArtifactsInferred):
        folded = await artifacts(event, rows, count)
        return lambda rows: checked(folded(rows))
    return lambda rows: checked(fold(event, rows, offset))


def checked(changes: list[Change]) -> list[Change]:
    """The changes, if Kafka takes each row."""
    for _, value in changes:
        if value is not None and len(value) > ROW_BYTES:
            raise MalformedEvent(f"a row that is kept of it must be at most {ROW_BYTES} bytes, not {len(value)}")
    return changes


async def artifacts(event: ArtifactsInferred, rows: Rows, count: Callable[[str, int], None]) -> Fold:
    """What a chunk of artifacts does to the rows."""
    given = await asyncio.to_thread(columns, event)
    count("rows left out", given.left_out)
    if given.left_out:
        log.warning(
            "left out %d of %d rows, with numbers that are not finite: project %s, task %s, batch %s, chunk %d",
            given.left_out,
            len(event.media),
            event.project_id,
            event.task_id,
            event.batch_id,
            event.chunk,
        )
    if event.subset == "seen":
        return lambda rows: fold_seen(event, given, rows)
    scored = await asyncio.to_thread(score, given, references(event, rows), multi_label=event.multi_label)
    count("extractors failed", scored.failed)
    return lambda rows: fold_unseen(event, scored, rows)
