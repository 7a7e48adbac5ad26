from inspect import signature

import numpy as np
import pytest

from agents import extractors
from agents.extractors import Seen, Subspace
from agents.score import Scored, given_of, reference_values, score, seen_of
from streams.artifacts import Columns
from streams.events import EXTRACTORS
from streams.media import Image, Medium
from tables.rows import medium_bytes, number_of
from tables.sketches import Sketches

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


def of_media(scored: Scored) -> dict[Medium, str | None]:
    """The label of each medium."""
    known: dict[bytes, Medium] = {medium_bytes(each): each for each in (M1, M2)}
    return {known[medium]: label for medium, label in zip(scored.media, scored.labels, strict=True)}


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

    assert of_media(scored) == {M1: "bird", M2: "dog"}
    assert scored.utilities["margin"] == pytest.approx([0.8, 0.4])


def test_an_extractor_that_fails_leaves_the_others_standing() -> None:
    constant = Seen(np.ones((5, 2)), [number_of("a")] * 5)
    both = columns(M1, labels=["a"], probabilities=[[0.5, 0.5]], features=[[1.0, 2.0]])

    scored = score(both, constant, multi_label=False)

    assert scored.failed == 2
    assert scored.utilities["margin"] == pytest.approx([1.0])
    assert np.isnan(scored.utilities["fre_class_agnostic"]).all()


def test_pcas_that_cannot_be_made_beforehand_are_failures_of_the_extractors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> Subspace:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    monkeypatch.setattr(Subspace, "of", fails)
    seen = Seen(SEEN.features, [number_of("a")] * 3)
    seen.fit(np.dtype(np.float64))

    scored = score(columns(M1, labels=["a"], features=[[1.0, 2.0]]), seen, multi_label=False)

    assert scored.failed == 2


def test_the_producers_own_utilities_reduce_over_regions_as_well() -> None:
    regions = columns(M1, M2, M1, utilities={"doubt": [1.0, 7.0, 3.0]})

    assert score(regions, None, multi_label=False).external["doubt"].tolist() == [3.0, 7.0]


def test_seen_media_whose_labels_nobody_told_allow_no_error_by_label() -> None:
    seen = Seen(SEEN.features, [0] * 3)

    scored = score(columns(M1, labels=["a"], features=[[1.0, 5.0]]), seen, multi_label=False)

    assert np.isnan(scored.utilities["fre"]).all()
    assert np.isfinite(scored.utilities["fre_class_agnostic"]).all()


def test_references_are_read_with_their_labels_whatever_precision_they_came_in() -> None:
    single = reference_values([number_of("a")], np.array([[1.5, 2.5]], np.float32))
    double = reference_values([0, number_of("b")], np.array([[0.1, 1e300], [3, 4]]))

    found = seen_of([*double, *single])

    assert [len(each) for each in (*single, *double)] == [9 + 2 * 4, 9 + 2 * 8, 9 + 2 * 8]
    assert found is not None
    assert found.features.tolist() == [[0.1, 1e300], [3, 4], [1.5, 2.5]]
    assert [*found.labels] == [0, number_of("b"), number_of("a")]
    assert seen_of([]) is None


def test_a_chunk_without_rows_has_no_scores() -> None:
    scored = score(columns(probabilities=np.empty((0, 2)), features=np.empty((0, 2))), SEEN, multi_label=False)

    assert of_media(scored) == {}


@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_extractor_is_a_function_of_its_name_that_asks_for_what_a_chunk_may_give(name: str) -> None:
    given = given_of(columns(M1), None, multi_label=False)

    assert signature(getattr(extractors, name)).parameters.keys() <= given.keys()


def test_passes_allow_what_probabilities_alone_do_not() -> None:
    passes = [[[1.0, 0.0], [0.0, 1.0]]]
    both = score(columns(M1, probabilities=[[0.5, 0.5]], passes=passes), None, multi_label=False)
    one = score(columns(M1, probabilities=[[0.5, 0.5]]), None, multi_label=False)

    assert {name for name in EXTRACTORS if np.isfinite(both.utilities[name]).all()} == {
        "margin",
        "least_confidence",
        "entropy",
        "bald",
        "vote_entropy",
    }
    assert both.utilities["bald"] == pytest.approx([np.log(2)])
    assert np.isnan(one.utilities["bald"]).all()


def test_novelty_costs_and_is_found_only_where_it_is_asked_for() -> None:
    features = columns(M1, features=[[5.0, 7.0]])

    without = score(features, SEEN, multi_label=False)
    found = score(features, SEEN, multi_label=False, novelty=True)

    assert np.isnan(without.utilities["novelty"]).all()
    assert found.utilities["novelty"] == pytest.approx([7.0])


def test_seen_features_of_another_length_are_those_of_another_model() -> None:
    scored = score(columns(M1, features=[[1.0, 2.0, 3.0]]), SEEN, multi_label=False, novelty=True)

    assert np.isnan([*scored.utilities.values()]).all()
    assert scored.failed == 0


def test_of_a_medium_counts_the_largest_of_each_utility_and_what_the_leading_region_is() -> None:
    regions = columns(
        M1,
        M1,
        M2,
        labels=["cat", "dog", "bird"],
        probabilities=[[0.6, 0.4, 0.0], [0.6, 0.2, 0.2], [1.0, 0.0, 0.0]],
        features=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
    )

    scored = score(regions, None, multi_label=False)

    # The margin leads: the entropy of the second region is larger, and is told as well.
    assert of_media(scored) == {M1: "cat", M2: "bird"}
    assert scored.utilities["margin"] == pytest.approx([0.8, 0.0])
    assert scored.utilities["entropy"] == pytest.approx([0.9503 / np.log(3), 0.0], abs=1e-4)
    wanted = Sketches.of(np.array([[1.0, 2.0], [5.0, 6.0]]))
    assert scored.sketches.values.tolist() == wanted.values.tolist()
    assert scored.sketches.scale.tolist() == wanted.scale.tolist()


def test_without_probabilities_the_region_with_the_largest_error_leads() -> None:
    regions = columns(M1, M1, labels=["b", "a"], features=[[1.0, 9.0], [1.0, 3.0]])

    scored = score(regions, SEEN, multi_label=False)

    # `b` was never seen, which reconstructs perfectly.
    assert of_media(scored) == {M1: "a"}
    assert scored.sketches.values.tolist() == Sketches.of(np.array([[1.0, 3.0]])).values.tolist()


def test_without_features_there_is_no_sketch() -> None:
    scored = score(columns(M1, M2, probabilities=[[0.5, 0.5]] * 2), None, multi_label=False)

    assert scored.sketches.there.tolist() == [False, False]


def test_of_many_labels_a_certain_one_and_an_undecided_one_are_half_undecided() -> None:
    scored = score(columns(M1, probabilities=[[1.0, 0.5]], passes=[[[1.0, 0.5]] * 2]), None, multi_label=True)

    told = {name: utility.tolist() for name, utility in scored.utilities.items() if np.isfinite(utility).all()}
    assert told == {"margin": [0.5], "least_confidence": [0.5], "entropy": [0.5], "bald": [0.0], "vote_entropy": [0.0]}
