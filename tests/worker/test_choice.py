import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tables.heads import AMONG
from tests.worker.conftest import NOW, PROJECT, TASK, Client, House
from tests.worker.test_leases import LEASES, asks, media
from tests.worker.test_views import MARKS, SAFE
from web.query import Query

GROUPS = np.random.default_rng(9).normal(size=(10, 80)) * 9
IMAGES = [f"{group}{n}" for n in range(15) for group in "abc"]  # best first
EXAMPLES = [f"{group}{n}" for n in range(12) for group in "abcdefghij"]


def features(images: list[str]) -> list[list[float]]:
    """Of images the first letters of whose names tell in which cluster they lie."""
    random = np.random.default_rng(1)
    return [(GROUPS[ord(each[0]) - ord("a")] + random.normal(size=80) * 0.1).tolist() for each in images]


async def scored(house: House, images: list[str], **how: Any) -> None:
    """A project that wants its sets like that, and a batch of its model."""
    await house.tells(*images, active_learning={"tasks": {TASK: how}})
    await house.says("model_activations", task_id=TASK, model_id="model-1")
    margins = dict(zip(images, np.linspace(0.9, 0.1, len(images)).tolist(), strict=True))
    await house.infers(margins, features=features(images))


async def only_features(house: House, images: list[str], **learning: Any) -> None:
    """A batch of features, before there is any model."""
    await house.tells(*images, active_learning=learning)
    about: dict[str, Any] = {"labels": None, "probabilities": None, "features": features(images)}
    await house.infers(dict.fromkeys(images, 0.0), "backbone", **about)


def groups(images: list[str]) -> str:
    return "".join(sorted(each[0] for each in images))


def choices(answer: Any) -> list[dict[str, Any]]:
    return [item["active_learning"]["choice"] for item in answer["active_set"]]


def granted(house: House) -> list[dict[str, Any]]:
    """The picks of the last event that granted any."""
    told = [json.loads(record.value or b"") for record in house.published]
    picks: list[dict[str, Any]] = [each for each in told if each["change"] == "granted"][-1]["media"]
    return picks


async def test_a_set_holds_media_of_every_cluster_and_tells_what_each_stands_for(client: Client, house: House) -> None:
    await scored(house, IMAGES)

    answer = await (await client.get(f"{SAFE}?task_id={TASK}&limit=3")).json()

    assert groups(media(answer)) == "abc"
    for choice in choices(answer):
        assert choice["by"] == "diversity"
        assert 0 <= choice["distance"] < 2  # clusters are a hundred apart
    assert sum(choice["cluster_size"] for choice in choices(answer)) == len(IMAGES) // AMONG
    ranks = [item["active_learning"]["rank"] for item in answer["active_set"]]
    assert ranks == [IMAGES.index(each) + 1 for each in media(answer)] == sorted(ranks)


async def test_without_diversity_a_set_is_the_best_of_the_order(client: Client, house: House) -> None:
    await scored(house, IMAGES, diversify=False)

    answer = await (await client.get(f"{SAFE}?task_id={TASK}&limit=5")).json()

    assert media(answer) == IMAGES[:5]
    assert choices(answer) == [{"by": "score"}] * 5


async def test_clusters_of_which_somebody_has_a_medium_are_left_to_them_while_there_are_others(
    client: Client, house: House
) -> None:
    await scored(house, IMAGES)

    got = [media((await asks(client, user_id=user, limit=1, task_id=TASK))[1]) for user in ("ann", "bob")]
    marked = media(await (await client.get(f"{MARKS}?limit=1")).json())
    after = media((await asks(client, user_id="eve", limit=3, task_id=TASK))[1])

    assert got[0] == IMAGES[:1]
    assert groups([*got[0], *got[1], *marked]) == "abc"
    assert len(after) == 3  # when every cluster is somebody's, there are media all the same


async def test_what_is_given_back_leaves_its_cluster_to_others(client: Client, house: House) -> None:
    await scored(house, IMAGES)
    _, first = await asks(client, user_id="ann", limit=1, request_id="r1", task_id=TASK)
    await client.delete(f"{LEASES}/r1", params={"user_id": "ann"})

    _, again = await asks(client, user_id="bob", limit=1, task_id=TASK)

    assert media(again) == media(first)


@pytest.mark.parametrize("diversify", [True, False])
async def test_uniform_quotas_bring_rare_labels_forward(house: House, diversify: bool) -> None:
    await house.tells(
        *IMAGES, active_learning={"tasks": {TASK: {"quotas": "uniform", "diversify": diversify, "stratify": False}}}
    )
    labels = ["common"] * 39 + ["rare"] * 6
    margins = dict(zip(IMAGES, np.linspace(0.9, 0.1, 45).tolist(), strict=True))
    await house.infers(margins, features=features(IMAGES), labels=labels)

    answer = await house.sets.shown(PROJECT, Query(TASK, 8))
    every = await house.sets.shown(PROJECT, Query(TASK, 20))

    told = [
        Counter(item["active_learning"]["reasons"][0]["label"] for item in each["active_set"])
        for each in (answer, every)
    ]
    assert told == [{"common": 4, "rare": 4}, {"common": 14, "rare": 6}]


