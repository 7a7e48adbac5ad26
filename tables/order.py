"""The order of a task, or of a project: its media, best first, as they were when it was made, and what it is of."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.events import ProjectUpdated, Reduce
from tables.arrays import Floats, Mask, Numbers, Places
from tables.chance import by_value, lots
from tables.choosing import How, how_of
from tables.heads import Quotas, apportioned, shares
from tables.pool import Media, Pool
from tables.rows import FOREVER, MEDIUM_BYTES, STATES
from tables.scores import ACTIVE, EARLIER, NEVER_SCORED, UNSCORED, Lots, Scores, parts, reduced, scores
from tables.shelves import place_in
from tables.slots import NOTHING_FOUND, sketches_of
from tables.survey import Survey
from tables.told import NONE
from tables.typical import Level, levels, sample_of, typical

Tier = Literal["active_model", "earlier_model", "not_scored"]
TIERS: dict[int, Tier] = {ACTIVE: "active_model", EARLIER: "earlier_model", UNSCORED: "not_scored"}


class Clusters(NamedTuple):
    """The clusters of a sample. name: what it is of. there: which of the sample have sketches, and so are in them."""

    name: bytes
    there: Mask
    levels: list[Level]


Known = dict[str, Clusters]  # of each task


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
        for label, gone in zip(self.lead.chosen.labels(other).tolist(), hidden[other].tolist(), strict=True):
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
    return place_in(media, medium)


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

    pool: its rows are put in order. known: clusters that were made before, for the next time.

    Raises:
        UnknownProject, UnknownTask, BadQuery: as `Pool.task`.
        NotReady: the partition went.
    """
    pool.check_task(task_id)
    project, survey = pool.project, Survey(pool)
    media, lot = survey.media, lots(survey.chance())
    asked = [task for task in project.tasks if task.trainable and task_id in (None, task.task_id)]
    of_task = {task.task_id: scores(survey, task, project.active_learning, now, patience_ms, lot) for task in asked}
    tier, score = of_project([*of_task.values()], len(media), project.active_learning.inter_task_reduce)
    tasks, allowed = rule(project, task_id)
    may, eligible = np.isin(np.arange(len(STATES)), allowed), np.ones(len(media), dtype=bool)
    states = {task: survey.states(task) for task in tasks}
    for state in states.values():
        eligible &= may[state]
    places, until = survey.taken(now)
    taken = np.zeros(len(media), dtype=bool)
    taken[places] = True
    until = until[eligible[places]]
    how = how_of(project, asked[0].task_id) if asked else How()
    hidden = survey.hidden()
    first, typical = np.empty(0, np.intp), dict[int, tuple[int, float | None]]()
    if how.diversify and (tier == UNSCORED).any():
        task, told_there = next(iter(of_task.items()))
        candidates = (tier == UNSCORED) & ~hidden  # also in no other task
        first, typical = typical_of(survey, task, told_there, lot, ~eligible | taken, candidates, known)
    every = np.concatenate([*best_first(tier, score, lot, eligible, first)])
    free = ~taken[every]
    best, given = every[free], every[~free]
    due = [each.due for each in of_task.values() if each.due is not None]
    if (until < FOREVER).any():
        due.append(int(until.min()))
    ends = dict(zip(TIERS, np.cumsum(np.bincount(tier[best], minlength=UNSCORED + 1))[1:].tolist(), strict=True))
    labels, had = dict[int, Labelled](), Counter[int]()
    if how.quotas is not None:
        lead = next(iter(of_task.values()))
        had = had_of(lead, taken | ~eligible)
        for each, begin in ((ACTIVE, 0), (EARLIER, ends[ACTIVE])):
            of_tier = best[begin : ends[each]]
            labels[each] = labelled(lead.chosen.labels(of_tier), begin, hidden[of_tier])
    return Order(
        media,
        best,
        suggested=int((until == FOREVER).sum()),
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


def of_project(told: list[Scores], media: int, how: Reduce) -> tuple[NDArray[np.uint8], Floats]:
    """The tier and the score of each medium, of what tasks say."""
    if len(told) == 1:  # reduced to itself, of which a mean of one is no other number
        return told[0].tier, told[0].score
    tiers = np.array([each.tier for each in told], dtype=np.uint8).reshape(len(told), media)
    scored = tiers < UNSCORED
    some = scored.any(axis=0)
    scores = np.array([each.score for each in told]).reshape(len(told), media)
    score = np.where(some, reduced(np.where(scored, scores, np.nan), how), NEVER_SCORED)
    return np.where(some, np.where(scored, tiers, 0).max(axis=0, initial=0), UNSCORED).astype(np.uint8), score


def best_first(tier: NDArray[np.uint8], score: Floats, lot: Lots, which: Mask, first: Places) -> Iterator[Places]:
    """Some media in their order, tier by tier. first: of those without a score, those that come before the others."""
    for scored in (ACTIVE, EARLIER):
        places = np.flatnonzero(which & (tier == scored))
        yield places[by_value(score[places], lot[places])]
    yield first[which[first]]
    rest = which & (tier == UNSCORED)
    rest[first] = False
    places = np.flatnonzero(rest)
    yield places[np.argsort(lot[places])]


def typical_of(
    survey: Survey,
    task_id: str,
    told: Scores,
    lot: Lots,
    covered: Mask,
    candidates: Mask,
    known: Known,
) -> tuple[Places, dict[int, tuple[int, float | None]]]:
    """The media that no model has scored, of which features are known, the most typical first; and of what they are.

    covered: whether a medium is annotated, or somebody has it. candidates: whether it may be among them if not.
    known: clusters that were made before, of the same slots.
    """
    chosen = told.chosen
    there = np.flatnonzero((told.tier == UNSCORED) & (chosen.batch != NONE))
    models = chosen.models(there)
    each, times = np.unique(models, return_counts=True)
    if not len(each):
        return np.empty(0, np.intp), {}
    sample = sample_of(there[models == each[times.argmax()]], lot)
    pairs = chosen.pairs(sample)
    name = blake2b(survey.media[sample].tobytes() + pairs.tobytes() + chosen.at[sample].tobytes()).digest()
    for gone in known.keys() - {task.task_id for task in survey.pool.project.tasks}:
        del known[gone]
    if task_id not in known or known[task_id].name != name:
        sketches = sketches_of(survey.pool.score_rows(task_id, survey.media[sample]), pairs)
        known[task_id] = Clusters(name, sketches.there, levels(sketches[sketches.there]))
    sample = sample[known[task_id].there]
    found = typical(known[task_id].levels, covered[sample], candidates[sample])
    clusters = zip(sample[found.order].tolist(), found.size.tolist(), found.distance.tolist(), strict=True)
    return sample[found.order], {place: (size, away if size else None) for place, size, away in clusters}


def labelled(labels: Numbers, begin: int, hidden: Mask) -> Labelled:
    """The best of a tier by their labels. begin: where the first of them stands. hidden: from nobody in particular."""
    return Labelled({int(labels[each[0]]): begin + each for each in parts(labels)}, counts(labels[~hidden]))


def had_of(told: Scores, gone: Mask) -> Counter[int]:
    """How many media are gone of each label: the one that a person gave them, else the predicted one."""
    predicted = np.where(told.tier[gone] < UNSCORED, told.chosen.labels(gone), 0)
    known = np.where(told.truth[gone] != 0, told.truth[gone], predicted)
    return counts(known[known != 0])


def counts(labels: Numbers) -> Counter[int]:
    """How often each label is there."""
    of, numbers = np.unique(labels, return_counts=True)
    return Counter(dict(zip(of.tolist(), numbers.tolist(), strict=True)))
