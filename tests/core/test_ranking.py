import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import UnknownTask
from streams.media import Image
from tables.choosing import Choice, Group, chosen
from tables.heads import AMONG
from tables.made import Place
from tables.order import Order, medium_at, order_of
from tables.pool import Pool
from tables.ranking import Ranking
from tables.rows import SKIP, SKIPS, Kind, hashed, medium_bytes, pack_int, prefix_of
from tables.scores import NEVER_SCORED, ranked
from tables.sketches import Sketches
from tables.survey import Survey
from tables.typical import Level, levels
from tests.core.table import NOW, Table, chunk, picks, top, top_of

PATIENCE_MS = 600_000


def ranking_of(table: Table, project: str = "p") -> Ranking:
    ranking = Ranking(project, table, PATIENCE_MS)
    ranking.update([*table.scan(prefix_of(project))])
    return ranking


async def told(*images: str, tasks: tuple[dict[str, Any], ...] = ({"task_id": "t"},), **more: Any) -> Table:
    """A project with images."""
    table = Table()
    await table.hears("project_updates", dataset_storage_id="s", tasks=list(tasks), **more)
    media = [{"media_type": "image", "media_id": each} for each in images]
    await table.hears("media_uploads", dataset_storage_id="s", media=media)
    return table


def margins(*wanted: float) -> list[list[float]]:
    return [[1 - each / 2, each / 2] for each in wanted]


def by_label(places: list[Place]) -> list[tuple[str | None, float]]:
    return [(place.reasons[0]["label"], round(place.score, 3)) for place in places]


def test_ranks_are_divided_by_the_size_of_the_largest_stratum() -> None:
    utility = np.array([5.0, 1.0, 3.0, 2.0, 9.0])
    strata = np.array([1, 1, 1, 1, 2])

    assert ranked(utility, strata, np.arange(5, dtype=np.uint32)).tolist() == [0.0, 0.75, 0.25, 0.5, 0.0]
    assert ranked(utility[:0], strata[:0], strata[:0]).tolist() == []


def test_equal_utilities_are_ranked_by_chance() -> None:
    lot = np.array([3, 1, 2], dtype=np.uint32)

    assert ranked(np.ones(3), np.zeros(3, np.intp), lot).tolist() == pytest.approx([2 / 3, 0, 1 / 3])


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ({"task_type": "classification"}, [("a", 0.0), ("b", 0.0), ("a", 0.333), ("a", 0.667)]),
        ({"task_type": "classification", "multi_label": True}, [("a", 0.0), ("a", 0.25), ("a", 0.5), ("b", 0.75)]),
        ({"task_type": "detection"}, [("a", 0.0), ("a", 0.25), ("a", 0.5), ("b", 0.75)]),
    ],
)
async def test_labels_are_ranked_by_themselves_where_each_medium_has_one(
    task: dict[str, Any], wanted: list[tuple[str, float]]
) -> None:
    table = await told("m1", "m2", "m3", "m4", tasks=({"task_id": "t", **task},))
    scores = {"labels": ["a", "a", "a", "b"], "probabilities": margins(0.9, 0.8, 0.7, 0.1)}
    await table.hears("inference_artifacts", **chunk("model", "m1", "m2", "m3", "m4", **scores))

    assert sorted(by_label(await top(ranking_of(table))), key=lambda each: (each[1], each[0])) == wanted


async def test_media_in_which_the_model_found_nothing_stand_in_the_middle() -> None:
    table = await told("m1", "m2", "m3", "blind")
    blind = [{"media_type": "image", "media_id": "blind"}]
    scores = {"probabilities": margins(0.9, 0.5, 0.1), "labels": ["a", "b", "c"], "no_prediction": blind}
    await table.hears("inference_artifacts", **chunk("model", "m1", "m2", "m3", **scores))

    utilities = [place.reasons[0]["extractors"]["margin"]["utility"] for place in await top(ranking_of(table))]

    assert utilities == pytest.approx([0.9, 0.5, 0.5, 0.1])


async def test_where_only_features_came_the_reconstruction_error_counts() -> None:
    table = await told("m1", "m2")
    seen = {"subset": "seen", "features": [[-5.0, 0.0], [0.0, 0.1], [5.0, 0.0]], "last": False, "probabilities": None}
    await table.hears("inference_artifacts", **chunk("model", "s1", "s2", "s3", **seen))
    unseen = {"chunk": 1, "features": [[1.0, 1.0], [1.0, 4.0]], "probabilities": None}
    await table.hears("inference_artifacts", **chunk("model", "m1", "m2", **unseen))

    [first, second] = await top(ranking_of(table))

    [one, other] = [each.reasons[0]["extractors"] for each in (first, second)]
    assert [*one] == [*other] == ["fre_class_agnostic"]
    assert one["fre_class_agnostic"]["utility"] > other["fre_class_agnostic"]["utility"]


async def test_a_projects_score_is_the_mean_of_its_tasks_and_its_tier_the_worst() -> None:
    table = await told("m1", "m2", "m3", tasks=({"task_id": "t"}, {"task_id": "t2"}))
    await table.hears("model_activations", task_id="t", model_id="model")
    scores = {"probabilities": margins(0.9, 0.1)}
    await table.hears("inference_artifacts", **chunk("model", "m1", "m2", **scores))
    await table.hears("inference_artifacts", **chunk("model", "m2", "m1", task_id="t2", **scores))

    first, second, third = await top(ranking_of(table), None)

    assert [first.score, second.score, third.score] == [0.25, 0.25, NEVER_SCORED]
    assert [first.tier, second.tier, third.tier] == ["earlier_model", "earlier_model", "not_scored"]
    assert [each["tier"] for each in first.reasons] == ["active_model", "earlier_model"]


