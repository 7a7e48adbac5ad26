"""A project at a glance: how many of its media are in which state, how far the active models are, how scores lie."""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from streams.events import ProjectUpdated, State
from tables.arrays import Mask
from tables.order import TIERS, Order, Tier, rule
from tables.rows import STATES
from tables.scores import ACTIVE, UNSCORED, Scores
from tables.slots import NOTHING_FOUND

BINS = 10  # of the histogram of scores


class MediaCounts(TypedDict):
    """How many media there are, and where each of them is: as `MediumTold` has it (web/answers.py), of the project."""

    total: int
    available: int
    held: int
    skipped: int
    annotated: int
    begun: int


class Histogram(TypedDict):
    """How many media have a score between two edges, one count less than edges."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class OfTask:
    """What is known in a task that can be trained. Labels are hashes, the most first: those that a
    person gave, as seen rows tell, else those that a model predicted.

    coverage: the share of the pool that the active model has scored; none of an empty one.
    scored_at: when the latest was scored (milliseconds since the epoch); 0 if none was.
    """

    states: dict[State, int]
    tiers: dict[Tier, int]
    coverage: float | None
    scores: Histogram
    pool: list[tuple[int, int]]
    annotated: list[tuple[int, int]]
    scored_at: int


def media(order: Order, project: ProjectUpdated) -> MediaCounts:
    """How many media are where.

    order: of the whole project.
    """
    tasks, allowed = rule(project, None)
    eligible = in_states(order, tasks, allowed)
    done = ~eligible & in_states(order, tasks, [STATES.index("annotated")])
    free = eligible & ~order.held
    return {
        "total": len(order.media),
        "available": int((free & ~order.hidden).sum()),
        "held": int((eligible & order.held).sum()),
        "skipped": int((free & order.hidden).sum()),
        "annotated": int(done.sum()),
        "begun": int((~eligible & ~done).sum()),
    }


def of_task(order: Order, project: ProjectUpdated, task_id: str) -> OfTask:
    """What is known in a task."""
    told = order.of_task[task_id]
    pool = in_states(order, *rule(project, task_id))
    scored = pool & (told.tier < UNSCORED)
    counts, edges = np.histogram(told.score[scored], bins=BINS, range=(0.0, 1.0))
    annotated = order.states[task_id] == STATES.index("annotated")
    return OfTask(
        states={name: int((order.states[task_id] == number).sum()) for number, name in enumerate(STATES)},
        tiers={name: int((pool & (told.tier == tier)).sum()) for tier, name in TIERS.items()},
        coverage=float((pool & (told.tier == ACTIVE)).sum() / pool.sum()) if pool.any() else None,
        scores={"edges": edges.round(3).tolist(), "counts": counts.tolist()},
        pool=labels(told, scored),
        annotated=labels(told, annotated & ((told.tier < UNSCORED) | (told.truth != 0))),
        scored_at=int(told.chosen.at[told.tier < UNSCORED].max(initial=0)),
    )


def labels(told: Scores, which: Mask) -> list[tuple[int, int]]:
    """How many media have each label, the most first; 0 where a model found nothing, or told no label."""
    of = np.where(told.truth[which] != 0, told.truth[which], told.chosen.labels(which))
    each, counts = np.unique(np.where(of == NOTHING_FOUND, 0, of), return_counts=True)
    order = np.lexsort((each, -counts))
    return [*zip(each[order].tolist(), counts[order].tolist(), strict=True)]


def in_states(order: Order, tasks: list[str], allowed: list[int]) -> Mask:
    """Which media are in one of some states in each of some tasks; one that came after the order says nothing."""
    there = np.ones(len(order.media), dtype=bool)
    for task in order.states.keys() & tasks:
        there &= np.isin(order.states[task], allowed)
    return there
