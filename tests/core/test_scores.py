import inspect
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from agents import extractors
from agents.extractors import Seen
from streams.events import EXTRACTORS
from streams.media import Image
from tables.made import Place
from tables.ranking import Ranking
from tables.rows import medium_bytes, prefix_of
from tables.scores import NEVER_SCORED, ranked, reduced
from tests.core.table import NOW, Table, chunk, top

PATIENCE_MS = 600_000
CLASSIFICATION = {"task_id": "t", "task_type": "classification"}
DETECTION = {"task_id": "t", "task_type": "detection"}
SEEN = [[-5.0, 0.0], [0.0, 0.1], [5.0, 0.0]]
ONLY_FEATURES: dict[str, Any] = {"probabilities": None, "classes": None}


async def told(table: Table, *images: str, tasks: tuple[dict[str, Any], ...] = (CLASSIFICATION,), **more: Any) -> None:
    """A project with images."""
    await table.hears("project_updates", dataset_storage_id="s", tasks=list(tasks), **more)
    media = [{"media_type": "image", "media_id": each} for each in images]
    await table.hears("media_uploads", dataset_storage_id="s", media=media)


async def infers(
    table: Table,
    seen: list[list[float]],
    seen_labels: list[str],
    unseen: dict[str, list[float]],
    labels: list[str | None],
    model: str = "model",
    **more: Any,
) -> None:
    """A batch of features, of seen and of unseen media."""
    about = {**ONLY_FEATURES, **more}
    if seen:
        names = [f"seen{n}" for n in range(len(seen))]
        of_seen = chunk(model, *names, subset="seen", last=False, features=seen, labels=seen_labels, **about)
        await table.hears("inference_artifacts", **of_seen)
    of_unseen = chunk(model, *unseen, chunk=1 if seen else 0, features=[*unseen.values()], labels=labels, **about)
    await table.hears("inference_artifacts", **of_unseen)


async def places(table: Table, task: str | None = "t", now: int = NOW) -> list[Place]:
    ranking = Ranking("p", table, PATIENCE_MS)
    ranking.update([*table.scan(prefix_of("p"))])
    return await top(ranking, task, now=now)


async def scores(table: Table, images: list[str], task: str | None = "t", now: int = NOW) -> list[float]:
    found = {place.medium: place.score for place in await places(table, task, now)}
    return [found[medium_bytes(Image(each))] for each in images]


IMAGES = [f"m{n}" for n in range(5)]


async def test_without_labels_geti_ranks_by_the_error_under_one_pca_of_all_that_was_seen() -> None:
    table = Table()
    await told(table, *IMAGES, tasks=(DETECTION,), active_learning={"preset": "geti"})
    unseen = dict(zip(IMAGES, [[-4.0, 2.0], [-2.0, 4.0], [1.0, 5.0], [2.0, 3.0], [4.0, 1.0]], strict=True))

    await infers(table, SEEN, ["a"] * 3, unseen, ["a"] * 5)

    assert await scores(table, IMAGES) == pytest.approx([0.6, 0.2, 0.0, 0.4, 0.8])


async def test_with_labels_geti_ranks_each_predicted_label_by_itself() -> None:
    table = Table()
    await told(table, *IMAGES[:4], active_learning={"preset": "geti"})
    seen = [*SEEN, [0.0, -5.0], [0.1, 0.0], [0.0, 5.0]]
    unseen = dict(zip(IMAGES, [[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0]], strict=False))

    await infers(table, seen, [*"AAABBB"], unseen, [*"ABAB"])

    assert await scores(table, IMAGES[:4]) == pytest.approx([0.0, 0.5, 0.5, 0.0])


async def test_a_label_nobody_has_seen_reconstructs_perfectly_and_one_without_variance_has_no_score() -> None:
    table = Table()
    await told(table, *IMAGES, active_learning={"preset": "geti"})
    seen = [*SEEN, [7.0, 7.0]]
    unseen = {each: [1.0, float(n)] for n, each in enumerate(IMAGES)}

    await infers(table, seen, [*"AAAS"], unseen, [*"AAANS"])

    # The size of the largest label is 3. N has one medium, which is the first of its label; S was seen once.
    assert await scores(table, IMAGES) == pytest.approx([2 / 3, 1 / 3, 0.0, 0.0, NEVER_SCORED])
    [last] = [place for place in await places(table) if place.medium == medium_bytes(Image("m4"))]
    assert (last.rank, last.tier) == (5, "not_scored")