async def test_scores_of_media_that_nobody_uploaded_wait_and_count_for_nothing() -> None:
    table = await told("m1")
    await table.hears("inference_artifacts", **chunk("model", "m1", "m2", probabilities=margins(0.1, 0.9)))

    [place] = await top(ranking_of(table))

    assert place.score == 0.0


async def test_what_was_annotated_stays_in_the_pool_of_the_rank() -> None:
    table = await told("m1", "m2")
    await table.hears("inference_artifacts", **chunk("model", "m1", "m2", probabilities=margins(0.9, 0.1)))
    await table.hears("annotation_updates", media_id="m1", states={"t": "annotated"})

    [place] = await top(ranking_of(table))

    assert (place.rank, place.score) == (1, 0.5)


async def test_a_lease_that_has_run_out_is_free_again_without_an_event() -> None:
    table = await told("m1")
    lease = {"medium": {"media_type": "image", "media_id": "m1"}, "rank": 1, "score": 0.0}
    about: dict[str, Any] = {"change": "granted", "request_id": "r", "media": [lease], "expires_at": NOW + 10}
    await table.hears("active_set_events", **about)
    ranking = ranking_of(table)

    assert [len(await top(ranking, None, now=now)) for now in (NOW, NOW + 9, NOW + 10)] == [0, 0, 1]


async def test_rows_may_come_in_any_order_and_more_than_once() -> None:
    table = await told(*(f"m{n}" for n in range(20)))
    images = [f"m{n}" for n in range(15)]
    scores = {"probabilities": margins(*np.linspace(0, 1, 15)), "labels": ["a", "b", "c"] * 5}
    await table.hears("inference_artifacts", **chunk("model", *images, **scores))
    await table.hears("annotation_updates", media_id="m3", states={"t": "annotated"})
    rows = [*table.scan(prefix_of("p"))] * 2
    random.Random(1).shuffle(rows)
    shuffled = Ranking("p", table, PATIENCE_MS)
    for row in rows:
        shuffled.update([row])

    assert await top(shuffled, None) == await top(ranking_of(table), None)
    assert len(await top(shuffled, None)) == 19


async def test_what_has_no_score_comes_in_an_order_of_its_own_in_each_project() -> None:
    images = [f"m{n}" for n in range(50)]
    orders = []
    for project in ("p", "q"):
        table = Table()
        await table.hears("project_updates", project_id=project, dataset_storage_id="s")
        media = [{"media_type": "image", "media_id": each} for each in images]
        await table.hears("media_uploads", project_id=project, dataset_storage_id="s", media=media)
        orders.append([place.medium for place in await top(ranking_of(table, project), None)])

    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


async def test_a_large_video_costs_no_row_for_each_of_its_frames() -> None:
    table = await told()
    video = {"media_type": "video", "media_id": "v", "frame_count": 900_000, "frame_stride": 30}
    await table.hears("media_uploads", dataset_storage_id="s", media=[video])

    assert len(table) == 2
    assert len(Survey(ranking_of(table).pool).media) == 30_000


class Gate(threading.Event):
    """What a thread waits for; and whether it does."""

    begun = False

    async def reached(self) -> None:
        while not self.begun:
            await asyncio.sleep(0)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """An order is made when this is set, from the rows as they were when it was begun."""
    go_on = Gate()

    def late(*arguments: Any) -> Order:
        go_on.begun = True
        assert go_on.wait(30)
        return order_of(*arguments)

    monkeypatch.setattr("tables.ranking.order_of", late)
    yield go_on
    go_on.set()


async def test_what_is_annotated_while_an_order_is_made_is_not_in_the_answer(slow: Gate) -> None:
    table = await told("m1", "m2", "m3")
    ranking = ranking_of(table)
    making = asyncio.ensure_future(ranking.made("t", NOW))
    await slow.reached()

    await table.hears("annotation_updates", media_id="m1", states={"t": "annotated"})
    gone: dict[str, Any] = {"dataset_storage_id": "s", "media_type": "image", "media_id": "m2"}
    await table.hears("media_deletions", timestamp=NOW + 1, **gone)
    ranking.update([*table.scan(prefix_of("p"))])
    slow.set()
    made = await making

    assert len(made.order.best) == 3
    assert [each.medium for each in top_of(ranking, made, 9) or []] == [medium_bytes(Image("m3"))]


async def test_who_asks_later_is_answered_from_an_order_that_was_begun_later(slow: Gate) -> None:
    table, applied = await told("m1"), {"media_uploads": 0}
    ranking = Ranking("p", table, PATIENCE_MS, lambda: dict(applied))
    ranking.update([*table.scan(prefix_of("p"))])
    first = asyncio.ensure_future(ranking.made("t", NOW))
    await slow.reached()

    await table.hears("media_uploads", dataset_storage_id="s", media=[{"media_type": "image", "media_id": "m2"}])
    ranking.update([*table.scan(prefix_of("p"))])
    applied["media_uploads"] = 1
    second = asyncio.ensure_future(ranking.made("t", NOW))
    slow.set()

    one, two = await first, await second
    assert [len(top_of(ranking, each, 9) or []) for each in (one, two)] == [1, 2]
    assert [ranking.as_of(each)["media_uploads"] for each in (one, two)] == [0, 1]


async def test_an_order_that_nothing_has_changed_is_as_of_now(slow: Gate) -> None:
    slow.set()
    table, applied = await told("m1"), {"annotation_updates": 0}
    ranking = Ranking("p", table, PATIENCE_MS, lambda: dict(applied))
    ranking.update([*table.scan(prefix_of("p"))])
    made = await ranking.made("t", NOW)

    applied["annotation_updates"] = 7

    assert await ranking.made("t", NOW) is made
    assert ranking.as_of(made) == {"annotation_updates": 7}


