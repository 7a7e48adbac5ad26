"""The order of a task, or of a project: its media, best first, as they were when it was made, and what it is of."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streams.events import ProjectUpdated
from tables.arrays import Floats, Mask, Numbers, Places
from tables.choosing import How, how_of
from tables.heads import Quotas, apportioned, shares
from tables.pool import MEDIA, Media, Pool
from tables.rows import FOREVER, MEDIUM_BYTES, STATES
from tables.scores import ACTIVE, EARLIER, NEVER_SCORED, UNSCORED, Scores, parts, reduced, scores
from tables.slots import NOTHING_FOUND, pairs, sketches_of
from tables.typical import Level, levels, sample_of, typical

Known = dict[str, tuple[bytes, list[Level]]]  # of each task, what clusters are of, and they
Tier = Literal["active_model", "earlier_model", "not_scored"]
TIERS: dict[int, Tier] = {ACTIVE: "active_model", EARLIER: "earlier_model", UNSCORED: "not_scored"}


@dataclass(frozen=True)
class Labelled:
    """The best of a tier by the label that is predicted for them.

    places: of each label, those in the order, best first. there: how many of them are hidden from nobody in particular.
    """

    places: Mapping[int, Places]
    there: Counter[int]


@dataclass(frozen=True)
class Order:
    """The media of a task, or of the whole project, that may be annotated: their places in the pool, best first.

    best: those that nobody has. suggested: how many of the others a reset would free.
    of_task: the scores, by task; states: in those of which they matter, as places in STATES. open: whether a medium may
    be annotated. held: whether somebody has it. hidden: whether skipped, so that nobody in particular gets it.
    due: when it changes without an event (milliseconds since the epoch); none if it does not.
    ends: how many of the best are in a tier or in one before it, by tier. how: sets are put together of them.
    typical: of media that were not scored and come as typical ones do, by their places, how many these stand for, and
    how near they are; 0 and none if they stand for none.
    given: the places of those that somebody has and that might be chosen if nobody had, best first; before: how many of
    the best stand before each.
    labels: the best by label, by tier, and had: how many media of each label are annotated, or somebody has; where sets
    have quotas.
    """

    media: Media
    best: Places
    suggested: int
    tier: NDArray[np.uint8]
    score: Floats
    of_task: dict[str, Scores]
    states: dict[str, NDArray[np.uint8]]
    open: Mask
    held: Mask
    hidden: Mask
    due: int | None
    ends: Mapping[int, int]
    how: How
    typical: Mapping[int, tuple[int, float | None]]
    given: Places
    before: Places
    labels: Mapping[int, Labelled]
    had: Counter[int]

    @property
    def lead_task(self) -> str:
        """The task whose labels and sketches count."""
        return next(iter(self.of_task))

    @property
    def lead(self) -> Scores:
        """What is known in it."""
        return self.of_task[self.lead_task]

    def quota(self, quotas: Quotas, tier: int, hidden: Mask, given: Counter[int], count: int) -> dict[int, int]:
        """How many media of each label a set is to have of a tier.

        hidden: which media are not for who asks. given: how many of each label it has of the tiers before.
        """
        had, there = self.had + given, self.there(tier, hidden)
        whole = had + there
        for none in (0, NOTHING_FOUND):
            del whole[none]
        return apportioned(count, shares(quotas, whole), there, had)

    def there(self, tier: int, hidden: Mask) -> Counter[int]:
        """How many media of each label can be had of a tier; no quota counts on what is hidden."""
        found = self.labels[tier].there.copy()
        other = np.flatnonzero(hidden != self.hidden)
        other = other[self.open[other] & ~self.held[other] & (self.tier[other] == tier)]
        for label, gone in zip(self.lead.chosen["label"][other].tolist(), hidden[other].tolist(), strict=True):
            found[label] += -1 if gone else 1
        return +found

    def utility(self, places: Places) -> Floats:
        """What stands for the use of some media: the utility if one extractor counts, else the score turned around."""
        columns = [column for scores in self.of_task.values() for column in scores.columns.values()]
        return columns[0].utility[places] if len(columns) == 1 else -self.score[places]


def medium_at(media: Media, place: int) -> bytes:
    """The 12 bytes of a medium at a place: numpy hides zeros at the end."""
    return bytes(media[place]).ljust(MEDIUM_BYTES, b"\0")


def place_of(media: Media, medium: bytes) -> int | None:
    """Where a medium stands in an array of media; none if it is not in it."""
    place = int(np.searchsorted(media, np.frombuffer(medium, MEDIA)[0]))
    there = place < len(media) and medium_at(media, place) == medium
    return place if there else None


def rule(project: ProjectUpdated, task_id: str | None) -> tuple[list[str], list[int]]:
    """In which tasks a medium must be in one of which states (their places in STATES) to be annotated.

    A later task of a chain works on what an earlier one found, which counts as partly annotated.
    """
    if task_id is None:
        return [task.task_id for task in project.tasks], [STATES.index("none")]
    first = next((task.task_id for task in project.tasks if task.trainable), None)
    allowed = ("none",) if task_id == first else ("none", "partially_annotated")
    return [task_id], [STATES.index(each) for each in allowed]


def eligible(pool: Pool, task_id: str | None) -> Callable[[bytes], bool]:
    """Whether a medium may be annotated in a task, also one that is gone, or in the whole project.

    Raises:
        UnknownProject: it is gone.
    """
    storage, (tasks, allowed) = pool.storage, rule(pool.project, task_id)
    return lambda medium: pool.eligible(medium, storage, tasks, allowed)


def order_of(pool: Pool, task_id: str | None, now: int, patience_ms: int, known: Known) -> Order:
    """The order of a task, or of the project: by the worst tier in which a medium is scored, by score, by a fixed hash.

    A medium's score is what the project makes of those of its tasks that are there: the mean, the least or the largest.
    Those without a score come last, the typical ones first.

    known: clusters that were made before, for the next time.

    Raises:
        UnknownProject, UnknownTask, BadQuery: as `Pool.task`.
    """
    pool.check_task(task_id)
    project, media = pool.project, pool.media()
    asked = [task for task in project.tasks if task.trainable and task_id in (None, task.task_id)]
    of_task = {task.task_id: scores(pool, task, project.active_learning, now, patience_ms) for task in asked}
    shape = (len(of_task), len(media))
    tiers = np.array([each.tier for each in of_task.values()], dtype=np.uint8).reshape(shape)
    told = np.array([each.score for each in of_task.values()]).reshape(shape)
    scored = tiers < UNSCORED
    tier = np.where(scored.any(axis=0), np.where(scored, tiers, 0).max(axis=0, initial=0), UNSCORED).astype(np.uint8)
    score = reduced(np.where(scored, told, np.nan), project.active_learning.inter_task_reduce)
    score = np.where(scored.any(axis=0), score, NEVER_SCORED)
    tasks, allowed = rule(project, task_id)
    eligible = np.ones(len(media), dtype=bool)
    states = {task: pool.states(task) for task in tasks}
    for state in states.values():
        eligible &= np.isin(state, allowed)
    chance, (taken, until) = pool.chance(), pool.taken(now)
    how = how_of(project, asked[0].task_id) if asked else How()
    hidden = pool.hidden()
    turn, typical = np.zeros(len(media)), dict[int, tuple[int, float | None]]()
    if how.diversify and (tier == UNSCORED).any():
        task, told_there = next(iter(of_task.items()))
        candidates = (tier == UNSCORED) & ~hidden  # also in no other task
        first, typical = typical_of(pool, task, told_there, chance, ~eligible | taken, candidates, known)
        turn[:] = len(first)
        turn[first] = np.arange(len(first))
    every = np.lexsort((chance, turn, score, tier))
    every = every[eligible[every]]
    free = ~taken[every]
    best, given = every[free], every[~free]
    due = [each.due for each in of_task.values() if each.due is not None]
    if (until[eligible] < FOREVER).any():
        due.append(int(until[eligible].min()))
    ends = {each: int(np.searchsorted(tier[best], each, side="right")) for each in (ACTIVE, EARLIER, UNSCORED)}
    labels, had = dict[int, Labelled](), Counter[int]()
    if how.quotas is not None:
        lead = next(iter(of_task.values()))
        had = had_of(lead, taken | ~eligible)
        for each, begin in ((ACTIVE, 0), (EARLIER, ends[ACTIVE])):
            of_tier = best[begin : ends[each]]
            labels[each] = labelled(lead.chosen["label"][of_tier], begin, hidden[of_tier])
    return Order(
        media,
        best,
        suggested=int((until[given] == FOREVER).sum()),
        tier=tier,
        score=score,
        of_task=of_task,
        states=states,
        open=eligible,
        held=taken,
        hidden=hidden,
        due=min(due, default=None),
        ends=ends,
        how=how,
        typical=typical,
        given=given,
        before=np.cumsum(free, dtype=np.intp)[~free],
        labels=labels,
        had=had,
    )


def typical_of(
    pool: Pool,
    task_id: str,
    told: Scores,
    chance: Numbers,
    covered: Mask,
    candidates: Mask,
    known: Known,
) -> tuple[Places, dict[int, tuple[int, float | None]]]:
    """The media that no model has scored, of which features are known, the most typical first; and of what they are.

    covered: whether a medium is annotated, or somebody has it. candidates: whether it may be among them if not.
    known: clusters that were made before.
    """
    there = (told.tier == UNSCORED) & (told.chosen["model"] != 0)
    models, times = np.unique(told.chosen["model"][there], return_counts=True)
    if not len(models):
        return np.empty(0, np.intp), {}
    sample = sample_of(there & (told.chosen["model"] == models[times.argmax()]), chance)
    sketches = sketches_of(pool.score_rows(task_id, pool.media()[sample]), pairs(told.chosen[sample]))
    sample, sketches = sample[sketches.there], sketches[sketches.there]
    name = blake2b(pool.media()[sample].tobytes() + sketches.values.tobytes() + sketches.scale.tobytes()).digest()
    for gone in known.keys() - {task.task_id for task in pool.project.tasks}:
        del known[gone]
    if task_id not in known or known[task_id][0] != name:
        known[task_id] = name, levels(sketches)
    found = typical(known[task_id][1], covered[sample], candidates[sample])
    clusters = zip(sample[found.order].tolist(), found.size.tolist(), found.distance.tolist(), strict=True)
    return sample[found.order], {place: (size, away if size else None) for place, size, away in clusters}


def labelled(labels: Numbers, begin: int, hidden: Mask) -> Labelled:
    """The best of a tier by their labels. begin: where the first of them stands. hidden: from nobody in particular."""
    return Labelled({int(labels[each[0]]): begin + each for each in parts(labels)}, counts(labels[~hidden]))


def had_of(told: Scores, gone: Mask) -> Counter[int]:
    """How many media are gone of each label: the one that a person gave them, else the predicted one."""
    predicted = np.where(told.tier[gone] < UNSCORED, told.chosen["label"][gone], 0)
    known = np.where(told.truth[gone] != 0, told.truth[gone], predicted)
    return counts(known[known != 0])


def counts(labels: Numbers) -> Counter[int]:
    """How often each label is there."""
    of, numbers = np.unique(labels, return_counts=True)
    return Counter(dict(zip(of.tolist(), numbers.tolist(), strict=True)))
