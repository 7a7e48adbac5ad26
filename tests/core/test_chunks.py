from itertools import groupby
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.artifacts import Columns, columns
from streams.chunks import CHUNK_BYTES, CHUNK_ROWS, ROW_BYTES, Artifacts, chunks, packed, split
from streams.decode import decode
from streams.errors import MalformedEvent
from streams.events import ArtifactsInferred
from streams.media import Image, Medium, VideoFrame
from streams.record import Headers, Record
from streams.tensors import array_of

WIDEST = "😀" * 200  # an id of as many bytes as there may be
HEADERS: Headers = [("content-type", b"application/msgpack")]
ABOUT = {
    "workspace_id": WIDEST,
    "project_id": "p",
    "timestamp": 1_700_000_000_000,
    "dataset_storage_id": WIDEST,
    "task_id": WIDEST,
    "model_id": WIDEST,
    "batch_id": "b",
    "subset": "unseen",
    "chunk": 0,
}


def ids(count: int, regions: int = 1) -> list[str]:
    return [f"m{row // regions:05}" for row in range(count)]


def sent(part: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode({**ABOUT, **part})


def heard(part: dict[str, Any]) -> ArtifactsInferred:
    event = decode(Record("t", 0, b"p", sent(part), HEADERS), "inference_artifacts")
    assert isinstance(event, ArtifactsInferred)
    return event


def ones(*shape: int, kind: str = "f4") -> NDArray[Any]:
    return np.full(shape, 1 / shape[-1], kind)


@pytest.mark.parametrize(
    ("artifacts", "least"),
    [
        (Artifacts(media=ids(2500)), 3),
        (Artifacts(media=ids(1000), features=ones(1000, 1000)), 5),
        (Artifacts(media=ids(1000), features=ones(1000, 512, 2, kind="f2")), 3),
        (Artifacts(media=ids(300), features=ones(300, 256, 4, 4, kind="f8")), 10),
        (Artifacts(media=ids(300), probabilities=ones(300, 30, 80), features=ones(300, 64)), 4),
        (Artifacts(media=ids(100), features=ones(100, 1000).astype(">f8"), probabilities=ones(100, 500)), 2),
        (Artifacts(media=ids(2000, regions=20), probabilities=ones(2000, 100), features=ones(2000, 256)), 4),
        (Artifacts(media=ids(9), features=ones(9, 220_000)), 9),
        (Artifacts(media=ids(2000), utilities={WIDEST[:199] + str(i): np.zeros(2000) for i in range(8)}), 2),
        (Artifacts(media=[f"{WIDEST[:195]}{row:05}" for row in range(2000)], labels=[WIDEST] * 2000), 4),
        (Artifacts(media=[VideoFrame(WIDEST, 2**31 + row) for row in range(2000)], labels=[[WIDEST, "l"]] * 2000), 4),
        (Artifacts(media=["m"] * 10_000, labels=[None] * 10_000), 1),
        (Artifacts(media=[], no_prediction=[VideoFrame(WIDEST, 2**31 + row) for row in range(2500)]), 3),
    ],
)
def test_chunks_stay_under_one_megabyte(artifacts: Artifacts, least: int) -> None:
    parts = [*chunks(artifacts)]

    assert len(parts) >= least
    assert max(len(sent(part)) for part in parts) < 1_000_000
    assert [medium for part in parts for medium in heard(part).media] == list_of(artifacts.media)


def list_of(media: Any) -> list[Medium]:
    return [Image(each) if isinstance(each, str) else each for each in media]


def test_chunks_are_not_smaller_than_they_must_be() -> None:
    parts = [*chunks(Artifacts(media=ids(3000), features=ones(3000, 1000)))]

    assert all(len(sent(part)) > 0.95 * CHUNK_BYTES for part in parts[:-1])


def test_every_chunk_passes_the_workers_checks() -> None:
    rng = np.random.default_rng(7)
    probabilities = rng.dirichlet(np.ones(10), size=(3000, 5)).astype("f4")
    artifacts = Artifacts(
        media=ids(3000, regions=3),
        labels=["l", None, ["k", "l"]] * 1000,
        probabilities=probabilities,
        features=rng.normal(size=(3000, 16, 2, 2)).astype("f2"),
        utilities={"own": rng.normal(size=3000)},
    )

    found = [columns(heard(part)) for part in chunks(artifacts)]

    assert len(found) > 3
    assert joined(found, "probabilities").tolist() == probabilities.astype("f8").mean(axis=1).tolist()
    assert [label for each in found for label in each.labels] == ["l", None, "k"] * 1000
    assert sum(each.left_out for each in found) == 0


def joined(parts: list[Columns], name: str) -> NDArray[np.float64]:
    return np.concatenate([getattr(each, name) for each in parts])


def test_regions_of_a_medium_are_never_separated() -> None:
    scattered = [VideoFrame("v", row % 700) for row in range(2800)]
    artifacts = Artifacts(media=scattered, utilities={"own": np.arange(2800)})

    events = [heard(part) for part in chunks(artifacts)]

    media = [[medium for medium, _ in groupby(event.media)] for event in events]
    assert len(events) > 2
    assert [medium for each in media for medium in each] == scattered[:700]
    for event in events:
        assert event.utilities is not None
        own = array_of("own", event.utilities["own"], axes=(1,))
        assert [VideoFrame("v", int(row) % 700) for row in own] == event.media


def test_a_frame_and_an_image_of_one_id_are_two_media() -> None:
    media: list[Medium] = [VideoFrame("m", 0), Image("m"), VideoFrame("m", 1), Image("m")]

    [rows] = split(media, None, 1)

    assert rows.tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize(
    ("artifacts", "named"),
    [
        (Artifacts(media=["a", "b"], features=ones(2, 250_000)), "image:a has 10000"),
        (Artifacts(media=["a", *["b"] * 3], features=ones(4, 100_000)), "image:b has 12002"),
        (Artifacts(media=[VideoFrame("v", 7)] * 20_000), "frame:v:7 has 1"),
        (Artifacts(media=["a", "b"], labels=["l", [WIDEST] * 2000]), "image:b has"),
    ],
)
def test_a_medium_that_does_not_fit_into_a_chunk_is_refused(artifacts: Artifacts, named: str) -> None:
    with pytest.raises(MalformedEvent) as why:
        list(chunks(artifacts))

    assert str(why.value).startswith("a medium must fit into a chunk of 900000 bytes: ")
    assert named in str(why.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": ["l"]}, "labels must have as many rows as media, 2, not 1"),
        ({"labels": []}, "labels must have as many rows as media, 2, not 0"),
        ({"probabilities": [[1.0]] * 3}, "probabilities must have as many rows as media, 2, not 3"),
        ({"features": ones(1, 5)}, "features must have as many rows as media, 2, not 1"),
        ({"features": ones(0, 5)}, "features must have as many rows as media, 2, not 0"),
        ({"utilities": {"own": [1, 2], "other": [1, 2, 3]}}, "utilities.other must have as many rows as media, 2, no"),
        ({"utilities": {"own": 0.5}}, "utilities.own must have as many rows as media, 2, not a single number"),
        ({"media": [], "utilities": {"own": [1]}}, "utilities.own must have as many rows as media, 0, not 1"),
    ],
)
def test_columns_of_unequal_length_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(MalformedEvent) as why:
        list(chunks(Artifacts(**{"media": ["a", "b"], **changes})))

    assert named in str(why.value)


