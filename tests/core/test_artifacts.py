from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from streams.artifacts import SUM_TOLERANCE, Columns, columns
from streams.errors import MalformedEvent
from streams.events import ArtifactsInferred
from streams.media import Image, VideoFrame
from streams.tensors import Tensor

NAN, INF = float("nan"), float("inf")


def inferred(rows: int = 2, **changes: Any) -> ArtifactsInferred:
    event = ArtifactsInferred(
        workspace_id="w",
        project_id="p",
        timestamp=1,
        dataset_storage_id="d",
        task_id="t",
        model_id="n",
        batch_id="b",
        subset="unseen",
        chunk=0,
        media=[Image(f"m{row}") for row in range(rows)],
    )
    return msgspec.structs.replace(event, **changes)


def tensor(sent: ArrayLike) -> Tensor:
    return Tensor.of(np.asarray(sent, dtype=np.float64))


def test_a_chunk_without_columns_has_only_its_media() -> None:
    event = inferred(media=[Image("m"), VideoFrame("v", 3), Image("m")])

    assert columns(event) == Columns([Image("m"), VideoFrame("v", 3), Image("m")], [None] * 3, None, None, None, {}, 0)


def test_a_whole_chunk_comes_through() -> None:
    event = inferred(
        labels=["l", None],
        probabilities=[[0.25, 0.75], [1.0, 0.0]],
        classes=["k", "l"],
        features=tensor([[1, 2, 3], [4, 5, 6]]),
        utilities={"own": [7.0, 8.0]},
    )

    found = columns(event)

    assert (found.media, found.labels, found.left_out) == ([Image("m0"), Image("m1")], ["l", None], 0)
    assert found.probabilities is not None
    assert found.features is not None
    assert found.probabilities.tolist() == [[0.25, 0.75], [1.0, 0.0]]
    assert found.features.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": []}, "labels must have as many rows as media, 2, not 0"),
        ({"labels": ["l"] * 3}, "labels must have as many rows as media, 2, not 3"),
        ({"probabilities": [[1.0]]}, "probabilities must have as many rows as media, 2, not 1"),
        ({"probabilities": tensor(np.full((3, 2, 2), 0.5))}, "probabilities must have as many rows as media, 2, not 3"),
        ({"features": tensor(np.zeros((0, 4)))}, "features must have as many rows as media, 2, not 0"),
        ({"features": [[1.0]] * 3}, "features must have as many rows as media, 2, not 3"),
        ({"utilities": {"a": [1.0, 2.0], "b": [1.0]}}, "utilities.b must have as many rows as media, 2, not 1"),
        ({"utilities": {"a": tensor([1, 2, 3])}}, "utilities.a must have as many rows as media, 2, not 3"),
        ({"media": [], "features": [[1.0]]}, "features must have as many rows as media, 0, not 1"),
        ({"probabilities": [[0.5, 0.5], [1.0]]}, "probabilities must be an array"),
        ({"probabilities": tensor([0.5, 0.5])}, "probabilities must have 2 or 3 axes, not 1"),
        ({"probabilities": tensor(np.ones((2, 1, 1, 1)))}, "probabilities must have 2 or 3 axes, not 4"),
        ({"features": tensor(np.ones((2, 3, 2, 2, 2)))}, "features must have at most 3 axes behind the rows"),
        ({"features": tensor(np.ones((2, 1, 1, 3, 2, 2)))}, "features must have 1 or 2 or 3 or 4 or 5 axes, not 6"),
        ({"utilities": {"a": tensor([[1], [2]])}}, "utilities.a must have 1 axes, not 2"),
        ({"features": Tensor(dtype="<f4", shape=[2, 2], data=bytes(15))}, "features.data must have 16 bytes"),
        ({"probabilities": [[], []]}, "probabilities must have no empty axis, not the shape (2, 0)"),
        ({"probabilities": tensor(np.zeros((2, 0, 3)))}, "probabilities must have no empty axis, not the shape (2, 0,"),
        ({"features": tensor(np.zeros((2, 3, 0, 1)))}, "features must have no empty axis, not the shape (2, 3, 0, 1)"),
        ({"media": [], "features": tensor(np.zeros((0, 0)))}, "features must have no empty axis"),
    ],
)
def test_columns_that_do_not_fit_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(MalformedEvent) as why:
        columns(inferred(**changes))

    assert named in str(why.value)