@pytest.mark.parametrize("task", [CLASSIFICATION, DETECTION])
@pytest.mark.parametrize("seen", [[], [[3.0, 3.0]] * 4])
async def test_without_seen_media_or_with_equal_ones_every_score_is_one(
    task: dict[str, Any], seen: list[list[float]]
) -> None:
    table = Table()
    await told(table, *IMAGES, tasks=(task,), active_learning={"preset": "geti"})

    await infers(table, seen, ["A"] * len(seen), {each: [1.0, float(n)] for n, each in enumerate(IMAGES)}, ["A"] * 5)

    assert await scores(table, IMAGES) == [NEVER_SCORED] * 5


@pytest.mark.parametrize("chunks", [1, 3])
async def test_the_ranks_of_many_media_are_those_of_scikit_learns_pca(chunks: int) -> None:
    random = np.random.default_rng(chunks)
    images, labels = [f"i{n}" for n in range(120)], random.choice([*"ABCD"], size=120, p=[0.4, 0.3, 0.2, 0.1])
    unseen, seen = random.normal(size=(120, 16)).astype("f4"), random.normal(size=(60, 16)).astype("f4")
    seen[:, 6:] *= 0.01
    of_seen = random.choice([*"ABC"], size=60)
    table = Table()
    await told(table, *images, active_learning={"preset": "geti"})
    names = [f"seen{n}" for n in range(60)]
    about = {"labels": of_seen.tolist(), "features": seen.tolist(), "subset": "seen", "last": False, **ONLY_FEATURES}
    await table.hears("inference_artifacts", **chunk("model", *names, **about))
    for n, part in enumerate(np.array_split(np.arange(120), chunks), 1):
        about = {"labels": labels[part].tolist(), "features": unseen[part].tolist(), "last": n == chunks}
        await table.hears(
            "inference_artifacts", **chunk("model", *(images[i] for i in part), chunk=n, **about, **ONLY_FEATURES)
        )

    found, wanted = await scores(table, images), np.empty(120)
    largest = max(np.unique(labels, return_counts=True)[1])
    for label in "ABCD":
        which, known = labels == label, seen[of_seen == label].astype(np.float64)
        if not len(known):
            # All errors are 0: their order is no matter, their scores are.
            assert sorted(np.array(found)[which]) == pytest.approx(np.arange(which.sum()) / largest)
            wanted[which] = np.array(found)[which]
            continue
        pca = PCA(0.995).fit(known)
        features = unseen[which].astype(np.float64)
        error = ((features - pca.inverse_transform(pca.transform(features))) ** 2).sum(axis=1)
        wanted[which] = np.argsort(np.argsort(-error)) / largest
    assert found == pytest.approx(wanted)


async def test_the_producers_own_numbers_count_where_the_project_says_so() -> None:
    table = Table()
    both = {"extractors": {"margin": 1, "external:doubt": 3}, "stratify": False}
    await told(table, *IMAGES[:4], active_learning={"tasks": {"t": both}})
    own = {"probabilities": margins(0.9, 0.7, 0.5, 0.3), "utilities": {"a": [9, 9, 9, 9], "doubt": [1, 2, 3, 4]}}

    await table.hears("inference_artifacts", **chunk("model", *IMAGES[:4], **own))

    assert await scores(table, IMAGES[:4]) == pytest.approx(
        [(0 + 3 * 0.75) / 4, (0.25 + 1.5) / 4, (0.5 + 0.75) / 4, 0.75 / 4]
    )
    [first, *_] = await places(table)
    assert first.reasons[0]["extractors"] == {
        "margin": {"utility": pytest.approx(0.3), "score": 0.75},
        "external:doubt": {"utility": 4.0, "score": 0.0},
    }


def margins(*wanted: float) -> list[list[float]]:
    return [[1 - each / 2, each / 2] for each in wanted]