def test_media_without_a_prediction_come_through_after_the_others() -> None:
    blind: list[str | Medium] = [*(f"b{i}" for i in range(CHUNK_ROWS)), VideoFrame("v", 1)]
    artifacts = Artifacts(media=["m"], labels=["l"], probabilities=[[1.0]], no_prediction=blind)

    events = [heard(part) for part in chunks(artifacts)]

    assert [len(event.media) for event in events] == [1, 0, 0]
    assert [medium for event in events for medium in event.no_prediction] == list_of(blind)
    assert all(columns(event).left_out == 0 for event in events)


@pytest.mark.parametrize("columns_", [{}, {"labels": [], "features": ones(0, 5), "utilities": {"own": []}}])
def test_nothing_makes_no_chunk(columns_: dict[str, Any]) -> None:
    assert list(chunks(Artifacts(media=[], **columns_))) == []


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_numbers_are_sent_in_their_own_precision(kind: str) -> None:
    numbers = np.array([[1 / 3, -2.5], [np.inf, 0]]).astype(kind)

    [part] = chunks(Artifacts(media=["a", "b"], features=numbers))

    assert len(part["features"].data) == numbers.nbytes
    assert array_of("features", part["features"], axes=(2,)).tolist() == numbers.astype("f8").tolist()


MEDIA = st.lists(
    st.builds(Image, st.sampled_from(["a", "b", WIDEST])) | st.builds(VideoFrame, st.just("a"), st.integers(0, 20)),
    max_size=60,
)


def most(media: list[Medium]) -> int:
    """How many rows the medium with the most of them has."""
    return max(map(media.count, media), default=0)


LABELS = st.none() | st.sampled_from(["l", WIDEST]) | st.lists(st.just("l"), max_size=3)


@given(media=MEDIA, data=st.data(), row_bytes=st.integers(ROW_BYTES, 300_000))
def test_what_is_split_is_what_was_given(media: list[Medium], data: st.DataObject, row_bytes: int) -> None:
    labels = data.draw(st.none() | st.lists(LABELS, min_size=len(media), max_size=len(media)))
    fits = most(media) * (row_bytes + 2000) <= CHUNK_BYTES
    row_bytes = row_bytes if fits else ROW_BYTES

    parts = [part.tolist() for part in split(media, labels, row_bytes)]

    together = [row for part in parts for row in part]
    first = {medium: media.index(medium) for medium in media}
    assert together == sorted(range(len(media)), key=lambda row: (first[media[row]], row))
    assert sum(len({media[row] for row in part}) for part in parts) == len(first)  # each medium is in one of them
    assert all(0 < len(part) * row_bytes <= CHUNK_BYTES for part in parts)


