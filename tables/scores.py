"""Scores: from the utilities that batches told to one score for each medium of a task, and why.

A score is a rank. Which utilities count, and how their ranks become one, is a setting of the project, and is asked for
here: a change of it needs no new event from a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.events import EXTERNAL, ActiveLearning, Blind, Preset, Reduce, Task, TaskLearning
from tables.arrays import Floats, Numbers
from tables.pool import Pool
from tables.rows import BatchRow, number_of
from tables.slots import NOTHING_FOUND, SLOT, SLOTS, Slots, pairs

ACTIVE, EARLIER, UNSCORED = 1, 2, 3
NEVER_SCORED = 1.0
# Extractors whose utilities are comparable within a batch only: what they measure against came with it.
OF_BATCH = ("fre", "fre_class_agnostic")
CHOSEN_NAMES = ["model", "batch", "label", "at"]
CHOSEN = np.dtype([("model", "<u8"), ("batch", "<u8"), ("label", "<u8"), ("at", "<i8")])
BATCH = np.dtype([("model", "<u8"), ("batch", "<u8")])  # the key of a batch, after its task


@dataclass(frozen=True)
class Column:
    """What an extractor says of each medium of a pool: utility and score, NaN where it says nothing."""

    utility: Floats
    score: Floats

    @classmethod
    def none(cls, media: int) -> "Column":
        """As many media, and nothing said of them."""
        return cls(np.full(media, np.nan), np.full(media, np.nan))


@dataclass(frozen=True)
class Scores:
    """What a task says of each medium of a pool: tier, score in [0, 1], and why.

    chosen: model, batch and label of the slot that counts, as hashes, and its time; 0 where there is none. Of a medium
    without a score, what was said of it last.
    truth: the label that a person gave a medium, as a hash, 0 for none.
    columns: of each extractor that counts somewhere.
    due: when what is said changes without an event (milliseconds since the epoch); none if it does not.
    """

    tier: NDArray[np.uint8]
    score: Floats
    chosen: Slots
    truth: Numbers
    columns: dict[str, Column] = field(default_factory=dict)
    due: int | None = None

    @classmethod
    def none(cls, media: int, due: int | None = None) -> "Scores":
        """As many media, and nothing said of them."""
        tier = np.full(media, UNSCORED, dtype=np.uint8)
        return cls(tier, np.full(media, NEVER_SCORED), np.zeros(media, CHOSEN), np.zeros(media, np.uint64), due=due)


def scores(pool: Pool, task: Task, learning: ActiveLearning, now: int, patience_ms: int) -> Scores:
    """Ranks within each model's media become scores.

    A batch counts as a whole when all its chunks are here, or nothing more of it has come for longer than the patience;
    of several batches of a model the latest counts for each medium. The pool of a rank is all media that the model has
    scored, whatever was annotated since, or all that one of its batches has, where no more can be compared. A medium
    has the active model's score, else that of the latest other one.

    now: milliseconds since the epoch.
    """
    batches = pool.batches(task.task_id)
    waiting = [each.heard_at + patience_ms for each in batches.values() if not each.complete]
    found = Scores.none(len(pool.media()), due=min((each for each in waiting if each > now), default=None))
    found = replace(found, truth=pool.truth(task.task_id))
    wanted = learning.tasks.get(task.task_id, TaskLearning())
    preset = wanted.preset or learning.preset
    if preset == "random" and wanted.extractors is None:
        return found
    counting = {key: each for key, each in batches.items() if each.complete or each.heard_at + patience_ms <= now}
    of, places, slots = pool.slots(task.task_id)
    counts = np.isin(pairs(slots), pairs(np.frombuffer(b"".join(counting), BATCH)))
    active = number_of(pool.active_model(task.task_id))
    chance = pool.chance()
    since = np.full(len(found.tier), -SLOTS, dtype=np.int64)
    latest = np.flatnonzero(counts)
    latest = latest[np.lexsort((-places[latest], slots["at"][latest]))]
    for name in CHOSEN_NAMES:
        found.chosen[name][of[latest]] = slots[name][latest]  # of equal places the last one stays
    for model in np.unique(slots["model"][counts]):
        of_model = np.flatnonzero((slots["model"] == model) & counts)
        # Of each medium the latest batch: the first of its slots.
        order = of_model[np.lexsort((places[of_model], of[of_model]))]
        media, first = np.unique(of[order], return_index=True)
        told, newest = slots[order[first]], places[order[first]]
        weights = wanted.extractors or preset_extractors(preset, task, told)
        columns = {
            name: column(
                utilities(told, name, counting),
                told["label"],
                told["batch"] if name in OF_BATCH else told["model"],
                chance[media],
                stratified=by_label(name, preset, task, wanted),
                blind=wanted.no_prediction,
            )
            for name in weights
        }
        score = reduced(
            np.array([each.score for each in columns.values()]), wanted.intra_task_reduce, [*weights.values()]
        )
        # The active model's before all others', whenever that was; of others at one time, what was told last.
        at = told["at"] * SLOTS - newest + (2**60 if model == active else 0)
        better = np.isfinite(score) & (at > since[media])
        there = media[better]
        since[there], found.score[there] = at[better], score[better]
        found.chosen[there] = told[better][CHOSEN_NAMES]
        found.tier[there] = ACTIVE if model == active else EARLIER
        for each in found.columns.values():
            each.utility[there] = each.score[there] = np.nan
        for name, each in columns.items():
            whole = found.columns.setdefault(name, Column.none(len(found.tier)))
            whole.utility[there], whole.score[there] = each.utility[better], each.score[better]
    return found


def preset_extractors(preset: str, task: Task, told: Slots) -> Mapping[str, float]:
    """The extractors that a preset uses, with their weights.

    `geti` as Geti chooses: by label where each medium has one. The others: how close the two best classes are; the
    reconstruction error where a model sent nothing but features.

    told: what a model said of its media.
    """
    if preset == "geti":
        return {"fre" if task.single_label else "fre_class_agnostic": 1.0}
    only_features = not np.isfinite(told["margin"]).any() and np.isfinite(told["fre_class_agnostic"]).any()
    return {"fre_class_agnostic" if only_features else "margin": 1.0}


def by_label(name: str, preset: Preset, task: Task, wanted: TaskLearning) -> bool:
    """Whether an extractor ranks each predicted label by itself."""
    if wanted.stratify is not None:
        return wanted.stratify
    # The errors of `fre` are under one PCA for each label, and those of the other under one for all.
    return name == "fre" or (name != "fre_class_agnostic" and task.single_label and preset != "uncertainty")


def utilities(told: Slots, name: str, batches: Mapping[bytes, BatchRow]) -> Floats:
    """What an extractor says of media, as their slots have it."""
    if not name.startswith(EXTERNAL):
        return np.asarray(told[name], dtype=np.float64)
    found = np.full(len(told), np.nan)
    wanted = number_of(name.removeprefix(EXTERNAL))
    if told.dtype == SLOT:  # none of the rows has any
        return found
    batch_of = pairs(told)
    for key, batch in batches.items():
        if wanted in batch.names:
            of_batch = batch_of == pairs(np.frombuffer(key, BATCH))
            found[of_batch] = told["external"][of_batch, batch.names.index(wanted)]
    return found


def column(
    utility: Floats, labels: Numbers, pools: Numbers, chance: Numbers, *, stratified: bool, blind: Blind
) -> Column:
    """The scores that utilities make, within each pool of a rank.

    Media in which the model found nothing are in no size. They have the median score and utility of the others if they
    are `neutral`; those of the first if they are `highest`, of the last if `lowest`.

    labels: as hashes, 0 for none. pools: which of them a medium is in.
    """
    utility, score = utility.copy(), np.full(len(utility), np.nan)
    nothing = (labels == NOTHING_FOUND) & ~np.isfinite(utility)
    standing = {"highest": 0.0, "neutral": 0.5, "lowest": 1.0}[blind]
    for rows in parts(pools):
        found, without = rows[~nothing[rows]], rows[nothing[rows]]
        if stratified:  # without a label and a utility it is in no label's size
            found = found[(labels[found] != 0) | np.isfinite(utility[found])]
        score[found] = ranked(utility[found], labels[found] if stratified else np.zeros_like(found), chance[found])
        told = np.isfinite(score[found])
        if told.any():
            score[without] = np.quantile(score[found][told], standing)
            utility[without] = np.quantile(utility[found][told], 1 - standing)
    return Column(utility, score)


def parts(of: Numbers) -> list[NDArray[np.intp]]:
    """The places of each value."""
    order = np.argsort(of, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(of[order])) + 1) if len(of) else []


def ranked(utility: Floats, strata: NDArray[Any], chance: Numbers) -> Floats:
    """Scores from utilities, (rows,) each: the rank within the stratum, best first, by the size of the largest one.

    So the best of each stratum have score 0, and a stratum that is small has no bad scores. Ties go by chance. A row
    without a utility (NaN) has no score (NaN), and is counted in the size of its stratum.

    >>> utility = np.array([0.9, 0.8, 0.7, 0.1])
    >>> ranked(utility, np.array([1, 1, 2, 1], np.uint64), np.arange(4, dtype=np.uint64)).round(3)
    array([0.   , 0.333, 0.   , 0.667])
    """
    order = np.lexsort((chance, -utility, strata))  # NaN comes last
    _, first, counts = np.unique(strata[order], return_index=True, return_counts=True)
    ranks = np.empty(len(utility))
    ranks[order] = np.arange(len(utility)) - np.repeat(first, counts)
    found: Floats = np.where(np.isfinite(utility), ranks / max(1, counts.max(initial=0)), np.nan)
    return found


def reduced(told: Floats, how: Reduce, weights: list[float] | None = None) -> Floats:
    """One score of several, (kinds, media): over those that are present (not NaN); NaN where none is.

    weights: of each kind, in a mean.

    >>> reduced(np.array([[0.0, 0.5, np.nan], [1.0, np.nan, np.nan]]), "mean", [3.0, 1.0])
    array([0.25, 0.5 ,  nan])
    """
    there = np.isfinite(told)
    if how != "mean":
        fill, reduce = (np.inf, np.min) if how == "min" else (-np.inf, np.max)
        found = reduce(np.where(there, told, fill), axis=0, initial=fill)
    else:
        each = np.ones(len(told)) if weights is None else np.array(weights)
        total = each @ there
        found = each @ np.where(there, told, 0.0) / np.where(total > 0, total, 1.0)
    return np.where(there.any(axis=0), found, np.nan)