async def test_a_share_by_lot_is_told_with_its_probability_and_logged_with_the_grant(
    client: Client, house: House
) -> None:
    await scored(house, IMAGES, explore=0.4, diversify=False)

    _, answer = await asks(client, user_id="ann", limit=10, task_id=TASK)

    told = {item["id"]: item["active_learning"]["choice"] for item in answer["active_set"]}
    lots = {each: choice for each, choice in told.items() if choice["by"] == "lot"}
    assert [each for each in told if each not in lots] == IMAGES[:6]
    assert {choice["probability"] for each, choice in told.items() if each not in lots} == {1.0}
    assert len(lots) == 4
    assert [choice["probability"] for choice in lots.values()] == pytest.approx([4 / 39] * 4)
    assert {pick["medium"]["media_id"]: pick["choice"] for pick in granted(house)} == told


async def test_where_all_is_explored_every_medium_is_as_probable(client: Client, house: House) -> None:
    await scored(house, IMAGES, explore=1)

    sets = [(await asks(client, user_id="ann", limit=5, task_id=TASK))[1] for _ in range(3)]
    shown = [await house.shown(limit=5) for _ in range(2)]

    for number, answer in enumerate(sets):
        left = 45 - 5 * number
        assert choices(answer) == [{"by": "lot", "probability": pytest.approx(5 / left)}] * 5
    assert len({*media(sets[0]), *media(sets[1]), *media(sets[2])}) == 15
    assert {*media(sets[0])} != {*IMAGES[:5]}
    assert shown[0] == shown[1]  # who only looks sees the same as long as nothing changes


@pytest.mark.parametrize("how", [{}, {"explore": 0.5}, {"quotas": "uniform"}])
async def test_a_lease_that_is_asked_for_again_tells_the_same_choices(
    client: Client, house: House, how: dict[str, Any]
) -> None:
    await scored(house, IMAGES, **how)
    _, first = await asks(client, user_id="ann", limit=4, request_id="r1", task_id=TASK)
    await asks(client, user_id="bob", limit=4, task_id=TASK)

    _, again = await asks(client, user_id="ann", limit=4, request_id="r1", task_id=TASK)

    assert [*zip(media(again), choices(again), strict=True)] == [*zip(media(first), choices(first), strict=True)]
    assert [pick.keys() >= {"medium", "rank", "score", "choice"} for pick in granted(house)] == [True] * 4


async def test_before_there_is_a_model_a_batch_of_features_brings_typical_media_first(
    client: Client, house: House
) -> None:
    await only_features(house, EXAMPLES)

    answer = await (await client.get(f"{SAFE}?task_id={TASK}&limit=12")).json()

    assert groups(media(answer)[:10]) == "abcdefghij"
    for item in answer["active_set"][:10]:
        told = item["active_learning"]
        assert (told["tier"], told["score"]) == ("not_scored", 1.0)
        assert (told["choice"]["by"], told["choice"]["cluster_size"]) == ("typicality", 12)
        assert told["choice"]["distance"] > 0


async def test_what_is_annotated_or_leased_is_an_example_of_its_cluster(client: Client, house: House) -> None:
    await only_features(house, EXAMPLES)
    first = await house.shown(limit=10)
    await house.says("annotation_updates", media_id=first[0], states={TASK: "annotated"})
    _, leased = await asks(client, user_id="ann", limit=2, task_id=TASK)

    after = await house.shown(limit=7)

    assert groups([first[0], *media(leased), *after]) == "abcdefghij"


@pytest.mark.parametrize("learning", [{"preset": "random"}, {"tasks": {TASK: {"diversify": False}}}])
async def test_at_random_and_without_diversity_nothing_is_typical(house: House, learning: dict[str, Any]) -> None:
    await only_features(house, EXAMPLES, **learning)
    plain = await house.shown(limit=10)

    answer = await house.sets.shown(PROJECT, Query(TASK, 10))

    assert choices(answer) == [{"by": "chance"}] * 10
    assert groups(plain) != "abcdefghij"


async def test_what_a_model_has_scored_comes_before_what_is_typical(house: House) -> None:
    await only_features(house, EXAMPLES)
    await house.infers({"a3": 0.1, "a4": 0.9}, "model-1", features=features(["a3", "a4"]), timestamp=NOW + 1)

    answer = await house.sets.shown(PROJECT, Query(TASK, 12))

    images = media(answer)
    assert (images[:2], groups(images[2:])) == (["a4", "a3"], "abcdefghij")
    assert [choice["by"] for choice in choices(answer)[2:]] == ["typicality"] * 10


async def test_media_of_which_nothing_is_known_come_last(house: House) -> None:
    await only_features(house, EXAMPLES)
    await house.tells("new")

    images = await house.shown(limit=200)

    assert images[-1] == "new"
    assert len(images) == 121


async def test_every_item_says_whether_it_was_typical_or_came_by_chance(house: House) -> None:
    await only_features(house, EXAMPLES)
    await house.tells("new")

    told = choices(await house.sets.shown(PROJECT, Query(TASK, 200)))

    assert [choice["by"] for choice in told] == ["typicality"] * 120 + ["chance"]
    assert {"cluster_size", "distance"} <= told[0].keys()
    assert told[-2] == {"by": "typicality"}  # it stands for none: they all have one
