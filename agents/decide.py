"""From an event to the rows it changes: artifacts are scored first, off the event loop, and all is folded."""

import asyncio
import logging
from collections.abc import Callable

from agents.fold import fold, fold_seen, fold_unseen, references
from agents.score import score
from streams.artifacts import columns
from streams.errors import MalformedEvent
from streams.events import ArtifactsInferred, Event
from tables.rows import Change, Rows

log = logging.getLogger("activeset.agents")

ROW_BYTES = 1024 * 1024  # of a row: Kafka must take it, whatever the event looked like that it came from


async def decide(event: Event, rows: Rows, offset: int, count: Callable[[str, int], None]) -> list[Change]:
    """The rows that an event changes.

    offset: the event's place in its topic.
    count: told how many rows of a chunk were left out, and how many extractors failed.

    Raises:
        MalformedEvent: its columns do not fit together, or a row of it would be too large to keep.
    """
    if isinstance(event, ArtifactsInferred):
        changes = await artifacts(event, rows, count)
    else:
        changes = fold(event, rows, offset)
    for _, value in changes:
        if value is not None and len(value) > ROW_BYTES:
            raise MalformedEvent(f"a row that is kept of it must be at most {ROW_BYTES} bytes, not {len(value)}")
    return changes


async def artifacts(event: ArtifactsInferred, rows: Rows, count: Callable[[str, int], None]) -> list[Change]:
    """The rows that a chunk of artifacts changes."""
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
        return fold_seen(event, given, rows)
    scored = await asyncio.to_thread(score, given, references(event, rows), multi_label=event.multi_label)
    count("extractors failed", scored.failed)
    return fold_unseen(event, scored, rows)
