import json
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import fold as folds
from streams.errors import MalformedEvent
from streams.media import Image
from tables.rows import GRANT, LABEL, Kind, hashed, medium_bytes, number_of
from tests.core.table import NOW, Table, chunk, picks


async def test_of_two_events_the_later_timestamp_wins_and_among_equals_the_logs_order() -> None:
    table = Table()
    for at, name in ((NOW, "first"), (NOW - 1, "older"), (NOW, "second")):
        await table.hears("project_updates", timestamp=at, dataset_storage_id="s", name=name)

    [told] = table.kind(Kind.PROJECT).values()

    assert json.loads(told[8:])["name"] == "second"


def image(n: int) -> dict[str, Any]:
    return {"media_type": "image", "media_id": f"m{n}"}


@pytest.mark.parametrize(
    ("batches", "kept"),
    [
        # model, batch, whether it is complete; in order of time
        ("a1+ b2+ c3+", "a1 b2 c3"),
        ("a1+ b2+ c3+ d4+ e5+", "b2 c3 d4 e5"),  # the oldest goes
        ("a1+ a2-", "a1 a2"),  # the former scores stand
        ("a1+ a2+ b3- c4-", "a2 b3 c4"),  # what was superseded goes
        ("a1+ b2+ b3- b4- b5-", "a1 b2 b4 b5"),  # it was begun once more, and again
        ("a1+ b2+ c3- d4-", "a1 b2 c3 d4"),
        ("a1+ b2- c3- d4-", "a1 c3 d4"),  # of three that come, the first goes
        ("a1+ b2- c3+ d4+ e5+", "b2 c3 d4 e5"),
        ("a1+ a1+", "a1"),
    ],
)
async def test_a_batch_that_comes_destroys_nothing_that_counts(batches: str, kept: str) -> None:
    table = Table()
    for batch in batches.split():
        about = {"batch_id": batch[:2], "timestamp": NOW + int(batch[1]), "last": batch[2] == "+"}
        await table.hears("inference_artifacts", **chunk(batch[0], "m1", **about))
    await table.hears("inference_artifacts", **chunk("old", "m1", timestamp=NOW - 1))  # comes late

    names = {0: "", number_of("batch of old"): "old", **{number_of(each): each for each in kept.split()}}
    found = [names[each] for each in table.slots("m1")["batch"]]
    assert found == [*kept.split()[::-1], "old", "", "", ""][:4]


async def test_a_chunk_that_comes_again_with_another_time_stays_in_its_slot() -> None:
    table = Table()
    for at in (NOW, NOW - 5, NOW + 5):
        await table.hears("inference_artifacts", **chunk("a", "m1", timestamp=at))

    assert sorted(table.slots("m1")["at"]) == [-1, -1, -1, NOW + 5]


async def test_what_a_chunk_said_of_a_medium_stands_though_another_found_nothing_in_it() -> None:
    blind = {"no_prediction": [image(1)], "media": [], "probabilities": [], "features": []}
    told = chunk("a", "m1", chunk=1, last=False)
    for order in ((chunk("a", **blind), told), (told, chunk("a", **blind))):
        table = Table()
        for each in order:
            await table.hears("inference_artifacts", **each)

        assert np.nanmax(table.slots("m1")["margin"]) == pytest.approx(0.5)


async def test_media_without_a_prediction_have_a_row_without_utilities() -> None:
    table = Table()
    blind = [{"media_type": "image", "media_id": each} for each in ("m1", "m2")]

    await table.hears("inference_artifacts", **chunk("a", "m1", no_prediction=blind))

    assert np.nanmax(table.slots("m1")["margin"]) == pytest.approx(0.5)
    assert (table.slots("m2")["at"].max(), np.isnan(table.slots("m2")["margin"]).all()) == (NOW, True)


