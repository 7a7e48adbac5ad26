import numpy as np
import pytest

from agents.extractors import Seen
from agents.score import score, seen_of
from streams.artifacts import Columns
from streams.media import Image, Medium
from tables.rows import number_of

M1, M2 = Image("m1"), Image("m2")
SEEN = Seen(np.array([[-5.0, 0.0], [0.0, 0.1], [5.0, 0.0]]), [number_of("a")] * 3)


def columns(
    *media: Medium,
    labels: list[str | None] | None = None,
    probabilities: object = None,
    features: object = None,
    passes: object = None,
    utilities: dict[str, list[float]] | None = None,
) -> Columns:
    return Columns(
        [*media],
        labels or [None] * len(media),
        None if probabilities is None else np.array(probabilities, dtype=np.float64),
        None if passes is None else np.array(passes, dtype=np.float64),
        None if features is None else np.array(features, dtype=np.float64),
        {name: np.array(column) for name, column in (utilities or {}).items()},
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
    constant = Seen(np.ones((5, 2)), [number_of("a")] * 5)
    both = columns(M1, labels=["a"], probabilities=[[0.5, 0.5]], features=[[1.0, 2.0]])

    scored = score(both, constant, multi_label=False)

    assert scored.failed == 2
    assert scored.utilities["margin"] == pytest.approx([1.0])
    assert np.isnan(scored.utilities["fre_class_agnostic"]).all()


def test_the_producers_own_utilities_reduce_over_regions_as_well() -> None:
    regions = columns(M1, M2, M1, utilities={"doubt": [1.0, 7.0, 3.0]})

    assert score(regions, None, multi_label=False).external["doubt"].tolist() == [3.0, 7.0]


def test_seen_media_whose_labels_nobody_told_allow_no_error_by_label() -> None:
    seen = Seen(SEEN.features, [0] * 3)

    scored = score(columns(M1, labels=["a"], features=[[1.0, 5.0]]), seen, multi_label=False)

    assert np.isnan(scored.utilities["fre"]).all()
    assert np.isfinite(scored.utilities["fre_class_agnostic"]).all()


def test_references_are_read_with_their_labels() -> None:
    value = number_of("a").to_bytes(8, "little") + np.array([1.5, 2.5], "<f8").tobytes()

    found = seen_of([value, value])

    assert found is not None
    assert found.features.tolist() == [[1.5, 2.5]] * 2
    assert [*found.labels] == [number_of("a")] * 2
    assert seen_of([]) is None


def test_a_chunk_without_rows_has_no_scores() -> None:
    scored = score(columns(probabilities=np.empty((0, 2)), features=np.empty((0, 2))), SEEN, multi_label=False)

    assert scored.labels == {}