async def test_who_asked_first_may_go_while_others_wait_for_the_same_order(slow: Gate) -> None:
    ranking = ranking_of(await told("m1"))
    first, second = (asyncio.ensure_future(ranking.made("t", NOW)) for _ in range(2))
    await slow.reached()

    first.cancel()
    slow.set()

    assert len((await second).order.best) == 1


class Clock:
    """A clock that stands still until it is moved on."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    thread_time = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """All orders are of many media, and an order takes a second to be made while the clock is moved on by it."""
    told = Clock()
    monkeypatch.setattr("tables.made.SMALL", 0)
    monkeypatch.setattr("tables.made.time", told)
    monkeypatch.setattr("tables.ranking.time", told)
    return told


async def made_in_a_second(ranking: Ranking, slow: Gate, clock: Clock) -> None:
    making = asyncio.ensure_future(ranking.made("t", NOW))
    await slow.reached()
    clock.now_s += 1
    slow.set()
    await making
    slow.clear()
    slow.begun = False


async def more(ranking: Ranking, table: Table, image: str) -> None:
    await table.hears("media_uploads", dataset_storage_id="s", media=[{"media_type": "image", "media_id": image}])
    ranking.update([*table.scan(prefix_of("p", Kind.UPLOAD))])


async def test_that_nothing_is_left_only_an_order_tells_that_knows_all(slow: Gate, clock: Clock) -> None:
    table = await told("m1")
    await table.hears("annotation_updates", media_type="image", media_id="m1", states={"t": "annotated"})
    ranking = ranking_of(table)
    await made_in_a_second(ranking, slow, clock)

    await more(ranking, table, "m2")
    asking = asyncio.create_task(top(ranking))
    await slow.reached()
    slow.set()

    assert len(await asking) == 1


async def test_orders_of_tasks_that_are_gone_are_not_kept() -> None:
    table = await told("m1")
    ranking = ranking_of(table)
    for number in range(3):
        task = f"t{number}"
        await table.hears(
            "project_updates", timestamp=NOW + number + 1, dataset_storage_id="s", tasks=[{"task_id": task}]
        )
        ranking.update([*table.scan(prefix_of("p", Kind.PROJECT))])
        await ranking.best(task, 1, NOW)

    assert [*ranking._made] == ["t2"]


async def test_what_is_skipped_while_a_set_is_put_together_is_answered_to_nobody_else(
    slow: Gate, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [f"a{number}" for number in range(30)]
    table = await told(*images, **learns(diversify=True))
    await table.hears("inference_artifacts", **grouped(images))
    ranking = ranking_of(table)
    await made_in_a_second(ranking, slow, clock)
    made = await ranking.made("t", NOW)
    first, gate, put = medium_at(made.order.media, int(made.order.best[0])), Gate(), Ranking._set

    def late(*given: Any) -> list[Choice]:
        gate.begun = True
        assert gate.wait(30)
        return put(*given)

    monkeypatch.setattr(Ranking, "_set", late)
    choosing = asyncio.create_task(ranking.best("t", 3, NOW, "u"))
    await gate.reached()
    skipped = np.array((NOW, SKIPS.index("others")), SKIP).tobytes()
    ranking.update([(prefix_of("p", Kind.SKIP) + first + hashed("u"), skipped)])
    gate.set()
    await choosing

    assert ranking.pool.skipped(first, None)
    assert first not in [place.medium for place in (await ranking.best("t", 10, NOW))[0]]


async def test_an_order_of_many_media_is_answered_from_while_the_next_one_is_made(slow: Gate, clock: Clock) -> None:
    table, applied = await told("m1"), {"media_uploads": 0}
    ranking = Ranking("p", table, PATIENCE_MS, lambda: dict(applied))
    ranking.update([*table.scan(prefix_of("p"))])
    await made_in_a_second(ranking, slow, clock)
    clock.now_s += 60

    await more(ranking, table, "m2")
    applied["media_uploads"] = 1
    meanwhile = [await top(ranking), await top(ranking)]
    old = await ranking.made("t", NOW)
    await slow.reached()
    slow.set()
    while await ranking.made("t", NOW) is old:
        await asyncio.sleep(0)

    assert [len(each) for each in (*meanwhile, await top(ranking))] == [1, 1, 2]
    assert [ranking.as_of(each)["media_uploads"] for each in (old, await ranking.made("t", NOW))] == [0, 1]


async def test_between_two_orders_of_many_media_passes_what_ten_of_them_take(slow: Gate, clock: Clock) -> None:
    ranking = ranking_of(table := await told("m1"))
    await made_in_a_second(ranking, slow, clock)

    clock.now_s += 8.9
    await more(ranking, table, "m2")
    first = await ranking.made("t", NOW)
    await asyncio.sleep(0)
    busy = [ranking._busy]
    clock.now_s += 0.2
    second = await ranking.made("t", NOW)
    busy.append(ranking._busy)

    assert second is first
    assert busy == [False, True]


async def test_an_order_that_has_been_old_for_longer_than_that_is_not_answered_from(slow: Gate, clock: Clock) -> None:
    ranking = ranking_of(table := await told("m1"))
    await made_in_a_second(ranking, slow, clock)
    await more(ranking, table, "m2")
    slow.set()

    clock.now_s += 20

    assert len(await top(ranking)) == 2


async def test_nor_is_one_of_before_its_project_was_changed(slow: Gate, clock: Clock) -> None:
    ranking = ranking_of(table := await told("m1"))
    await made_in_a_second(ranking, slow, clock)
    slow.set()

    await table.hears("project_updates", dataset_storage_id="s", tasks=[{"task_id": "t"}], timestamp=NOW + 1)
    ranking.update([*table.scan(prefix_of("p", Kind.PROJECT))])
    first = await ranking.made("t", NOW)

    assert ranking.current(first)


async def test_what_an_old_order_has_left_is_answered_and_when_nothing_is_the_next_one_is_waited_for(
    slow: Gate, clock: Clock
) -> None:
    ranking = ranking_of(table := await told("m1", "m2"))
    await made_in_a_second(ranking, slow, clock)
    slow.set()
    left = []
    for image in ("m1", "m2"):
        await more(ranking, table, f"new {image}")
        await table.hears("annotation_updates", media_id=image, states={"t": "annotated"})
        ranking.update([*table.scan(prefix_of("p", Kind.STATE))])
        left.append({each.medium for each in await top(ranking)})

    assert left[0] == {medium_bytes(Image("m2"))}
    assert left[1] == {medium_bytes(Image("new m1")), medium_bytes(Image("new m2"))}


async def test_rows_that_change_much_are_put_in_order_though_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tables.pool.FEW", 10)
    ranking = ranking_of(table := await told("m1"))

    await more(ranking, table, "m2")
    while ranking._busy:
        await asyncio.sleep(0)

    assert ranking.pool.waiting == 0
    assert len(await top(ranking)) == 2


async def test_a_frame_that_only_a_score_of_before_the_videos_deletion_names_is_not_there() -> None:
    table = await told()
    video = {"media_type": "video", "media_id": "v", "frame_count": 100, "frame_stride": 50}
    await table.hears("media_uploads", dataset_storage_id="s", media=[video])
    frame = {"media": [{"media_type": "video_frame", "media_id": "v", "frame_index": 7}]}
    await table.hears("inference_artifacts", **{**chunk("model", "x"), **frame})
    assert len(Survey(ranking_of(table).pool).media) == 3

    gone: dict[str, Any] = {"dataset_storage_id": "s", "media_type": "video", "media_id": "v"}
    await table.hears("media_deletions", timestamp=NOW + 1, **gone)
    await table.hears("media_uploads", dataset_storage_id="s", media=[video], timestamp=NOW + 2)

    assert len(Survey(ranking_of(table).pool).media) == 2  # also before that is swept


async def test_a_task_that_goes_while_its_order_is_made_is_told_to_who_asked_and_to_nobody_else(slow: Gate) -> None:
    table = await told("m1", tasks=({"task_id": "t"}, {"task_id": "t2"}))
    ranking = ranking_of(table)
    of_task, of_other = (asyncio.ensure_future(ranking.made(task, NOW)) for task in ("t", "t2"))
    await slow.reached()

    await table.hears("project_updates", dataset_storage_id="s", tasks=[{"task_id": "t2"}])
    ranking.update([*table.scan(prefix_of("p"))])
    slow.set()

    assert len((await of_other).order.best) == 1
    assert len((await of_task).order.best) == 1  # as it was when it was asked for
    with pytest.raises(UnknownTask):
        await ranking.made("t", NOW)


async def test_a_task_that_goes_just_before_its_order_is_made_is_unknown(slow: Gate) -> None:
    slow.set()
    table = await told("m1")
    ranking = ranking_of(table)
    asking = asyncio.ensure_future(ranking.made("t", NOW))
    await asyncio.sleep(0)

    await table.hears("project_updates", dataset_storage_id="s", tasks=[{"task_id": "t2"}])
    ranking.update([*table.scan(prefix_of("p"))])

    with pytest.raises(UnknownTask):
        await asking


async def test_what_an_answer_is_true_of_never_goes_back(slow: Gate) -> None:
    table, applied = await told("m1", tasks=({"task_id": "t"}, {"task_id": "t2"})), {"media_uploads": 20}
    ranking = Ranking("p", table, PATIENCE_MS, lambda: dict(applied))
    ranking.update([*table.scan(prefix_of("p"))])
    slow.set()
    of_task = await ranking.made("t", NOW)
    slow.clear()
    slow.begun = False
    asking = asyncio.ensure_future(ranking.made("t2", NOW))
    await slow.reached()

    applied["media_uploads"] = 30  # of other projects
    answered = ranking.as_of(of_task)
    ranking.update([])  # an event of this one
    applied["media_uploads"] = 31
    slow.set()

    assert answered == ranking.as_of(await asking) == {"media_uploads": 30}


async def test_what_is_left_of_an_order_of_which_many_have_gone_is_found_and_each_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = await told(*(f"m{n}" for n in range(10)))
    ranking = ranking_of(table)
    made = await ranking.made("t", NOW)
    media = [{"media_type": "image", "media_id": f"m{n}"} for n in range(9)]
    await table.hears("media_deletions", dataset_storage_id="s", media=media, timestamp=NOW + 1)
    ranking.update([*table.scan(prefix_of("p"))])

    first = top_of(ranking, made, 9) or []
    monkeypatch.setattr(Pool, "eligible", None)

    assert [each.medium for each in first] == [medium_bytes(Image("m9"))]
    assert top_of(ranking, made, 9) == first


@pytest.mark.parametrize("looked_at", [3, 1200])
async def test_a_rank_told_from_an_old_order_is_the_place_among_those_that_are_left(
    monkeypatch: pytest.MonkeyPatch, looked_at: int
) -> None:
    monkeypatch.setattr("tables.ranking.LOOKED_AT", looked_at)
    named = {medium_bytes(Image(f"m{n}")): f"m{n}" for n in range(9)}
    table = await told(*named.values())
    ranking = ranking_of(table)
    made = await ranking.made("t", NOW)
    media = [each.medium for each in top_of(ranking, made, 9) or []]

    await table.hears("annotation_updates", media_id=named[media[0]], states={"t": "annotated"})
    await table.hears("active_set_events", change="granted", request_id="r", media=picks(named[media[2]]))
    ranking.update([*table.scan(prefix_of("p"))])

    ranks = {each.medium: each.rank for each in top_of(ranking, made, 9) or []}
    assert [ranking.rank(made, each, NOW) for each in media] == [ranks.get(each) for each in media]
    assert [*ranks.values()] == [*range(1, 8)]


async def test_a_medium_that_was_skipped_is_hidden_no_more_when_it_comes_again() -> None:
    table = await told("m1")
    lent: dict[str, Any] = {"request_id": "r", "user_id": "u"}
    await table.hears("active_set_events", change="granted", media=picks("m1"), expires_at=NOW + 9, **lent)
    skipped = [{"medium": picks("m1")[0]["medium"], "uploaded_at": NOW}]
    await table.hears("active_set_events", change="skipped", media=skipped, skip_for="good", **lent)
    ranking = ranking_of(table)
    assert Survey(ranking.pool).hidden().tolist() == [True]

    image: dict[str, Any] = {"dataset_storage_id": "s", "media_type": "image", "media_id": "m1"}
    await table.hears("media_deletions", timestamp=NOW + 1, **image)
    await table.hears("media_uploads", timestamp=NOW + 2, **image)
    ranking.update([row for row in table.scan(prefix_of("p")) if row[0][3] != Kind.SKIP])

    assert Survey(ranking.pool).hidden().tolist() == [False]


whoms = st.sampled_from(SKIPS)
skips_and_deletions = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("m1", "m2")), st.sampled_from(("u1", "u2")), whoms, st.integers(1, 5)),
        st.tuples(st.sampled_from(("m1", "m2", "")), st.integers(1, 5)),
    ),
    max_size=12,
)


@given(told=skips_and_deletions, lent=st.booleans())
def test_what_is_hidden_is_what_was_skipped_and_not_deleted_since(told: list[tuple[Any, ...]], lent: bool) -> None:
    pool, skips, gone = Pool("p", Table()), dict[tuple[str, str], tuple[str, int]](), dict[str, int]()
    for medium, *more in told:
        of_medium = medium_bytes(Image(medium)) if medium else b""
        if len(more) == 1:
            gone[medium] = max(gone.get(medium, -1), *more)
            pool.update([(prefix_of("p", Kind.REMOVAL) + of_medium[:8], pack_int(gone[medium]))])
            continue
        user, whom, at = more
        skips[medium, user] = whom, at
        row = np.array((at, SKIPS.index(whom)), SKIP).tobytes()
        if lent:
            pool.lent()
        pool.update([(prefix_of("p", Kind.SKIP) + of_medium + hashed(user), row)])

    for medium in ("m1", "m2"):
        since = max(gone.get(medium, -1), gone.get("", -1))
        of = {by: whom for (each, by), (whom, at) in skips.items() if each == medium and at > since}
        for user in (None, "u1", "u2", "u3"):
            hidden = any(whom == "good" or whom == ("me" if by == user else "others") for by, whom in of.items())
            assert pool.skipped(medium_bytes(Image(medium)), user) == hidden


async def test_skips_that_were_swept_leave_nothing_behind() -> None:
    pool, medium = Pool("p", Table()), medium_bytes(Image("m1"))
    key = prefix_of("p", Kind.SKIP) + medium + hashed("u")
    for whom in range(len(SKIPS)):
        pool.update([(key, np.array((1, whom), SKIP).tobytes())])

        pool.update([(key, None)])

        assert (pool._skips, pool._own, pool._hidden) == ({}, {}, set())


async def test_what_is_hidden_is_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"m{n}" for n in range(50)]
    ranking = ranking_of(await told(*names))
    for n, name in enumerate(names[1:]):
        user, whom = hashed("ann" if n % 2 else "bob"), SKIPS.index("others" if n % 3 else "good")
        row = np.array((NOW, whom), SKIP).tobytes()
        ranking.update([(prefix_of("p", Kind.SKIP) + medium_bytes(Image(name)) + user, row)])
    made = await ranking.made(None, NOW)
    monkeypatch.setattr(Pool, "skipped", None)
    monkeypatch.setattr(Pool, "eligible", None)

    ranked = {user: [each.medium for each in top_of(ranking, made, 99, user) or []] for user in (None, "ann", "bob")}

    assert ranked[None] == [medium_bytes(Image("m0"))]
    assert [len(each) for each in ranked.values()] == [1, 1 + 16, 1 + 16]


async def test_where_all_of_an_order_have_gone_it_is_made_again_before_that_is_said() -> None:
    table = await told("m1")
    ranking = ranking_of(table)
    made = await ranking.made("t", NOW)

    await table.hears("media_uploads", dataset_storage_id="s", media=[{"media_type": "image", "media_id": "m2"}])
    await table.hears("annotation_updates", media_id="m1", states={"t": "annotated"})
    ranking.update([*table.scan(prefix_of("p"))])

    assert top_of(ranking, made, 9) is None
    assert len(await top(ranking)) == 1


async def test_rows_that_are_swept_change_no_order() -> None:
    table = await told("m1", "m2")
    gone: dict[str, Any] = {"dataset_storage_id": "s", "media_type": "image", "media_id": "m1"}
    await table.hears("media_deletions", timestamp=NOW + 1, **gone)
    ranking, before = ranking_of(table), dict(table)
    made = await ranking.made("t", NOW)

    table.sweep()
    ranking.sweep((key, None) for key in before.keys() - table.keys())

    assert ranking.current(made)
    assert await ranking.made("t", NOW) is made
    assert await top(ranking) == await top(ranking_of(table))


async def test_a_task_that_is_new_counts_for_what_is_answered_from_an_older_order() -> None:
    table = await told("m1", "m2")
    ranking = ranking_of(table)
    made = await ranking.made(None, NOW)

    both = [{"task_id": "t"}, {"task_id": "t2"}]
    await table.hears("project_updates", dataset_storage_id="s", tasks=both)
    await table.hears("annotation_updates", media_id="m1", states={"t2": "annotated"})
    ranking.update([*table.scan(prefix_of("p"))])

    assert [each.medium for each in top_of(ranking, made, 9) or []] == [medium_bytes(Image("m2"))]


async def test_a_frame_that_a_newer_stride_leaves_out_is_not_answered_from_an_older_order() -> None:
    table = await told()
    video = {"media_type": "video", "media_id": "v", "frame_count": 100, "frame_stride": 1}
    await table.hears("media_uploads", dataset_storage_id="s", media=[video])
    ranking = ranking_of(table)
    made = await ranking.made("t", NOW)

    again = [{**video, "frame_stride": 50}]
    await table.hears("media_uploads", dataset_storage_id="s", media=again, timestamp=NOW + 1)
    ranking.update([*table.scan(prefix_of("p"))])

    frames = [int.from_bytes(each.medium[8:], "big") for each in top_of(ranking, made, 100) or []]
    assert sorted(frames) == [0, 50]


GROUPS = np.random.default_rng(9).normal(size=(9, 80)) * 9


def grouped(images: list[str], **more: Any) -> dict[str, Any]:
    """A chunk of images the first letters of whose names tell in which cluster they lie; the best first."""
    random = np.random.default_rng(1)
    features = [(GROUPS[ord(each[0]) - ord("a")] + random.normal(size=80) * 0.1).tolist() for each in images]
    about = {"labels": ["x"] * len(images), "probabilities": margins(*np.linspace(0.9, 0.1, len(images)))}
    return chunk("model", *images, **{"features": features, **about, **more})


def named(places: list[Place], images: list[str]) -> list[str]:
    names = {medium_bytes(Image(each)): each for each in images}
    return [names[place.medium] for place in places]


def learns(**more: Any) -> dict[str, Any]:
    return {"active_learning": {"tasks": {"t": more}}}


def by(places: list[Place]) -> list[str]:
    return [place.choice.by for place in places if place.choice is not None]


async def skips(table: Table, *images: str, whom: str = "good") -> None:
    """A user says that images are good for nobody, or for whom they are not."""
    lent: dict[str, Any] = {"request_id": "skips", "user_id": "u"}
    await table.hears("active_set_events", change="granted", media=picks(*images), expires_at=NOW + 9, **lent)
    skipped = [{"medium": each["medium"], "uploaded_at": NOW} for each in picks(*images)]
    await table.hears("active_set_events", change="skipped", media=skipped, skip_for=whom, **lent)


IMAGES = [f"{group}{n}" for n in range(15) for group in "abc"]


async def test_a_set_is_spread_over_the_features_and_told_by_rank() -> None:
    table = await told(*IMAGES)
    await table.hears("inference_artifacts", **grouped(IMAGES))

    found = await top(ranking_of(table), limit=3)

    assert sorted(each[0] for each in named(found, IMAGES)) == ["a", "b", "c"]
    assert by(found) == ["diversity"] * 3
    assert sum(place.choice.cluster_size for place in found if place.choice) == len(IMAGES) // AMONG
    assert [place.rank for place in found] == [IMAGES.index(each) + 1 for each in named(found, IMAGES)]


async def test_media_without_features_are_chosen_by_their_score_and_it_is_told_so() -> None:
    table = await told(*IMAGES)
    without = {"labels": ["x"] * 45, "probabilities": margins(*np.linspace(0.9, 0.1, 45)), "features": None}
    await table.hears("inference_artifacts", **chunk("model", *IMAGES, **without))

    found = await top(ranking_of(table), limit=3)

    assert named(found, IMAGES) == IMAGES[:3]
    assert [place.choice and place.choice.without_features for place in found] == [True] * 3


@pytest.mark.parametrize(
    ("how", "limit"),
    [({"diversify": False}, 3), ({"preset": "uncertainty"}, 3), ({"preset": "geti", "extractors": {"margin": 1}}, 3),
     ({}, 45)],
)  # fmt: skip
async def test_without_diversity_or_with_nothing_to_choose_from_a_set_is_the_best(
    how: dict[str, Any], limit: int
) -> None:
    table = await told(*IMAGES, **learns(**how))
    await table.hears("inference_artifacts", **grouped(IMAGES))

    found = await top(ranking_of(table), limit=limit)

    assert by(found) == ["score"] * limit
    assert named(found, IMAGES) == IMAGES[:limit]


async def test_a_set_is_the_same_however_often_it_is_asked_for_and_whoever_has_built_the_ranking() -> None:
    table = await told(*IMAGES, **learns(explore=0.5))
    await table.hears("inference_artifacts", **grouped(IMAGES))
    ranking = ranking_of(table)

    assert await top(ranking, limit=8) == await top(ranking, limit=8) == await top(ranking_of(table), limit=8)


@pytest.mark.parametrize(
    ("quotas", "wanted"),
    [("uniform", {"x": 3, "y": 3}), ("pool", {"x": 5, "y": 1}), ({"y": 1.0}, {"y": 6}), ({"z": 1.0}, {"x": 5, "y": 1})],
)
@pytest.mark.parametrize("diversify", [True, False])
async def test_a_set_brings_labels_about_as_quotas_say(quotas: Any, wanted: dict[str, int], diversify: bool) -> None:
    table = await told(*IMAGES, **learns(quotas=quotas, diversify=diversify))
    await table.hears("inference_artifacts", **grouped(IMAGES, labels=[*"xxxxy"] * 9))

    found = await top(ranking_of(table), limit=6)

    assert Counter(place.reasons[0]["label"] for place in found) == wanted


async def test_what_people_annotated_counts_in_quotas_by_the_labels_they_gave() -> None:
    table = await told(*IMAGES, **learns(quotas="uniform"))
    await table.hears("inference_artifacts", **grouped(IMAGES, labels=[*"xxxxy"] * 9))
    gone = ["a0", "b0", "c0", "a1"]  # all predicted `x`, of which a person said `y`
    seen = {"subset": "seen", "labels": ["y"] * 4, "batch_id": "next", "last": False}
    await table.hears("inference_artifacts", **chunk("model", *gone, **seen))
    for each in gone:
        await table.hears("annotation_updates", media_id=each, states={"t": "annotated"})

    found = await top(ranking_of(table), limit=6)

    assert Counter(place.reasons[0]["label"] for place in found) == {"x": 5, "y": 1}


async def test_what_a_set_has_of_the_active_models_media_counts_in_the_quotas_of_an_earlier_ones() -> None:
    table = await told(*IMAGES[:12], **learns(quotas="uniform"))
    await table.hears("model_activations", task_id="t", model_id="new")
    await table.hears("inference_artifacts", **grouped(IMAGES[4:12], labels=[*"xxxxyyyy"]))
    await table.hears("inference_artifacts", **{**grouped(IMAGES[:4]), "model_id": "new"})

    found = await top(ranking_of(table), limit=8)

    assert Counter(place.tier for place in found) == {"active_model": 4, "earlier_model": 4}
    assert Counter(place.reasons[0]["label"] for place in found) == {"x": 4, "y": 4}


@pytest.mark.parametrize(("whom", "of_u", "of_v"), [("me", 0, 3), ("others", 3, 0), ("good", 0, 0)])
async def test_quotas_are_of_what_is_for_who_asks(whom: str, of_u: int, of_v: int) -> None:
    table = await told(*IMAGES[:12], **learns(quotas="uniform"))
    await table.hears("inference_artifacts", **grouped(IMAGES[:12], labels=[*"xxxxyyyyyyyy"]))
    await skips(table, *IMAGES[:4], whom=whom)
    ranking = ranking_of(table)

    for user, number in (("u", of_u), ("v", of_v)):
        found, _ = await ranking.best("t", 6, NOW + 9, user)  # the lease is over
        assert Counter(place.reasons[0]["label"] for place in found) == Counter(x=number, y=6 - number)


async def test_media_are_counted_by_label_once_for_all_sets_of_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    table = await told(*IMAGES, **learns(quotas="uniform"))
    await table.hears("inference_artifacts", **grouped(IMAGES, labels=[*"xxxxy"] * 9))
    ranking = ranking_of(table)
    first = await top(ranking, limit=6)

    for each in ("labelled", "had_of", "counts"):
        monkeypatch.setattr(f"tables.order.{each}", None)

    assert await top(ranking, limit=6) == first


async def test_what_was_given_away_while_an_order_was_made_keeps_a_set_away_from_its_cluster(slow: Gate) -> None:
    table = await told(*IMAGES)
    await table.hears("inference_artifacts", **grouped(IMAGES))
    ranking = ranking_of(table)
    asking = asyncio.ensure_future(ranking.best("t", 2, NOW))
    await slow.reached()

    await table.hears("active_set_events", change="granted", request_id="r", media=picks("b0"))
    ranking.update([*table.scan(prefix_of("p"))])
    slow.set()
    found, _ = await asking

    assert sorted(each[0] for each in named(found, IMAGES)) == ["a", "c"]


async def test_a_set_is_kept_away_from_so_many_of_the_best_that_others_have(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Group] = []

    def seen(groups: list[Group]) -> list[Choice]:
        asked.extend(groups)
        return chosen(groups)

    monkeypatch.setattr("tables.ranking.chosen", seen)
    table = await told(*IMAGES)
    chunk_of_all = grouped(IMAGES)
    await table.hears("inference_artifacts", **chunk_of_all)
    await table.hears("active_set_events", change="granted", request_id="r", media=picks(*IMAGES[:20]))

    await top(ranking_of(table), limit=2)

    [_, group] = asked  # there is no active model
    assert group.fixed is not None
    best = Sketches.of(np.array(chunk_of_all["features"][:10]))
    assert group.fixed().values.tolist() == best.values.tolist()


async def test_a_projects_set_is_spread_over_the_features_of_its_first_task() -> None:
    table = await told(*IMAGES, tasks=({"task_id": "crop", "trainable": False}, {"task_id": "t"}, {"task_id": "t2"}))
    await table.hears("inference_artifacts", **grouped(IMAGES))
    alike = {"features": [[1.0, 2.0]] * 45, "batch_id": "other"}
    await table.hears("inference_artifacts", **{**grouped(IMAGES), **alike, "task_id": "t2"})

    found = await top(ranking_of(table), None, limit=3)

    assert sorted(each[0] for each in named(found, IMAGES)) == ["a", "b", "c"]


async def test_where_most_candidates_are_of_one_model_the_features_of_others_are_not_compared() -> None:
    table = await told(*IMAGES)
    await table.hears("inference_artifacts", **grouped(IMAGES))
    few = grouped(IMAGES[:2], batch_id="other", timestamp=NOW + 1)
    await table.hears("inference_artifacts", **{**few, "model_id": "other"})

    found = await top(ranking_of(table), limit=4)

    # Of the other model's two the first is among the best, and is in the set for its score.
    told_of = dict(zip(named(found, IMAGES), by(found), strict=True))
    assert told_of.pop("a0") == "score"
    assert [*told_of.values()] == ["diversity"] * 3


def unscored(images: list[str], **more: Any) -> dict[str, Any]:
    """A chunk of their features alone, before any model."""
    return grouped(images, **{"model_id": "backbone", "probabilities": None, "labels": None, **more})


async def test_of_a_cluster_of_which_a_medium_is_for_nobody_another_is_typical() -> None:
    images = [f"{group}{n}" for n in range(15) for group in "abcdefghi"]
    table = await told(*images)
    await table.hears("inference_artifacts", **unscored(images))
    first = named(await top(ranking_of(table), limit=9), images)
    await skips(table, *first)

    again = named(await top(ranking_of(table), limit=9), images)

    assert sorted(each[0] for each in first) == sorted(each[0] for each in again) == [*"abcdefghi"]
    assert not {*first} & {*again}


async def test_what_another_task_has_scored_is_in_a_projects_set_for_its_score() -> None:
    table = await told(*IMAGES, tasks=({"task_id": "t"}, {"task_id": "t2"}))
    await table.hears("inference_artifacts", **unscored(IMAGES))
    scored = chunk("model", *IMAGES[:30], probabilities=margins(*[0.5] * 30), features=None, task_id="t2")
    await table.hears("inference_artifacts", **scored)

    found = await top(ranking_of(table), None)

    assert by(found) == ["score"] * 30 + ["typicality"] * 15


async def test_clusters_are_made_once_of_the_same_features_whichever_task_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    def counted(sketches: Sketches) -> list[Level]:
        made.append(len(sketches))
        return levels(sketches)

    monkeypatch.setattr("tables.order.levels", counted)
    table = await told(*IMAGES, tasks=({"task_id": "t"}, {"task_id": "t2"}))
    await table.hears("inference_artifacts", **unscored(IMAGES))
    await table.hears("inference_artifacts", **unscored(IMAGES[:30], task_id="t2"))
    ranking = ranking_of(table)

    for task in ("t", "t2", None) * 2:
        ranking.update([])  # what makes the order anew
        await top(ranking, task)

    assert made == [45, 30]


@pytest.mark.parametrize("user", [None, "u", "v"])
@pytest.mark.parametrize(
    "how", [{}, {"explore": 1.0}, {"explore": 0.5}, {"quotas": "uniform"}, {"quotas": "uniform", "diversify": False}]
)
async def test_a_set_is_full_though_some_of_the_best_are_for_nobody(how: dict[str, Any], user: str | None) -> None:
    images = IMAGES[:12]
    table = await told(*images, **learns(**how))
    await table.hears("inference_artifacts", **grouped(images, labels=[*"xxxxyyyyyyyy"]))
    gone = [*images[:4], "a3"]  # all of `x`, and one more
    await skips(table, *gone)

    async with asyncio.timeout(20):
        found, _ = await ranking_of(table).best("t", 6, NOW, user)

    left = [each for each in images if each not in gone]
    assert len({*named(found, left)}) == 6
    assert [place.rank for place in found] == [left.index(each) + 1 for each in named(found, left)]


async def test_where_all_that_is_left_is_for_nobody_that_is_said() -> None:
    table = await told("a0", **learns(explore=1.0))
    await skips(table, "a0")

    async with asyncio.timeout(20):
        assert await top(ranking_of(table)) == []


ways = st.fixed_dictionaries(
    {},
    optional={
        "diversify": st.booleans(),
        "explore": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "quotas": st.sampled_from(["uniform", "pool", {"x": 1.0}, {"y": 1.0, "z": 2.0}]),
        "preset": st.sampled_from(["balanced", "uncertainty", "geti", "random"]),
        "no_prediction": st.sampled_from(["lowest", "highest"]),
    },
)


async def any_history(how: dict[str, Any], seed: int) -> tuple[Table, set[str]]:
    """A project in which much has happened, and which of its media may be had."""
    random = np.random.default_rng(seed)

    def some(share: float) -> list[str]:
        return [each for each in IMAGES if random.random() < share]

    table = await told(*IMAGES, tasks=({"task_id": "t", "task_type": "classification"},), **learns(**how))
    await table.hears("model_activations", task_id="t", model_id="two")
    for n, model in enumerate(("backbone", "one", "two")):
        images = some(0.5) or IMAGES[:1]
        about: dict[str, Any] = {"model_id": model, "timestamp": NOW + n}
        about["labels"] = random.choice([*"xyz"], len(images)).tolist()
        about["no_prediction"] = [{"media_type": "image", "media_id": each} for each in some(0.1)]
        if model == "backbone" or random.random() < 0.2:
            about |= {"probabilities": None, "labels": None}
        elif random.random() < 0.2:
            about["features"] = None
        await table.hears("inference_artifacts", **{**grouped(images), **about})
    annotated, skipped, had = some(0.1), some(0.2), some(0.1)
    await skips(table, *skipped)
    for each in annotated:
        await table.hears("annotation_updates", media_id=each, states={"t": "annotated"})
    await table.hears("active_set_events", 1, change="granted", request_id="r", media=picks(*had))
    return table, {*IMAGES} - {*annotated, *skipped, *had}


@given(ways, st.integers(0, 1000), st.integers(1, 50), st.sampled_from(["t", None]))
async def test_a_set_has_as_many_media_as_were_asked_for_while_there_are_any_however_it_is_put_together(
    how: dict[str, Any], seed: int, limit: int, task: str | None
) -> None:
    table, left = await any_history(how, seed)

    async with asyncio.timeout(20):
        places, _ = await ranking_of(table).best(task, limit, NOW, "somebody", "seed")

    found, ranks = named(places, IMAGES), [place.rank for place in places]
    assert {*found} <= left
    assert len(found) == len({*found}) == min(limit, len(left))
    assert ranks == sorted({*ranks})
    assert max(ranks, default=0) <= len(left)
    assert all(place.choice is not None for place in places)