@pytest.mark.parametrize(("how", "wanted"), [("min", [0.0, 0.5]), ("mean", [0.25, 0.5]), ("max", [0.5, 0.5])])
async def test_extractors_reduce_to_the_task_as_it_says(how: str, wanted: list[float]) -> None:
    table = Table()
    learning = {"extractors": {"margin": 1, "external:own": 1}, "intra_task_reduce": how, "stratify": False}
    await told(table, "m0", "m1", active_learning={"tasks": {"t": learning}})

    # Of m1 only one of the two is known: those reduce that are there.
    own = {"probabilities": margins(0.9, 0.1), "utilities": {"own": [1, 9]}}
    await table.hears("inference_artifacts", **chunk("model", "m0", "other", last=False, **own))
    await table.hears("media_uploads", dataset_storage_id="s", media=[{"media_type": "image", "media_id": "other"}])
    await table.hears("inference_artifacts", **chunk("model", "m1", chunk=1, probabilities=margins(0.5)))

    m0, m1 = await scores(table, ["m0", "m1"])
    # By margin: m0, m1, other; by the other: other, m0, and m1 counts in the size.
    assert m0 == pytest.approx({"min": 0.0, "mean": (0 + 1 / 3) / 2, "max": 1 / 3}[how])
    assert m1 == pytest.approx(1 / 3)
    assert reduced(np.array([[0.0, 0.5], [0.5, np.nan]]), how).tolist() == wanted  # type: ignore[arg-type] # a literal


@pytest.mark.parametrize(("how", "wanted"), [("min", 0.0), ("mean", 0.25), ("max", 0.5)])
async def test_tasks_reduce_to_the_project_as_it_says(how: str, wanted: float) -> None:
    table = Table()
    tasks = (CLASSIFICATION, {"task_id": "t2", "task_type": "detection"})
    await told(table, "m0", "m1", tasks=tasks, active_learning={"inter_task_reduce": how})
    two = {"labels": ["a", "a"]}

    await table.hears("inference_artifacts", **chunk("model", "m0", "m1", probabilities=margins(0.9, 0.1), **two))
    assert await scores(table, ["m0", "m1"], None) == [0.0, 0.5]

    await table.hears(
        "inference_artifacts", **chunk("model", "m0", "m1", task_id="t2", probabilities=margins(0.1, 0.9), **two)
    )
    assert await scores(table, ["m0", "m1"], None) == [wanted, wanted]


async def test_another_setting_ranks_anew_without_new_events_from_the_model() -> None:
    table = Table()
    unseen = {"m0": [1.0, 1.0], "m1": [1.0, 9.0]}
    ranking = Ranking("p", table, PATIENCE_MS)

    async def best(learning: dict[str, Any]) -> str:
        await told(table, "m0", "m1", active_learning=learning)
        ranking.update([*table.scan(prefix_of("p"))])
        [first, _] = await top(ranking)
        return {medium_bytes(Image(each)): each for each in ("m0", "m1")}[first.medium]

    await infers(table, SEEN, ["a"] * 3, unseen, ["a"] * 2, probabilities=None)
    again = {"probabilities": margins(0.9, 0.1), "labels": ["a", "a"], "features": [*unseen.values()]}
    seen = {"subset": "seen", "last": False, "features": SEEN, "labels": ["a"] * 3, "probabilities": None}
    await table.hears("inference_artifacts", **chunk("model", "s0", "s1", "s2", timestamp=NOW + 1, **seen))
    await table.hears("inference_artifacts", **chunk("model", "m0", "m1", chunk=1, timestamp=NOW + 1, **again))

    assert await best({}) == "m0"
    assert await best({"preset": "geti"}) == "m1"
    assert await best({"tasks": {"t": {"extractors": {"fre_class_agnostic": 1}}}}) == "m1"
    assert await best({"tasks": {"t": {"preset": "balanced"}}, "preset": "geti"}) == "m0"


async def test_two_models_scores_stand_side_by_side_and_each_ranks_all_that_it_has_scored() -> None:
    table = Table()
    await told(table, *IMAGES[:3])
    one = {"labels": ["a"] * 3, "probabilities": margins(0.9, 0.5, 0.1)}
    await table.hears("inference_artifacts", **chunk("one", *IMAGES[:3], **one))
    two = {"labels": ["a"], "probabilities": margins(0.3), "timestamp": NOW + 1}
    await table.hears("inference_artifacts", **chunk("two", "m0", **two))

    await table.hears("model_activations", task_id="t", model_id="two")
    assert await scores(table, IMAGES[:3]) == pytest.approx([0.0, 1 / 3, 2 / 3])
    assert [each.tier for each in await places(table)] == ["active_model", "earlier_model", "earlier_model"]

    await table.hears("model_activations", task_id="t", model_id="one", timestamp=NOW + 1)
    assert await scores(table, IMAGES[:3]) == pytest.approx([0.0, 1 / 3, 2 / 3])
    assert {each.tier for each in await places(table)} == {"active_model"}


