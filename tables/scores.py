"""Scores: from the utilities that batches told to one score for each medium of a task, and why.

A score is a rank. Which utilities count, and how their ranks become one, is a setting of the project, and is asked for
here: a change of it needs no new event from a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streams.events import EXTERNAL, ActiveLearning, Blind, Preset, Reduce, Task, TaskLearning
from tables.arrays import Array, Floats, Mask, Numbers, Places
from tables.chance import by_value
from tables.rows import BatchRow, number_of
from tables.slots import SLOTS, pairs
from tables.survey import Said, Survey
from tables.told import BLIND, NONE, Codes, Names, Times, external

ACTIVE, EARLIER, UNSCORED = 1, 2, 3
NEVER_SCORED = 1.0
# Extractors whose utilities are comparable within a batch only: what they measure against came with it.
OF_BATCH = ("fre", "fre_class_agnostic")
BATCH = np.dtype([("model", "<u8"), ("batch", "<u8")])  # the key of a batch, after its task
Lots = NDArray[np.uint32]


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
class Chosen:
    """Of each medium the slot that counts: batch and label, as codes of `names`, and its time; 0 for none."""

    batch: Codes
    label: Codes
    at: Times
    names: Names

    @classmethod
    def none(cls, media: int, names: Names) -> "Chosen":
        """As many media without one."""
        return cls(np.zeros(media, np.int32), np.zeros(media, np.int32), np.zeros(media, np.int64), names)

    def choose(self, told: Said) -> None:
        """Slots are those that count."""
        self.batch[told.of], self.label[told.of], self.at[told.of] = told.batch, told.label, told.at

    def model(self, medium: int) -> int:
        """The model of a medium, as a hash; 0 for none."""
        return int(self.names.models[self.batch[medium]])

    def models(self, some: Array) -> Numbers:
        """The models of some media."""
        return self.names.models[self.batch[some]]

    def pairs(self, some: Array) -> Numbers:
        """The batch of some media, as `tables.slots.pairs` has it."""
        return self.names.pairs[self.batch[some]]

    def of_label(self, medium: int) -> int:
        """The label of a medium, as a hash; 0 for none."""
        return int(self.names.labels[self.label[medium]])

    def labels(self, some: Array) -> Numbers:
        """The labels of some media."""
        return self.names.labels[self.label[some]]


@dataclass(frozen=True)
class Scores:
    """What a task says of each medium of a pool: tier, score in [0, 1], and why.

    chosen: the slot that counts; of a medium without a score, what was said of it last.
    truth: the label that a person gave a medium, as a hash, 0 for none.
    columns: of each extractor that counts somewhere.
    due: when what is said changes without an event (milliseconds since the epoch); none if it does not.
    """

    tier: NDArray[np.uint8]
    score: Floats
    chosen: Chosen
    truth: Numbers
    columns: dict[str, Column] = field(default_factory=dict)
    due: int | None = None


def scores(survey: Survey, task: Task, learning: ActiveLearning, now: int, patience_ms: int, lot: Lots) -> Scores:
    """Ranks within each model's media become scores.

    A batch counts as a whole when all its chunks are here, or nothing more of it has come for longer than the patience;
    of several batches of a model the latest counts for each medium. The pool of a rank is all media that the model has
    scored, whatever was annotated since, or all that one of its batches has, where no more can be compared. A medium
    has the active model's score, else that of the latest other one.

    now: milliseconds since the epoch. lot: of each medium, by which equal ones are ranked.
    """
    pool, media = survey.pool, len(survey.media)
    batches = pool.batches(task.task_id)
    waiting = [each.heard_at + patience_ms for each in batches.values() if not each.complete]
    said = survey.said(task.task_id)
    found = Scores(
        np.full(media, UNSCORED, dtype=np.uint8),
        np.full(media, NEVER_SCORED),
        Chosen.none(media, said.names),
        survey.truth(task.task_id),
        due=min((each for each in waiting if each > now), default=None),
    )
    wanted = learning.tasks.get(task.task_id, TaskLearning())
    preset = wanted.preset or learning.preset
    if preset == "random" and wanted.extractors is None:
        return found
    counting = {key: each for key, each in batches.items() if each.complete or each.heard_at + patience_ms <= now}
    said = said[counts(said, counting)]
    found.chosen.choose(said.firsts())
    models, active = said.names.models[said.batch], number_of(pool.active_model(task.task_id))
    since = np.full(media, -SLOTS, dtype=np.int64)
    for model in np.unique(said.names.models[np.flatnonzero(np.bincount(said.batch))]):
        told = said[models == model].firsts()  # of each medium the latest batch
        weights = wanted.extractors or preset_extractors(preset, task, told)
        columns = {
            name: column(
                utilities(told, name, counting),
                told.label,
                told.batch if name in OF_BATCH else np.zeros(len(told), np.int32),
                lot[told.of],
                stratified=by_label(name, preset, task, wanted),
                blind=wanted.no_prediction,
            )
            for name in weights
        }
        score = reduced(
            np.array([each.score for each in columns.values()]), wanted.intra_task_reduce, [*weights.values()]
        )
        # The active model's before all others', whenever that was; of others at one time, what was told last.
        at = told.at * SLOTS - told.place + (2**60 if model == active else 0)
        better = np.isfinite(score) & (at > since[told.of])
        there = told.of[better]
        since[there], found.score[there] = at[better], score[better]
        found.chosen.choose(told[better])
        found.tier[there] = ACTIVE if model == active else EARLIER
        for each in found.columns.values():
            each.utility[there] = each.score[there] = np.nan
        for name, each in columns.items():
            whole = found.columns.setdefault(name, Column.none(media))
            whole.utility[there], whole.score[there] = each.utility[better], each.score[better]
    return found


def counts(said: Said, batches: Mapping[bytes, BatchRow]) -> Mask:
    """Which slots are of one of some batches."""
    of = np.isin(said.names.pairs, pairs(np.frombuffer(b"".join(batches), BATCH)))
    of[NONE] = False
    found: Mask = of[said.batch]
    return found


def preset_extractors(preset: str, task: Task, told: Said) -> Mapping[str, float]:
    """The extractors that a preset uses, with their weights.

    `geti` as Geti chooses: by label where each medium has one. The others: how close the two best classes are; the
    reconstruction error where a model sent nothing but features.

    told: what a model said of its media.
    """
    if preset == "geti":
        return {"fre" if task.single_label else "fre_class_agnostic": 1.0}
    only_features = not told.has("margin") and told.has("fre_class_agnostic")
    return {"fre_class_agnostic" if only_features else "margin": 1.0}


def by_label(name: str, preset: Preset, task: Task, wanted: TaskLearning) -> bool:
    """Whether an extractor ranks each predicted label by itself."""
    if wanted.stratify is not None:
        return wanted.stratify
    # The errors of `fre` are under one PCA for each label, and those of the other under one for all.
    return name == "fre" or (name != "fre_class_agnostic" and task.single_label and preset != "uncertainty")


def utilities(told: Said, name: str, batches: Mapping[bytes, BatchRow]) -> Floats:
    """What an extractor says of media, as their slots have it."""
    if not name.startswith(EXTERNAL):
        return told.column(name)
    found = np.full(len(told), np.nan)
    wanted, batch_of = number_of(name.removeprefix(EXTERNAL)), told.names.pairs[told.batch]
    for key, batch in batches.items():
        if wanted in batch.names:
            of_batch = batch_of == pairs(np.frombuffer(key, BATCH))
            found[of_batch] = told[of_batch].column(external(batch.names.index(wanted)))
    return found


def column(utility: Floats, labels: Codes, pools: Codes, lot: Lots, *, stratified: bool, blind: Blind) -> Column:
    """The scores that utilities make, within each pool of a rank.

    Media in which the model found nothing are in no size. They have the median score and utility of the others if they
    are `neutral`; those of the first if they are `highest`, of the last if `lowest`.

    labels: as codes. pools: which of them a medium is in.
    """
    score = np.full(len(utility), np.nan)
    nothing = (labels == BLIND) & ~np.isfinite(utility)
    standing = {"highest": 0.0, "neutral": 0.5, "lowest": 1.0}[blind]
    for rows in parts(pools):
        found, without = rows[~nothing[rows]], rows[nothing[rows]]
        if stratified:  # without a label and a utility it is in no label's size
            found = found[(labels[found] != NONE) | np.isfinite(utility[found])]
        score[found] = ranked(utility[found], labels[found] if stratified else np.zeros_like(found), lot[found])
        told = found[np.isfinite(score[found])]
        if len(told) and len(without):
            score[without] = np.quantile(score[told], standing)
            utility[without] = np.quantile(utility[told], 1 - standing)
    return Column(utility, score)


def parts(of: Array) -> list[Places]:
    """The places of each value."""
    if len(of) and (of == of[0]).all():
        return [np.arange(len(of))]
    order = np.argsort(of, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(of[order])) + 1) if len(of) else []


def ranked(utility: Floats, strata: Array, lot: Lots) -> Floats:
    """Scores from utilities, (rows,) each: the rank within the stratum, best first, by the size of the largest one.

    So the best of each stratum have score 0, and a stratum that is small has no bad scores. Ties go by lot. A row
    without a utility (NaN) has no score (NaN), and is counted in the size of its stratum.

    strata: small whole numbers. lot: as `by_value` has it.

    >>> utility = np.array([0.9, 0.8, 0.7, 0.1])
    >>> ranked(utility, np.array([1, 1, 2, 1]), np.arange(4, dtype=np.uint32)).round(3)
    array([0.   , 0.333, 0.   , 0.667])
    """
    there = np.flatnonzero(np.isfinite(utility))
    order = there[by_value(-utility[there], lot[there])]
    sizes = np.bincount(strata)
    if len(sizes) > 1:
        # Numbers of 16 bits are sorted by their digits, in a tenth of the time.
        of = strata[order].astype(np.uint16 if len(sizes) <= 2**16 else np.int64)
        order = order[np.argsort(of, kind="stable")]
    of = strata[order]
    first = np.cumsum(np.bincount(of, minlength=len(sizes))) - np.bincount(of, minlength=len(sizes))
    found = np.full(len(utility), np.nan)
    found[order] = (np.arange(len(order)) - first[of]) / max(1, sizes.max(initial=0))
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