async def test_of_a_batchs_seen_media_those_with_the_smallest_hash_are_kept_in_whatever_order_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folds, "REFERENCES", 5)
    images = [f"m{n}" for n in range(12)]
    kept = []
    for order in (images, images[::-1]):
        table = Table()
        for n, part in enumerate((order[:4], order[4:])):
            await table.hears("inference_artifacts", **chunk("a", *part, subset="seen", chunk=n, last=False))
        kept.append({key[32:44] for key in table.kind(Kind.REFERENCE)})

    assert kept[0] == kept[1] == set(sorted((medium_bytes(Image(each)) for each in images), key=digest)[:5])


def digest(name: bytes) -> bytes:
    return blake2b(name, digest_size=8).digest()


async def test_of_a_long_video_the_frames_that_are_kept_are_spread_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "REFERENCES", 20)
    table = Table()
    frames = [{"media_type": "video_frame", "media_id": "v", "frame_index": n} for n in range(200)]
    seen = {"subset": "seen", "last": False, "media": frames}

    await table.hears("inference_artifacts", **{**chunk("a", *(f"{n}" for n in range(200))), **seen})

    kept = [int.from_bytes(key[40:44], "big") for key in table.kind(Kind.REFERENCE)]
    assert len(kept) == 20
    assert max(kept) > 100


async def test_of_long_features_fewer_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "REFERENCE_NUMBERS", 10)
    table = Table()

    await table.hears("inference_artifacts", **chunk("a", *(f"m{n}" for n in range(12)), subset="seen", last=False))

    assert len(table.kind(Kind.REFERENCE)) == 5  # of two numbers each


async def test_unseen_rows_are_measured_against_the_seen_ones_of_their_batch() -> None:
    table = Table()
    seen = [[-5.0, 0.0], [0.0, 0.1], [5.0, 0.0]]

    await table.hears(
        "inference_artifacts",
        **chunk("a", "s1", "s2", "s3", subset="seen", last=False, features=seen, labels=["x"] * 3),
    )
    await table.hears("inference_artifacts", **chunk("a", "m1", chunk=1, features=[[1.0, 5.0]]))

    assert table.slots("m1")["fre_class_agnostic"][0] == pytest.approx((5 - 0.1 / 3) ** 2, rel=1e-4)


def labels_of(table: Table) -> dict[bytes, int]:
    """What people said of media, by task and medium."""
    return {key: int(np.frombuffer(row, LABEL)["label"][0]) for key, row in table.kind(Kind.LABEL).items()}


async def test_the_labels_that_seen_media_have_are_kept_also_when_their_batch_has_ended() -> None:
    table = Table()
    about = {"subset": "seen", "last": False, "labels": ["cat", None, "dog", "cat"]}
    await table.hears("inference_artifacts", **chunk("a", "m1", "m2", "m3", "m3", **about))  # m3 in two regions
    await table.hears("inference_artifacts", **chunk("a", "m4", chunk=1, labels=["cat"]))

    task, (m1, m3) = hashed("t"), (medium_bytes(Image(each)) for each in ("m1", "m3"))
    assert table.kind(Kind.REFERENCE) == {}
    assert labels_of(table) == {task + m1: number_of("cat"), task + m3: number_of("dog")}


async def test_what_a_model_predicts_of_seen_media_is_no_label_that_a_person_gave() -> None:
    table = Table()

    await table.hears("inference_artifacts", **chunk("a", "m1", subset="seen", classes=["cat", "dog"]))

    assert labels_of(table) == {}


async def test_of_two_labels_of_a_medium_the_later_one_counts_in_whatever_order_they_come() -> None:
    for order in ((NOW, NOW + 1), (NOW + 1, NOW)):
        table = Table()
        for at in order:
            about = {"subset": "seen", "labels": [f"said at {at}"], "timestamp": at, "batch_id": f"b{at}"}
            await table.hears("inference_artifacts", **chunk("a", "m1", **about))

        assert [*labels_of(table).values()] == [number_of(f"said at {NOW + 1}")]