async def test_patience_is_with_kafkas_time_and_not_with_what_an_event_says() -> None:
    table = Table()
    await told(table, "m0")
    old = {"timestamp": 1000, "last": False, "labels": ["a"], "probabilities": margins(0.5)}
    await table.hears("media_uploads", dataset_storage_id="s", media=[{"media_type": "image", "media_id": "m0"}])

    await table.hears("inference_artifacts", heard_at=NOW, **chunk("model", "m0", **old))

    assert [each.tier for each in await places(table, now=NOW + 1)] == ["not_scored"]
    assert [each.tier for each in await places(table, now=NOW + PATIENCE_MS)] == ["earlier_model"]


async def test_a_batch_whose_last_chunk_does_not_come_counts_after_a_while() -> None:
    table = Table()
    await told(table, "m0", "m1")
    before = {"labels": ["a", "a"], "probabilities": margins(0.9, 0.1)}
    await table.hears("inference_artifacts", **chunk("model", "m0", "m1", batch_id="before", **before))
    after = {"labels": ["a", "a"], "probabilities": margins(0.1, 0.9), "timestamp": NOW + 1, "last": False}
    await table.hears("inference_artifacts", **chunk("model", "m0", "m1", batch_id="after", **after))
    ranking = Ranking("p", table, PATIENCE_MS)
    ranking.update([*table.scan(prefix_of("p"))])

    best = [(await top(ranking, now=now))[0].medium for now in (NOW, NOW + PATIENCE_MS, NOW + 1 + PATIENCE_MS)]

    assert best == [medium_bytes(Image(each)) for each in ("m0", "m0", "m1")]


async def test_what_is_in_another_dataset_storage_is_not_suggested() -> None:
    table = Table()
    await told(table, "m0")
    await table.hears("media_uploads", dataset_storage_id="tests", media=[{"media_type": "image", "media_id": "m1"}])

    assert [each.medium for each in await places(table)] == [medium_bytes(Image("m0"))]


def test_a_row_without_a_utility_has_no_score_and_counts_in_the_size_of_its_label() -> None:
    utility = np.array([1.0, np.nan, 2.0])

    found = ranked(utility, np.zeros(3, np.intp), np.arange(3, dtype=np.uint32))

    assert found == pytest.approx([1 / 3, np.nan, 0.0], nan_ok=True)


async def test_of_two_models_that_are_not_active_the_one_told_last_counts() -> None:
    for order in (("one", "two"), ("two", "one")):
        table = Table()
        await told(table, "m0")
        for model in order:
            about = {"labels": ["a"], "probabilities": margins(0.5)}
            await table.hears("inference_artifacts", **chunk(model, "m0", **about))

        [place] = await places(table)

        assert place.reasons[0]["model_id"] == order[1]


async def test_media_in_which_the_model_found_nothing_are_neutral_and_in_no_labels_size() -> None:
    for task in (CLASSIFICATION, DETECTION):
        table = Table()
        blind = [f"blind{n}" for n in range(9)]
        await told(table, *IMAGES, *blind, tasks=(task,))
        about = {
            "labels": ["a"] * 5,
            "probabilities": margins(0.9, 0.7, 0.5, 0.3, 0.1),
            "no_prediction": [{"media_type": "image", "media_id": each} for each in blind],
        }

        await table.hears("inference_artifacts", **chunk("model", *IMAGES, **about))

        assert await scores(table, IMAGES) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
        assert await scores(table, blind) == pytest.approx([0.4] * 9)


async def test_a_row_without_a_label_is_in_no_labels_size() -> None:
    table = Table()
    await told(table, *IMAGES, active_learning={"preset": "geti"})
    unseen = {each: [1.0, 5.0 - n] for n, each in enumerate(IMAGES)}

    await infers(table, SEEN, [*"AAA"], unseen, ["A", "A", None, None, None])

    assert await scores(table, IMAGES) == [0.0, 0.5, *[NEVER_SCORED] * 3]


