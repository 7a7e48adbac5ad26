"""The slots of a score row: which one a batch gets, so that nothing that counts is destroyed while it comes."""

import numpy as np
from numpy.typing import NDArray

from streams.events import ArtifactsInferred
from tables.rows import SLOTS, BatchRow, Kind, Rows, hashed, prefix_of

Slots = NDArray[np.void]
Mask = NDArray[np.bool_]


def slot_of(new: Slots, slots: Slots, complete: Mask) -> tuple[NDArray[np.intp], Mask, Mask]:
    """The slot of each medium that a batch may have, whether it may, and whether it has it already.

    Its own; else an empty one; else what a later batch of the same model has superseded; else what is not complete;
    else the oldest. Never what is newer than it.

    new: (rows,), slots and complete: (rows, SLOTS).
    """
    own = (slots["model"] == new["model"][:, None]) & (slots["batch"] == new["batch"][:, None]) & (slots["at"] >= 0)
    empty = slots["at"] < 0
    superseded = np.zeros_like(own)
    for one in range(SLOTS):
        for other in range(SLOTS):
            later = (slots["at"][:, other] > slots["at"][:, one]) & complete[:, other]
            superseded[:, one] |= later & (slots["model"][:, one] == slots["model"][:, other])
    newer = slots["at"] > new["at"][:, None]
    dear = np.select([own, newer, empty, superseded, ~complete], [0, 5, 1, 2, 3], 4)
    chosen = (dear * 2**50 + slots["at"]).argmin(axis=1)  # among equals the oldest; no time is as large as that
    every = np.arange(len(new))
    return chosen, ~newer[every, chosen], own[every, chosen]


def complete(slots: Slots, event: ArtifactsInferred, rows: Rows) -> Mask:
    """Which slots are of batches that are complete."""
    prefix = prefix_of(event.project_id, Kind.BATCH) + hashed(event.task_id)
    batches = np.unique(np.stack([slots["model"].ravel(), slots["batch"].ravel()], axis=1), axis=0)
    told = rows.get([prefix + each.tobytes() for each in batches])
    done = [row is not None and BatchRow.unpack(row).complete for row in told]
    mask = np.zeros(slots.shape, dtype=bool)
    for model, batch in batches[done]:
        mask |= (slots["model"] == model) & (slots["batch"] == batch)
    return mask