@given(media=MEDIA.filter(lambda media: 0 < most(media) <= 40), data=st.data(), width=st.sampled_from([1, 3, 10_000]))
def test_what_comes_out_of_the_chunks_is_what_was_given(media: list[Medium], data: st.DataObject, width: int) -> None:
    own = np.array(data.draw(st.lists(st.floats(), min_size=len(media), max_size=len(media))))
    labels = data.draw(st.lists(LABELS, min_size=len(media), max_size=len(media)))
    features = np.repeat(np.arange(len(media), dtype="f2").reshape(-1, 1), width, axis=1)
    artifacts = Artifacts(media=media, labels=labels, features=features, utilities={"own": own})
    order = sorted(range(len(media)), key=lambda row: (media.index(media[row]), row))

    events = [heard(part) for part in chunks(artifacts)]

    assert [each for event in events for each in event.media] == [media[row] for row in order]
    assert [each for event in events for each in event.labels or []] == [labels[row] for row in order]
    found = [array_of("own", (event.utilities or {})["own"], axes=(1,)) for event in events]
    np.testing.assert_array_equal(np.concatenate(found), own[order])
    assert [row for event in events for row in rows_of(event)] == order


def rows_of(event: ArtifactsInferred) -> list[int]:
    assert event.features is not None
    return [int(row) for row in array_of("features", event.features, axes=(2,))[:, 0]]


def test_texts_and_numbers_of_numpy_are_taken_as_they_are() -> None:
    labels = np.array(["cat", "dog"])
    counts = np.array([[1, 2], [3, 4]], dtype=np.uint8)

    [part] = chunks(Artifacts(media=[*np.array(["a", "b"])], labels=[*labels], features=counts))

    assert part["media"] == [Image("a"), Image("b")]
    assert part["labels"] == ["cat", "dog"]
    assert (part["features"].dtype, part["features"].shape) == ("<f8", [2, 2])


def test_whole_numbers_are_weighed_as_the_doubles_that_are_sent() -> None:
    wide = Artifacts(media=[f"m{n}" for n in range(1000)], features=np.ones((1000, 800), np.uint8))

    assert max(len(msgspec.msgpack.encode(part)) for part in chunks(wide)) < 1_000_000


def test_what_all_chunks_carry_leaves_less_room_for_rows() -> None:
    many = Artifacts(media=[f"m{n}" for n in range(100)], features=ones(100, 1000))

    assert len([*chunks(many, 100_000)]) > len([*chunks(many, 400_000)]) > len([*chunks(many)])


@pytest.mark.parametrize(
    ("artifacts", "named"),
    [
        (Artifacts(media=["a", "b"], features=[[1.0], [1.0, 2.0]]), "features must be an array"),
        (Artifacts(media=["a"], features=[["x"]]), "features must be real numbers"),
        (Artifacts(media=["a"], features=[[1j]]), "features must be real numbers"),
        (Artifacts(media=["a"], features=[[10**400]]), "features must be real numbers"),
        (Artifacts(media=["a"], features=[[None]]), "features must be real numbers"),  # type: ignore[arg-type]
        (Artifacts(media=["a"], features=np.float64(3)), "features must have as many rows as media, 1, not a single"),
        (Artifacts(media=[1]), "media must be ids of images, or media, not 1"),  # type: ignore[list-item]
    ],
)
def test_what_is_no_column_is_named(artifacts: Artifacts, named: str) -> None:
    with pytest.raises(MalformedEvent) as why:
        list(chunks(artifacts))

    assert str(why.value).startswith(named)


def test_labels_may_be_whole_numbers_as_scikit_learn_has_them() -> None:
    [part] = chunks(Artifacts(media=["a", "b", "c"], labels=[1, np.int64(2), np.array([3, 4])]))  # type: ignore[list-item]

    assert part["labels"] == ["1", "2", ["3", "4"]]


@pytest.mark.parametrize("labels", [[1.5], "a", [object()], [[None]], [True], 5, {"a"}, [np.array("x")]])
def test_labels_that_are_no_texts_are_named(labels: Any) -> None:
    with pytest.raises(MalformedEvent, match="labels must be"):
        list(chunks(Artifacts(media=["a"], labels=labels)))


def test_a_single_text_is_not_taken_for_the_media_that_its_letters_would_be() -> None:
    for media in ("image-7", b"image-7", {"image-7"}, {"image-7": 1}, 7, None):
        with pytest.raises(MalformedEvent, match="media must be a list, not"):
            list(chunks(Artifacts(media=media)))  # type: ignore[arg-type]


def test_values_are_packed_by_their_bytes_and_number_in_order() -> None:
    values = [{"media_id": f"m{n}", "thumbnail": "x" * 3000} for n in range(1000)] + ["short"] * 2500

    parts = list(packed(values))

    assert [value for part in parts for value in part] == values
    assert max(len(msgspec.msgpack.encode(part)) for part in parts) < 1_000_000
    assert len(parts[-1]) < len(parts[-2]) == 1000