async def test_of_a_second_batch_of_a_model_errors_are_ranked_by_themselves_and_margins_with_those_of_the_first() -> (
    None
):
    table = Table()
    await told(table, *IMAGES, tasks=(DETECTION,), active_learning={"preset": "geti"})
    for number, images in enumerate((IMAGES, IMAGES[3:])):
        unseen = {each: [1.0, 5.0 - IMAGES.index(each)] for each in images}
        about: dict[str, Any] = {"batch_id": f"b{number}", "timestamp": NOW + number}
        await infers(table, SEEN, ["a"] * 3, unseen, ["a"] * len(images), **about)
    assert await scores(table, IMAGES) == pytest.approx([0, 1 / 3, 2 / 3, 0, 0.5])

    await told(table, *IMAGES, tasks=(DETECTION,), timestamp=NOW + 1)
    about = {"labels": ["a"] * 3, "probabilities": margins(0.9, 0.5, 0.1), "batch_id": "b2", "timestamp": NOW + 2}
    await table.hears("inference_artifacts", **chunk("model", *IMAGES[:3], **about))
    about = {"labels": ["a"] * 2, "probabilities": margins(0.7, 0.3), "batch_id": "b3", "timestamp": NOW + 3}
    await table.hears("inference_artifacts", **chunk("model", *IMAGES[3:], **about))
    assert await scores(table, IMAGES) == pytest.approx([0, 0.4, 0.8, 0.2, 0.6])


@pytest.mark.parametrize("spread", [1e-3, 1e-20, 1e20])
async def test_ranks_are_exact_far_from_zero_and_for_small_and_large_numbers(spread: float) -> None:
    random = np.random.default_rng(0)
    far = 1e4 if spread == 1e-3 else 0.0
    seen, unseen = (far + spread * random.normal(size=(n, 8)) * np.geomspace(1, 1e-3, 8) for n in (50, 100))
    images = [f"i{n}" for n in range(100)]
    table = Table()
    await told(table, *images, tasks=(DETECTION,), active_learning={"preset": "geti"})

    await infers(table, seen.tolist(), ["a"] * 50, dict(zip(images, unseen.tolist(), strict=True)), ["a"] * 100)

    pca = PCA(0.995, svd_solver="full").fit(seen / spread)
    error = ((unseen / spread - pca.inverse_transform(pca.transform(unseen / spread))) ** 2).sum(axis=1)
    assert np.abs(np.array(await scores(table, images)) * 100 - np.argsort(np.argsort(-error))).max() < 1.5


async def test_an_external_utility_of_which_no_medium_has_any_gives_no_score() -> None:
    table = Table()
    await told(table, "m0", active_learning={"tasks": {"t": {"extractors": {"external:own": 1}}}})
    own = {"utilities": {"own": [1.0]}, "last": False}
    await table.hears("inference_artifacts", **chunk("model", "never uploaded", **own))

    await table.hears("inference_artifacts", **chunk("model", "m0", chunk=1))

    assert await scores(table, ["m0"]) == [NEVER_SCORED]


def one_of_each(name: str, given: dict[str, Any]) -> "NDArray[np.float64]":
    """What an extractor says of the same media, without a batch, a fold or a table."""
    function = getattr(extractors, name)
    found = function(*(given[each] for each in inspect.signature(function).parameters if each != "multi_label"))
    utility: NDArray[np.float64] = found[0] if isinstance(found, tuple) else found
    return utility


async def test_a_project_that_names_an_extractor_ranks_by_it_at_once_without_another_inference() -> None:
    random, images = np.random.default_rng(5), [f"i{n}" for n in range(20)]
    passes, labels = random.dirichlet(np.ones(4), size=(20, 5)), random.choice([*"AB"], 20).tolist()
    seen, features = random.normal(size=(30, 6)) * np.geomspace(1, 0.01, 6), random.normal(size=(20, 6))
    table, of_seen = Table(), random.choice([*"AB"], 30).tolist()
    await told(table, *images)
    about = {"subset": "seen", "last": False, "features": seen.tolist(), "labels": of_seen, **ONLY_FEATURES}
    await table.hears("inference_artifacts", **chunk("model", *(f"s{n}" for n in range(30)), **about))
    about = {"chunk": 1, "features": features.tolist(), "labels": labels, "novelty": True}
    await table.hears("inference_artifacts", **chunk("model", *images, probabilities=passes.tolist(), **about))
    given = {
        "probabilities": passes.mean(axis=1),
        "passes": passes,
        "features": features,
        "labels": labels,
        "seen": Seen(seen, of_seen),
    }

    orders = set()
    for name in EXTRACTORS:
        learning = {"tasks": {"t": {"extractors": {name: 1}, "stratify": False}}}
        await told(table, active_learning=learning)
        utility = one_of_each(name, given)
        votes = utility.round(9).tolist()

        found = await scores(table, images)

        if len({*votes}) == len(votes):
            assert found == pytest.approx(np.argsort(np.argsort(-utility)) / 20)
        order = sorted(range(20), key=lambda n: found[n])
        assert [votes[n] for n in order] == sorted(votes, reverse=True)
        [first, *_] = await places(table)
        assert first.reasons[0]["extractors"] == {name: {"utility": pytest.approx(utility.max()), "score": 0.0}}
        orders.add(tuple(order))

    assert len(orders) == len(EXTRACTORS)  # each has an order of its own here


