"""How a set is put together from an order: by score, spread over the features, by quotas of labels, and by lot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from msgspec import structs

from streams.events import Chosen, ProjectUpdated, TaskLearning
from tables.arrays import Floats, Numbers, Places
from tables.heads import AMONG, OFTEN, Quotas, explored, head
from tables.rows import number_of
from tables.sketches import Sketches


@dataclass(frozen=True)
class How:
    """What a task wants of its sets; a project's are made as its first task that can be trained has it.

    diversify: whether they are spread over the features. quotas: the shares of labels, by their hashes.
    explore: the share of a set that is drawn by lot.
    """

    diversify: bool = False
    quotas: Quotas | None = None
    explore: float = 0.0

    def candidates(self, count: int, there: int) -> int:
        """Of how many of the best so many are chosen, of all that are there; of one label they may be all."""
        among = 1 if self.quotas else AMONG
        return max(2 * count, min(OFTEN * count, there // among)) if self.diversify else count


BY_SCORE = Chosen(by="score")


class Choice(NamedTuple):
    """A medium of a set, by its place in the order, counted from the best, and why it was chosen."""

    place: int
    why: Chosen


def how_of(project: ProjectUpdated, task_id: str) -> How:
    """What a task wants."""
    wanted = project.active_learning.tasks.get(task_id, TaskLearning())
    preset = wanted.preset or project.active_learning.preset
    diversify = preset == "balanced" if wanted.diversify is None else wanted.diversify
    return How(diversify, quotas_of(wanted.quotas), wanted.explore)


def quotas_of(told: Quotas | Mapping[str, float] | None) -> Quotas | None:
    """The same with labels as hashes."""
    if told is None or isinstance(told, str):
        return told
    return {number_of(str(label)): share for label, share in told.items()}


def by_score(places: Places) -> list[Choice]:
    """The media at some places, as they are."""
    return [Choice(place, BY_SCORE) for place in places.tolist()]


@dataclass(frozen=True)
class Group:
    """Candidates of which a set is to have some.

    places: in the order, best first. count: how many to choose. utility: of each, or what stands for it.
    labels: of each, and quota, how many of each label; without them labels do not matter.
    sketches: of each; fixed: of media that somebody has, and that count as chosen. None: features do not matter.
    """

    places: Places
    count: int
    utility: Floats
    labels: Numbers | None = None
    quota: Mapping[int, int] | None = None
    sketches: Callable[[], Sketches] | None = None
    fixed: Callable[[], Sketches] | None = None


def chosen(groups: Sequence[Group]) -> list[Choice]:
    """What is chosen of groups."""
    found: list[Choice] = []
    for group in groups:
        if group.quota is None and (group.sketches is None or group.count >= len(group.places)):
            found += by_score(group.places[: group.count])
            continue
        sketches = Sketches.none(len(group.places)) if group.sketches is None else group.sketches()
        fixed = Sketches.none(0) if group.fixed is None else group.fixed()
        of = head(sketches, group.utility, group.count, fixed, group.labels, group.quota)
        featureless = ~sketches.there[of.places] & (group.sketches is not None)
        told = zip(group.places[of.places], of.size, of.distance, featureless, strict=True)
        for place, size, distance, without in told:
            if size:
                why = Chosen(by="diversity", cluster_size=int(size), distance=float(distance))
            else:
                why = Chosen(by="score", without_features=bool(without))
            found.append(Choice(int(place), why))
    return found


def with_lots(
    found: list[Choice], places: Places, chance: Numbers, share: float, count: int, seed: int
) -> list[Choice]:
    """A set of which a share is drawn by lot instead.

    found: the best `count` less that share. places: of all media that may be drawn, in order, and chance, a hash each.
    seed: another for each set.
    """
    best = np.searchsorted(places, np.array([each.place for each in found], np.intp))
    drawn = explored(best, chance, share, count, seed)
    probability = drawn.probability.tolist()
    kept = [
        Choice(each.place, structs.replace(each.why, probability=p))
        for each, p in zip(found[: drawn.ranked], probability, strict=False)
    ]
    lots = zip(places[drawn.drawn].tolist(), probability[drawn.ranked :], strict=True)
    return [*kept, *(Choice(place, Chosen(by="lot", probability=p)) for place, p in lots)]