async def test_a_label_goes_with_its_medium() -> None:
    table = Table()
    await table.hears("inference_artifacts", **chunk("a", "m1", subset="seen", labels=["cat"]))
    await table.hears("media_deletions", dataset_storage_id="s", media=[image(1)], timestamp=NOW + 1)

    table.sweep()

    assert labels_of(table) == {}


async def test_features_of_another_length_than_their_batchs_are_refused_with_their_chunk() -> None:
    table = Table()
    await table.hears(
        "inference_artifacts", **chunk("a", "s1", "s2", subset="seen", features=[[1.0], [2.0]], last=False)
    )
    before = dict(table)

    for subset in ("seen", "unseen"):
        with pytest.raises(MalformedEvent, match="features must have 1 columns, as others of their batch, not 2"):
            await table.hears("inference_artifacts", **chunk("a", "s3", subset=subset, features=[[1.0, 2.0]], chunk=1))

    assert table == before


async def test_a_batch_has_at_most_eight_utilities_of_its_producer() -> None:
    table = Table()
    for n in range(2):
        own = {"utilities": {f"u{n}{each}": [1.0] for each in range(4)}}
        await table.hears("inference_artifacts", **chunk("a", "m1", chunk=n, last=False, **own))

    with pytest.raises(MalformedEvent, match="utilities must be at most 8 in a batch, not 9"):
        await table.hears("inference_artifacts", **chunk("a", "m1", chunk=2, utilities={"ninth": [1.0]}))


async def test_references_go_with_the_end_of_their_batch_and_those_of_a_batch_that_is_silent_with_anothers() -> None:
    table = Table()
    day = 24 * 3600 * 1000
    for model, at in (("dead", NOW - day - 1), ("coming", NOW - day), ("b", NOW)):
        await table.hears("inference_artifacts", **chunk(model, "m1", subset="seen", last=False, timestamp=at))
    assert len(table.kind(Kind.REFERENCE)) == 3

    await table.hears("inference_artifacts", **chunk("b", "m3", chunk=1))

    [left] = table.kind(Kind.REFERENCE)
    assert left[8:16] == hashed("coming")


async def test_two_models_that_are_inferred_at_the_same_time_do_not_disturb_each_other() -> None:
    table = Table()
    seen = {"subset": "seen", "last": False, "labels": ["x"] * 3}
    for model in ("a", "b"):
        await table.hears("inference_artifacts", **chunk(model, "s1", "s2", "s3", **seen))
    for model in ("b", "a"):
        await table.hears("inference_artifacts", **chunk(model, "m1", chunk=1))

    assert np.isfinite(table.slots("m1")["fre_class_agnostic"][:2]).all()


async def test_a_chunk_that_comes_twice_changes_nothing_though_the_references_have_gone() -> None:
    table = Table()
    seen = {"subset": "seen", "last": False, "labels": ["x"] * 3}
    await table.hears("inference_artifacts", **chunk("a", "s1", "s2", "s3", **seen))
    for n, last in ((1, False), (2, True)):
        await table.hears("inference_artifacts", **chunk("a", f"m{n}", chunk=n, last=last))
    before = dict(table)

    for n, last in ((1, False), (2, True)):
        await table.hears("inference_artifacts", **chunk("a", f"m{n}", chunk=n, last=last))

    assert table == before


async def test_a_batch_that_is_told_once_more_has_its_references_once_more() -> None:
    table = Table()
    for at in (NOW, NOW + 1):
        seen = {"subset": "seen", "last": False, "labels": ["x"] * 3}
        await table.hears("inference_artifacts", **chunk("a", "s1", "s2", "s3", timestamp=at, **seen))
        await table.hears("inference_artifacts", **chunk("a", "m1", chunk=1, timestamp=at))

        assert np.isfinite(table.slots("m1")["fre_class_agnostic"][0])
        assert table.kind(Kind.REFERENCE) == {}


