"""From an event to how it changes rows: artifacts are scored ahead, off the event loop; the rest is a fold, at once."""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from weakref import ref

import numpy as np

from agents.extractors import Seen
from agents.fold import fold, fold_seen, fold_unseen, references_of, uploaded
from agents.score import Learnt, Scored, learnt, score, seen_of, single
from streams.artifacts import Columns, columns
from streams.errors import MalformedEvent
from streams.events import ArtifactsInferred, Event, Granted, Skipped
from streams.record import Heard
from streams.tensors import Tensor
from tables.partition import Fold
from tables.removals import left
from tables.rows import Change, Rows

log = logging.getLogger("activeset.agents")

ROW_BYTES = 1024 * 1024  # of a row: Kafka must take it, whatever the event looked like that it came from
# What takes more than some milliseconds is done in a thread; all else would cost half as much again there.
MANY = 1 << 17  # numbers of a chunk,
PRODUCTS = 1 << 24  # products of them with what was seen,
LONG = 1 << 14  # and features of a row
FEW = 1 << 14  # numbers that take less than a millisecond
MEDIUM = 60  # numbers that take as much as a medium does
SLICE = 200  # references that are read between two steps of the event loop
FITS = 4  # batches whose PCAs are kept, to score the next chunk with

Count = Callable[[str, int], None]


class Decider:
    """What events do to the rows. It keeps the PCAs of the last batches, which the next chunks need again."""

    def __init__(self, count: Count, timed: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        """Nothing is kept yet.

        count: told how many rows of a chunk were left out, and how often extractors failed.
        timed: is around each chunk that is scored.
        """
        self._count = count
        self._timed = timed
        # By what the keys of their references begin with: the rows that these are in, the first of them, and all.
        # No rows are held: their partition may go, and its database is closed.
        self._seen: dict[bytes, tuple[ref[Rows], tuple[bytes, bytes], Seen | None]] = {}

    async def decide(self, event: Event, rows: Rows, heard: Heard) -> Fold:
        """What an event does to the rows; it raises MalformedEvent if it does not fit to what is there.

        rows: with all that earlier events of its topic did to them; only artifacts look at them already.
        heard: the event's place in its topic, and when Kafka had it.

        Raises:
            MalformedEvent: its columns do not fit together.
        """
        if not isinstance(event, ArtifactsInferred):
            return lambda rows: changes(event, rows, heard)
        seen = await self.known(event, rows) if event.subset == "unseen" and event.features is not None else None
        size, timed = numbers(event), self._timed if event.subset == "unseen" else nullcontext
        if long(event, seen):
            with timed():
                given, found = await asyncio.to_thread(scored_columns, event, seen)
        else:
            await step(size)
            with timed():
                given, found = scored_columns(event, seen)
            await step(size)
        self._count("rows left out", given.left_out)
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
        if isinstance(found, Scored):
            self._count("extractors failed", found.failed)
        else:
            self._seen.pop(references_of(event), None)
        return lambda rows: changes(event, rows, heard, given, found)

    async def known(self, event: ArtifactsInferred, rows: Rows) -> Seen | None:
        """What the references of a batch hold, with the PCAs that were made of them before; none if there are none.

        They are what they were while no seen chunk has come, and go all at once.
        """
        name = references_of(event)
        first = next(iter(rows.scan(name)), None)
        kept = self._seen.pop(name, None)
        if first is None:
            return None
        if kept is not None and kept[0]() is rows and kept[1] == first:
            found = kept[2]
        else:
            values, after = list[bytes](), name
            while part := [*islice(rows.scan(name, after), SLICE)]:
                values += [value for _, value in part]
                if len(part) < SLICE:
                    break
                after = part[-1][0] + b"\0"
                await asyncio.sleep(0)
            with self._timed():
                found = await asyncio.to_thread(fitted, values)
        self._seen[name] = ref(rows), first, found
        while len(self._seen) > FITS:
            del self._seen[next(iter(self._seen))]
        return found


def numbers(event: ArtifactsInferred) -> float:
    """How many numbers a chunk has, a medium being so many, if all others are in tensors; infinitely many if not."""
    told = (event.probabilities, event.features, *(event.utilities or {}).values())
    others = sum(math.prod(each.shape) if isinstance(each, Tensor) else math.inf for each in told if each is not None)
    return others + MEDIUM * (len(event.media) + len(event.no_prediction))


def long(event: ArtifactsInferred, seen: Seen | None) -> bool:
    """Whether it takes more than some milliseconds to score a chunk."""
    if numbers(event) > MANY:
        return True
    if not isinstance(event.features, Tensor):
        return False
    features = math.prod(event.features.shape[1:])
    known = 0 if seen is None else len(seen.features)
    each = known if event.novelty else min(known, features)
    return features > LONG or math.prod(event.features.shape) * each > PRODUCTS


async def step(size: float) -> None:
    """End a step of the event loop, if scoring so many numbers and what else is done are too much for one."""
    if size > FEW:
        await asyncio.sleep(0)


def fitted(references: list[bytes]) -> Seen | None:
    """What references hold, with all PCAs."""
    seen = seen_of(references)
    if seen is not None:
        seen.fit(np.dtype(np.float32 if single(references) else np.float64))
    return seen


def scored_columns(event: ArtifactsInferred, seen: Seen | None) -> tuple[Columns, Learnt | Scored]:
    """The columns of a chunk, and what comes of them.

    Raises:
        MalformedEvent: they do not fit together.
    """
    given = columns(event)
    if event.subset == "seen":
        return given, learnt(given)
    return given, score(given, seen, multi_label=event.multi_label, novelty=event.novelty)


def changes(
    event: Event, rows: Rows, heard: Heard, given: Columns | None = None, found: Learnt | Scored | None = None
) -> list[Change]:
    """The rows that an event changes, without those that are gone already.

    given: the columns of artifacts. found: what came of them.

    Raises:
        MalformedEvent: it does not fit to what is there, or Kafka would not take a row.
    """
    oldest = event.timestamp
    if isinstance(event, ArtifactsInferred) and given is not None and found is not None:
        changed = (
            fold_unseen(event, given, found, rows, heard)
            if isinstance(found, Scored)
            else fold_seen(event, given, found, rows, heard)
        )
    else:
        changed = fold(event, rows, heard)
    if isinstance(event, Granted):
        oldest = min((uploaded(event, pick) for pick in event.media), default=oldest)
    if isinstance(event, Skipped):
        oldest = min(each.uploaded_at for each in event.media)
    longest = max([len(value) for _, value in changed if value is not None], default=0)
    if longest > ROW_BYTES:
        raise MalformedEvent(f"a row that is kept of it must be at most {ROW_BYTES} bytes, not {longest}", "too_large")
    return left(changed, event.project_id, oldest, rows)