@pytest.mark.parametrize("odd", [NAN, INF, -INF])
@pytest.mark.parametrize(
    "column",
    [
        lambda odd: {"probabilities": tensor([[1, 0], [odd, 0.5], [0, 1]])},
        lambda odd: {"probabilities": tensor([[[1, 0]] * 2, [[1, 0], [0, odd]], [[0, 1]] * 2])},
        lambda odd: {"features": tensor([[1, 0], [2, odd], [3, 0]])},
        lambda odd: {"features": tensor(np.where(np.arange(24).reshape(3, 2, 2, 2) == 13, odd, 1.0))},
        lambda odd: {"utilities": {"a": [1.0, 2.0, 3.0], "b": [1.0, odd, 3.0]}},
    ],
    ids=["probabilities", "passes", "features", "spatial", "utilities"],
)
def test_a_row_with_a_number_that_is_not_finite_is_left_out_by_itself(column: Any, odd: float) -> None:
    event = inferred(3, labels=["x", "y", "z"], **{"features": [[1.0]] * 3, **column(odd)})

    found = columns(event)

    assert (found.media, found.labels, found.left_out) == ([Image("m0"), Image("m2")], ["x", "z"], 1)
    for array in (found.probabilities, found.features):
        assert array is None or (len(array) == 2 and np.isfinite(array).all())


def test_each_column_leaves_out_its_own_rows() -> None:
    event = inferred(
        4,
        probabilities=[[NAN, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]],
        features=[[1.0], [INF], [3.0], [4.0]],
        utilities={"own": [0.0, 0.0, -INF, 0.0]},
        classes=["k", "l"],
    )

    found = columns(event)

    assert (found.media, found.labels, found.left_out) == ([Image("m3")], ["l"], 3)
    assert found.features is not None
    assert found.features.tolist() == [[4.0]]


def test_a_chunk_of_which_no_row_is_finite_is_empty() -> None:
    event = inferred(probabilities=[[NAN, NAN]] * 2, features=tensor(np.full((2, 3, 2, 2), INF)), classes=["k", "l"])

    found = columns(event)

    assert (found.media, found.labels, found.left_out) == ([], [], 2)
    assert found.probabilities is not None
    assert found.features is not None
    assert (found.probabilities.shape, found.features.shape) == ((0, 2), (0, 3))


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_empty_chunk_is_one(multi_label: bool) -> None:
    event = inferred(
        0,
        multi_label=multi_label,
        labels=[],
        probabilities=tensor(np.zeros((0, 5, 2))),
        features=tensor(np.zeros((0, 3, 7, 7))),
        utilities={"own": []},
        classes=["k", "l"],
    )

    found = columns(event)

    assert (found.media, found.labels, found.left_out) == ([], [], 0)
    assert found.probabilities is not None
    assert found.features is not None
    assert (found.probabilities.shape, found.features.shape) == ((0, 2), (0, 3))


@pytest.mark.parametrize(
    ("sent", "multi_label", "named"),
    [
        ([[1.1, -0.1], [1, 0]], False, "probabilities must be in 0..1"),
        ([[1, 0], [-2e-6, 1]], True, "probabilities must be in 0..1"),
        ([[1, 0], [1, 1.000002]], True, "probabilities must be in 0..1"),
        ([[1, 0], [0.4, 0.2]], False, "probabilities must sum to 1 in each row, not to 0.6; or set multi_label"),
        ([[1, 1], [1, 0]], False, "probabilities must sum to 1 in each row, not to 2"),
        ([[0, 0], [1, 0]], False, "probabilities must sum to 1 in each row, not to 0"),
        ([[[0.5, 0.5], [1, 0.25]], [[1, 0], [1, 0]]], False, "probabilities must sum to 1 in each row, not to 1.25"),
        ([[[0.25, 0.25], [0.75, 0.75]]] * 2, False, "probabilities must sum to 1 in each row"),
    ],
)
def test_numbers_that_are_no_probabilities_are_refused(sent: ArrayLike, multi_label: bool, named: str) -> None:
    with pytest.raises(MalformedEvent) as why:
        columns(inferred(probabilities=tensor(sent), multi_label=multi_label))

    assert named in str(why.value)


def test_a_distribution_may_be_as_far_off_as_half_precision_is() -> None:
    just, over = 1 - 0.9 * SUM_TOLERANCE, 1 - 1.1 * SUM_TOLERANCE

    assert columns(inferred(1, probabilities=[[just, 0.0]])).left_out == 0
    with pytest.raises(MalformedEvent, match="must sum to 1"):
        columns(inferred(1, probabilities=[[over, 0.0]]))


@pytest.mark.parametrize("multi_label", [True, False])
def test_a_probability_may_be_out_of_its_range_by_what_rounding_adds(multi_label: bool) -> None:
    event = inferred(probabilities=[[1.0000001, -1e-7], [0.5, 0.5]], multi_label=multi_label)

    found = columns(event)

    assert found.probabilities is not None
    assert found.probabilities.tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_thousand_classes_in_half_precision_are_a_distribution() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 1000)) * 3
    halves = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float16)

    assert columns(inferred(50, probabilities=Tensor.of(halves))).left_out == 0