async def test_who_asked_first_keeps_a_medium_until_it_runs_out_or_a_reset() -> None:
    table = Table()

    async def holders(offset: int, request: str, **more: Any) -> dict[bytes, int]:
        about = {"change": "granted", "request_id": request, "media": picks("m1", "m2"), **more}
        await table.hears("active_set_events", offset, **about)
        rows = table.kind(Kind.GRANT)
        return {key: int(np.frombuffer(row, GRANT)["holder"][0]) for key, row in rows.items()}

    first = await holders(0, "first", media=picks("m1"))
    lease = await holders(1, "lease", expires_at=NOW + 10)
    again = await holders(2, "again")
    later = await holders(3, "later", timestamp=NOW + 10)
    await table.hears("active_set_events", 4, change="reset", request_id="reset")
    after = await holders(5, "after", timestamp=NOW + 11)

    m1, m2 = (medium_bytes(Image(each)) for each in ("m1", "m2"))
    first_, lease_, later_, after_ = (number_of(each) for each in ("first", "lease", "later", "after"))
    assert first == {m1: first_}
    assert lease == again == {m1: first_, m2: lease_}
    assert later == {m1: first_, m2: later_}
    assert after == {m1: after_, m2: after_}


async def test_a_medium_that_is_named_twice_in_a_grant_is_granted_once_for_its_latest_upload() -> None:
    for order in ((5, 9), (9, 5)):
        table = Table()
        media = [{**picks("m1")[0], "uploaded_at": at} for at in order]

        await table.hears("active_set_events", change="granted", request_id="r", media=media)

        [row] = table.kind(Kind.GRANT).values()
        assert np.frombuffer(row, GRANT)["uploaded_at"] == 9


numbers = st.integers(0, 3)
many = st.lists(numbers)
times = st.integers(NOW, NOW + 3)
TOLD: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "project_updates": {"name": numbers.map(str), "dataset_storage_id": st.just("s")},
    "media_uploads": {"media": many.map(lambda ns: [image(n) for n in ns]), "dataset_storage_id": st.just("s")},
    "media_deletions": {"media": many.map(lambda ns: [image(n) for n in ns]), "dataset_storage_id": st.just("s")},
    "annotation_updates": {"media_id": numbers.map(str),
                           "states": st.sampled_from([{"t": "none"}, {"t": "annotated"}])},
    "model_activations": {"task_id": st.just("t"), "model_id": numbers.map(str)},
    "inference_artifacts": {"model": numbers.map(str), "images": many.map(lambda ns: [f"m{n}" for n in ns]),
                            "chunk": numbers, "last": st.booleans(), "subset": st.sampled_from(["seen", "unseen"])},
    "active_set_events": {"change": st.sampled_from(["granted", "reset"]), "request_id": numbers.map(str),
                          "media": st.tuples(st.sets(numbers), times).map(
                              lambda told: [{**each, "uploaded_at": told[1]}
                                            for each in picks(*(f"m{n}" for n in told[0]))])},
    "project_deletions": {},
}  # fmt: skip
histories = st.fixed_dictionaries(
    {topic: st.lists(st.fixed_dictionaries({"timestamp": times, **told}), max_size=4) for topic, told in TOLD.items()}
)


@given(history=histories, random=st.randoms(use_true_random=False))
async def test_topics_that_are_interleaved_anyhow_fold_to_the_same_rows(
    history: dict[str, list[dict[str, Any]]], random: Any
) -> None:
    tables = []
    for shuffled in (False, True):
        table, left = Table(), {topic: [*enumerate(map(dict, events))] for topic, events in history.items()}
        while any(left.values()):
            topics = [topic for topic in left if left[topic]]
            topic = random.choice(topics) if shuffled else topics[0]
            offset, event = left[topic].pop(0)
            if topic == "inference_artifacts":
                event = chunk(event.pop("model"), *event.pop("images"), **event)
            await table.hears(topic, offset, **event)
            if shuffled and random.random() < 0.5:
                table.sweep()
        table.sweep()
        tables.append(table)

    assert tables[0] == tables[1]