@pytest.mark.parametrize(
    ("passes", "gain", "votes"),
    [
        ([[[0.9, 0.1]], [[0.6, 0.4]]], [0.0, 0.0], [0.0, 0.0]),
        ([[[1, 0], [0, 1]], [[0.5, 0.5], [0.5, 0.5]]], [np.log(2), 0.0], [np.log(2), 0.0]),
    ],
)
async def test_passes_that_come_as_probabilities_tell_how_much_they_disagree(
    passes: list[Any], gain: list[float], votes: list[float]
) -> None:
    table = Table()
    both = {"extractors": {"bald": 1, "vote_entropy": 1}}
    await told(table, "m0", "m1", active_learning={"tasks": {"t": both}})

    await table.hears("inference_artifacts", **chunk("model", "m0", "m1", probabilities=passes, labels=["a", "a"]))

    found = {place.medium: place.reasons[0]["extractors"] for place in await places(table)}
    for image, *wanted in zip(("m0", "m1"), gain, votes, strict=True):
        utilities = found[medium_bytes(Image(image))]
        assert [utilities[name]["utility"] for name in ("bald", "vote_entropy")] == pytest.approx(wanted)


async def test_one_pass_without_an_axis_for_passes_tells_nothing_of_disagreement() -> None:
    table = Table()
    await told(table, "m0", active_learning={"tasks": {"t": {"extractors": {"bald": 1}}}})

    await table.hears("inference_artifacts", **chunk("model", "m0", probabilities=margins(0.5), labels=["a"]))

    assert await scores(table, ["m0"]) == [NEVER_SCORED]


@pytest.mark.parametrize(
    ("where", "score", "utility", "rank"),
    [("highest", 0.0, 0.9, (1, 2)), ("neutral", 0.4, 0.5, (3, 4)), ("lowest", 0.8, 0.1, (5, 6))],
)
async def test_media_in_which_the_model_found_nothing_stand_where_the_task_says(
    where: str, score: float, utility: float, rank: tuple[int, int]
) -> None:
    table = Table()
    await told(table, *IMAGES, "blind", active_learning={"tasks": {"t": {"no_prediction": where}}})
    about = {
        "labels": ["a"] * 5,
        "probabilities": margins(0.9, 0.7, 0.5, 0.3, 0.1),
        "no_prediction": [{"media_type": "image", "media_id": "blind"}],
    }

    await table.hears("inference_artifacts", **chunk("model", *IMAGES, **about))

    [blind] = [each for each in await places(table) if each.medium == medium_bytes(Image("blind"))]
    assert blind.score == pytest.approx(score)
    assert blind.rank in rank
    assert blind.reasons[0]["extractors"]["margin"]["utility"] == pytest.approx(utility)
    assert await scores(table, IMAGES) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


async def test_uncertainty_ranks_all_labels_together_and_balanced_each_by_itself() -> None:
    table, by_preset = Table(), {}
    await told(table, *IMAGES[:4])
    about = {"labels": [*"aaab"], "probabilities": margins(0.9, 0.8, 0.7, 0.1)}
    await table.hears("inference_artifacts", **chunk("model", *IMAGES[:4], **about))

    for preset in ("uncertainty", "balanced"):
        await told(table, active_learning={"preset": preset})
        by_preset[preset] = await scores(table, IMAGES[:4])

    assert by_preset["uncertainty"] == [0.0, 0.25, 0.5, 0.75]
    assert by_preset["balanced"] == pytest.approx([0.0, 1 / 3, 2 / 3, 0.0])


async def test_at_random_nothing_is_scored_but_by_extractors_that_are_named() -> None:
    table = Table()
    await told(table, *IMAGES[:2], active_learning={"preset": "random"})
    about = {"labels": [*"aa"], "probabilities": margins(0.1, 0.9)}
    await table.hears("inference_artifacts", **chunk("model", *IMAGES[:2], **about))
    assert await scores(table, IMAGES[:2]) == [NEVER_SCORED] * 2

    named = {"preset": "random", "tasks": {"t": {"extractors": {"entropy": 1}}}}
    await told(table, active_learning=named)

    assert await scores(table, IMAGES[:2]) == [0.5, 0.0]