def test_probabilities_of_many_labels_need_not_sum_to_one() -> None:
    event = inferred(multi_label=True, probabilities=[[1.0, 1.0], [0.0, 0.0]], classes=["k", "l"])

    found = columns(event)

    assert found.labels == [None, None]
    assert found.probabilities is not None
    assert found.probabilities.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_passes_become_their_mean() -> None:
    passes = [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.5, 0.5], [0.0, 0.25, 0.75]]]

    found = columns(inferred(probabilities=tensor(passes), classes=["j", "k", "l"]))

    assert found.probabilities is not None
    assert found.probabilities.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.375, 0.625]]
    assert found.labels == ["j", "l"]  # of equals, the first


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((2, 12), (2, 12)),
        ((2, 1), (2, 1)),
        ((2, 1, 12), (2, 12)),
        ((2, 12, 1), (2, 12)),
        ((2, 12, 1, 1), (2, 12)),
        ((2, 1, 1, 12), (2, 12)),
        ((2, 1, 1, 1), (2, 1)),
        ((2, 3, 4), (2, 3)),
        ((2, 3, 2, 2), (2, 3)),
        ((2, 3, 1, 4), (2, 3)),
        ((2, 1, 3, 4), (2, 3)),
        ((2,), (2, 1)),
        ((2, 1, 3, 2, 2), (2, 3)),
        ((2, 3, 2, 2, 1), (2, 3)),
        ((1, 3, 4), (1, 3)),
    ],
)
def test_features_are_squeezed_and_their_spatial_axes_averaged(shape: tuple[int, ...], wanted: tuple[int, int]) -> None:
    sent = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)

    found = columns(inferred(shape[0], features=Tensor.of(sent)))

    assert found.features is not None
    assert found.features.shape == wanted
    assert found.features.tolist() == sent.reshape(*wanted, -1).mean(axis=2).tolist()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"probabilities": [[0.2, 0.8], [0.7, 0.3]], "classes": ["k", "l"]}, ["l", "k"]),
        ({"probabilities": [[0.5, 0.5], [0.3, 0.7]], "classes": ["k", "l"]}, ["k", "l"]),
        ({"probabilities": [[0.2, 0.8], [0.7, 0.3]]}, [None, None]),
        ({"classes": ["k", "l"]}, [None, None]),
        ({"probabilities": [[0.2, 0.8]] * 2, "classes": ["k", "l"], "multi_label": True}, [None, None]),
        ({"probabilities": [[0.2, 0.8]] * 2, "classes": ["k", "l"], "labels": [None, "k"]}, [None, "k"]),
        ({"labels": [["l", "k"], []], "multi_label": True}, ["l", None]),
        ({"labels": [["l", "k"], "k"]}, ["l", "k"]),
    ],
)
def test_the_label_is_what_was_sent_or_the_class_of_the_largest_probability(
    changes: dict[str, Any], wanted: list[str | None]
) -> None:
    assert columns(inferred(**changes)).labels == wanted


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("classes", [[], ["k"], ["k", "l", "m"]])
def test_classes_of_another_number_than_the_probabilities_are_refused(classes: list[str], multi_label: bool) -> None:
    event = inferred(probabilities=[[1.0, 0.0]] * 2, classes=classes, multi_label=multi_label)

    with pytest.raises(MalformedEvent) as why:
        columns(event)

    assert str(why.value) == f"classes must name the 2 columns of probabilities, not {len(classes)}"


ROWS = st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), max_size=6)


@given(features=ROWS, passes=st.integers(1, 3))
def test_what_is_kept_is_finite_and_in_order(features: list[list[float]], passes: int) -> None:
    rows = len(features)
    odd = [row for row, each in enumerate(features) if not np.isfinite(each).all()]
    spatial = np.repeat(np.array(features).reshape(rows, 2, 1), 4, axis=2)
    even = tensor(np.full((rows, passes, 2), 0.5))

    found = columns(inferred(rows, features=Tensor.of(spatial), probabilities=even, classes=["k", "l"]))

    assert found.left_out == len(odd)
    assert found.media == [Image(f"m{row}") for row in range(rows) if row not in odd]
    assert found.features is not None
    assert found.features.tolist() == [each for row, each in enumerate(features) if row not in odd]
    assert found.labels == ["k"] * len(found.media)


def test_the_mean_of_a_map_that_overflows_leaves_its_row_out() -> None:
    found = columns(inferred(1, features=tensor(np.full((1, 2, 2, 2), 1e308))))

    assert (found.left_out, found.media) == (1, [])
