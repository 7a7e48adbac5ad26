import numpy as np
import pytest

from agents.score import score
from streams.artifacts import Columns
from streams.media import Image, Medium

M1, M2 = Image("m1"), Image("m2")
SEEN = np.array([[-5.0, 0.0], [0.0, 0.1], [5.0, 0.0]])


def columns(
    *media: Medium, labels: list[str | None] | None = None, probabilities: object = None, features: object = None
) -> Columns:
    return Columns(
        [*media],
        labels or [None] * len(media),
        None if probabilities is None else np.array(probabilities, dtype=np.float64),
        None if features is None else np.array(features, dtype=np.float64),
        0,
    )


def test_what_the_columns_do_not_allow_is_no_utility() -> None:
    scored = score(columns(M1, probabilities=[[0.5, 0.5]]), SEEN, multi_label=False)

    assert scored.utilities["margin"] == pytest.approx([1.0])
    assert np.isnan(scored.utilities["fre_class_agnostic"]).all()
    assert scored.failed == 0


def test_without_seen_features_there_is_no_reconstruction_error() -> None:
    scored = score(columns(M1, features=[[1.0, 2.0]]), None, multi_label=False)

    assert np.isnan([*scored.utilities.values()]).all()


def test_regions_of_a_medium_reduce_to_the_largest_utility_and_its_label() -> None:
    regions = columns(M1, M2, M1, labels=["cat", "dog", "bird"], probabilities=[[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])

    scored = score(regions, None, multi_label=False)

    assert scored.labels == {M1: "bird", M2: "dog"}
    assert scored.utilities["margin"] == pytest.approx([0.8, 0.4])


def test_an_extractor_that_fails_leaves_the_others_standing() -> None:
    constant = np.ones((5, 2))

    scored = score(columns(M1, probabilities=[[0.5, 0.5]], features=[[1.0, 2.0]]), constant, multi_label=False)

    assert scored.failed == 1
    assert scored.utilities["margin"] == pytest.approx([1.0])
    assert np.isnan(scored.utilities["fre_class_agnostic"]).all()


def test_a_chunk_without_rows_has_no_scores() -> None:
    scored = score(columns(probabilities=np.empty((0, 2)), features=np.empty((0, 2))), SEEN, multi_label=False)

    assert scored.labels == {}
