"""What is known of a project and of each of its media: where it stands in the order, and why."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from streams.errors import UnknownMedium
from streams.media import medium
from streams.times import iso
from tables import overview
from tables.made import Made
from tables.order import rule
from tables.pool import Pool
from tables.ranking import Ranking
from tables.rows import FOREVER, medium_bytes
from web.active_set import ActiveSets, order_told
from web.answers import LabelCount, MediumTold, ProjectTold, TaskTold
from web.items import choice
from web.query import LIMIT


@dataclass(frozen=True)
class Reasons:
    """Answers about the projects whose partitions are here; nothing is marked."""

    sets: ActiveSets

    async def medium(self, project: str, text: str, task_id: str | None) -> MediumTold:
        """A medium: whether it may be had, its place among those that are shown now, and why.

        Raises:
            UnknownMedium: there is none of that name, or it can be no medium's.
            NotReady, UnknownProject, UnknownTask.
        """
        try:
            named = medium(text)
        except ValueError as why:
            raise UnknownMedium(f"there is no such medium: it {why}") from why
        partition = self.sets.home(project)
        ranking = await partition.ranking(project)
        now = self.sets.now()
        chosen, made = await ranking.best(task_id, LIMIT, now)
        partition.check()
        key = medium_bytes(named)
        pool = ranking.pool
        place = ranking.place(made, key)
        if place is None:
            raise UnknownMedium(f"project {project!r} has no medium {text[:300]!r}")
        until = pool.until(key, now)
        return {
            "medium": msgspec.to_builtins(named),
            "state": state(ranking, made, key, now),
            "held_until": iso(until) if until is not None and until != FOREVER else None,
            "rank": ranking.rank(made, key, now),
            "score": place.score,
            "tier": place.tier,
            "reasons": place.reasons,
            "choice": next((choice(each) for each in chosen if each.medium == key), None),
            "annotation_state_per_task": [
                {"task_id": task.task_id, "state": pool.state(task.task_id, key)} for task in pool.project.tasks
            ],
            "as_of": ranking.as_of(made),
            "lag": partition.lag(),
            "order": order_told(ranking, made, now),
        }

    async def project(self, project: str) -> ProjectTold:
        """A project: how many of its media are in which state and tier, how scores and labels lie, how fresh it is.

        Raises:
            NotReady, UnknownProject.
        """
        partition = self.sets.home(project)
        ranking = await partition.ranking(project)
        now = self.sets.now()
        made = await ranking.made(None, now)
        pool, order, told = ranking.pool, made.order, ranking.pool.project
        counts = await asyncio.to_thread(overview.media, order, told)
        # A task that the order does not know came after it.
        trained = [task for task in told.tasks if task.task_id in order.of_task]
        known = {task.task_id: await asyncio.to_thread(overview.of_task, order, told, task.task_id) for task in trained}
        partition.check()
        tasks: list[TaskTold] = []
        for task in told.tasks:
            about: TaskTold = {
                "task_id": task.task_id,
                "title": task.title,
                "task_type": task.task_type,
                "trainable": task.trainable,
            }
            if task.task_id in known:
                of = known[task.task_id]
                batches = pool.batches(task.task_id).values()
                complete = sum(each.complete for each in batches)
                about = {
                    **about,
                    "states": of.states,
                    "tiers": of.tiers,
                    "coverage": of.coverage,
                    "scores": of.scores,
                    "labels": {"pool": labels(of.pool, pool), "annotated": labels(of.annotated, pool)},
                    "scored_at": iso(of.scored_at) if of.scored_at else None,
                    "active_model": pool.active_model(task.task_id),
                    "batches": {"complete": complete, "coming": len(batches) - complete},
                }
            tasks.append(about)
        return {
            "project_id": project,
            "workspace_id": told.workspace_id,
            "name": told.name,
            "dataset_storage_id": told.dataset_storage_id,
            "media": counts,
            "tasks": tasks,
            "as_of": ranking.as_of(made),
            "lag": partition.lag(),
            "order": order_told(ranking, made, now),
        }


def state(
    ranking: Ranking, made: Made, medium: bytes, now: int
) -> Literal["available", "held", "skipped", "annotated", "begun"]:
    """Whether a medium may be had, or why it may not."""
    pool = ranking.pool
    if not ranking.eligible(made)(medium):
        tasks, _ = rule(pool.project, made.task_id)
        return "annotated" if all(pool.state(task, medium) == "annotated" for task in tasks) else "begun"
    if not pool.free(medium, now):
        return "held"
    return "skipped" if pool.skipped(medium, None) else "available"


def labels(counts: Iterable[tuple[int, int]], pool: Pool) -> list[LabelCount]:
    """Counts of labels by their names."""
    return [{"label": pool.name(label) if label else None, "media": count} for label, count in counts]
