"""The slots of a score row: which batches keep one, so that nothing that counts is destroyed while another comes.

What becomes of a slot depends on newer ones only. So an older one that was deleted meanwhile, or not yet, changes
nothing for those that stay (tables/removals.py).
"""

import numpy as np
from numpy.typing import NDArray

from tables.arrays import Mask
from tables.rows import BatchRow, Rows
from tables.slots import EMPTY, NOTHING_FOUND, SLOTS, UTILITIES, Slots, pairs

COMING = 2  # batches that are not complete and keep a slot


def placed(new: Slots, slots: Slots, complete: NDArray[np.uint64]) -> Slots:
    """Score rows when a batch has come to its media: newest first, among equals what was told last.

    A batch has one slot: what it told last, and of what it told at the same time before, what it does not tell again.
    A slot goes when a later batch of its model has one, and both are complete; one that is coming when two others come
    after it; and each when there is no room behind newer ones. That nothing was found in a medium gives way to what the
    batch said of it at the same time.

    new: (rows,), slots: (rows, SLOTS), both of WHOLE_SLOT. complete: the batches that are, as `pairs` has them.
    """
    own = (slots["at"] >= 0) & (pairs(slots) == pairs(new)[:, None])
    same = own & (slots["at"] == new["at"][:, None])
    found, blind = slots["label"] != NOTHING_FOUND, (new["label"] == NOTHING_FOUND)[:, None]
    better = own & (slots["at"] > new["at"][:, None]) | same & found & blind
    every = np.concatenate([merged(new, slots, same & found)[:, None], slots], axis=1)
    # Which of them, and what decides: the slots themselves are moved once, being long.
    at = every["at"].copy()
    at[:, 1:][own & ~better] = EMPTY["at"]
    at[:, 0][better.any(axis=1)] = EMPTY["at"]
    which = np.argsort(-at, axis=1, kind="stable")
    at, model, pair = (np.take_along_axis(each, which, axis=1) for each in (at, every["model"], pairs(every)))
    done, keep = np.isin(pair, complete), at >= 0
    for place in range(1, every.shape[1]):
        count, both = keep[:, :place], done[:, :place] & done[:, place, None]
        superseded = (count & both & (model[:, :place] == model[:, place, None])).any(axis=1)
        crowded = ~done[:, place] & ((count & ~done[:, :place]).sum(axis=1) >= COMING)
        keep[:, place] &= ~superseded & ~crowded & (count.sum(axis=1) < SLOTS)
    packed = np.argsort(~keep, axis=1, kind="stable")[:, :SLOTS]
    left = np.take_along_axis(every, np.take_along_axis(which, packed, axis=1), axis=1)
    left[~np.take_along_axis(keep, packed, axis=1)] = EMPTY
    return left


def merged(new: Slots, slots: Slots, same: Mask) -> Slots:
    """What a batch tells, with what it told at the same time and does not tell again: so a chunk may come twice.

    same: the slots of which this is so, (rows, SLOTS); at most one in a row.
    """
    rows = np.flatnonzero(same.any(axis=1))
    told, before = new.copy(), slots[rows, same[rows].argmax(axis=1)]
    for name in (*UTILITIES, "external"):
        told[name][rows] = np.where(np.isnan(new[name][rows]), before[name], new[name][rows])
    for name in ("sketch", "scale"):
        there = np.isfinite(new["scale"][rows]).reshape(-1, *[1] * (new[name].ndim - 1))
        told[name][rows] = np.where(there, new[name][rows], before[name])
    told["label"][rows] = np.where(new["label"][rows] == 0, before["label"], new["label"][rows])
    return told


def complete_among(slots: Slots, prefix: bytes, rows: Rows) -> NDArray[np.uint64]:
    """The batches of slots that are complete, as `pairs` has them.

    prefix: what the keys of the task's batches begin with.
    """
    there = slots[slots["at"] >= 0]
    _, first = np.unique(pairs(there), return_index=True)
    batches = there[first]
    keys = [prefix + each["model"].tobytes() + each["batch"].tobytes() for each in batches]
    done = [row is not None and BatchRow.unpack(row).complete for row in rows.get(keys)]
    return pairs(batches[done])
