from collections import Counter
from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from agents.extractors import (
    Seen,
    bald,
    entropy,
    fre,
    fre_class_agnostic,
    least_confidence,
    margin,
    novelty,
    vote_entropy,
)

Floats = NDArray[np.float64]
SURE, TORN, OTHER = [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ([1.0, 0.0, 0.0], 0.0),
        ([0.5, 0.5, 0.0], 1.0),
        ([0.6, 0.3, 0.1], 0.7),
        ([1 / 3] * 3, 1.0),
        ([1.0], 0.0),
    ],
)
def test_a_margin_is_one_minus_the_lead_of_the_best_class(row: list[float], wanted: float) -> None:
    assert margin(np.array([row])) == pytest.approx([wanted])


def test_a_margin_of_many_labels_is_the_mean_of_how_undecided_each_is() -> None:
    probabilities = np.array([[0.5, 0.5], [1.0, 0.0], [0.75, 1.0]])

    assert margin(probabilities, multi_label=True) == pytest.approx([1.0, 0.0, 0.25])


@given(arrays(np.float64, (7, 4), elements=st.floats(1e-6, 1)))
def test_a_margin_is_in_0_to_1_and_does_not_ask_which_class_is_which(
    numbers: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
) -> None:
    probabilities = numbers / numbers.sum(axis=1, keepdims=True)

    found = margin(probabilities)

    assert ((found >= 0) & (found <= 1)).all()
    assert found == pytest.approx(margin(probabilities[:, ::-1]))


@pytest.mark.parametrize(
    ("row", "doubt", "spread"),
    [
        ([1.0, 0.0, 0.0], 0.0, 0.0),
        ([1 / 3] * 3, 1.0, 1.0),
        ([0.7, 0.2, 0.1], 0.3 * 3 / 2, 0.8018 / log(3)),
        ([0.5, 0.5, 0.0, 0.0], 0.5 * 4 / 3, 0.5),
        ([0.9, 0.1], 0.2, 0.3251 / log(2)),
        ([1.0], 0.0, 0.0),
    ],
)
def test_least_confidence_and_entropy_are_0_where_a_class_is_certain_and_1_where_all_are_equal(
    row: list[float], doubt: float, spread: float
) -> None:
    assert least_confidence(np.array([row])) == pytest.approx([doubt])
    assert entropy(np.array([row])) == pytest.approx([spread], abs=1e-4)


@pytest.mark.parametrize("classes", range(2, 50))
def test_the_bounds_are_met_exactly_or_nearly_and_never_left(classes: int) -> None:
    probabilities = np.array([np.full(classes, 1 / classes), np.eye(classes)[0]])

    for extractor in (least_confidence, entropy):
        equal, certain = extractor(probabilities)
        assert equal == pytest.approx(1)
        assert (equal <= 1, certain) == (True, 0)


@pytest.mark.parametrize(
    ("passes", "gain", "votes"),
    [
        ([SURE, OTHER], log(2), log(2)),  # each is sure, of something else
        ([TORN, TORN], 0.0, 0.0),  # they agree that they do not know
        ([SURE, SURE, SURE], 0.0, 0.0),
        ([SURE, TORN], 0.5623 - log(2) / 2, 0.0),  # of equal ones the first has the vote
        ([SURE, SURE, SURE, OTHER], 0.5623, 0.5623),
        ([TORN], 0.0, 0.0),  # one voice is never of two minds
        ([[1.0], [1.0]], 0.0, 0.0),
    ],
)
def test_passes_disagree_where_each_is_sure_of_something_else(
    passes: list[list[float]], gain: float, votes: float
) -> None:
    assert bald(np.array([passes])) == pytest.approx([gain], abs=1e-4)
    assert vote_entropy(np.array([passes])) == pytest.approx([votes], abs=1e-4)


def test_of_many_labels_each_is_asked_by_itself() -> None:
    # Two labels: of the first both passes are sure and differ, of the second they agree.
    passes = np.array([[[1.0, 0.5], [0.0, 0.5]]])
    certain_and_undecided = np.array([[1.0, 0.5], [0.9, 0.9], [0.0, 1.0]])

    assert bald(passes, multi_label=True) == pytest.approx([log(2) / 2])
    assert vote_entropy(passes, multi_label=True) == pytest.approx([log(2) / 2])
    assert least_confidence(certain_and_undecided, multi_label=True) == pytest.approx([0.5, 0.2, 0.0])
    assert entropy(certain_and_undecided, multi_label=True) == pytest.approx([0.5, 0.3251 / log(2), 0.0], abs=1e-4)


def test_one_label_that_is_told_by_itself_may_be_undecided_though_it_is_the_only_one() -> None:
    one = np.array([[0.5], [1.0]])

    for extractor in (margin, least_confidence, entropy):
        assert extractor(one).tolist() == [0.0, 0.0]
        assert extractor(one, multi_label=True) == pytest.approx([1.0, 0.0])


def nats(shares: list[float]) -> float:
    return -sum(p * log(p) for p in shares if p > 0)


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def by_hand(name: str, passes: list[list[float]]) -> float:
    """What an extractor says of one row with more than one class, number by number."""
    classes = len(passes[0])
    p = [mean([each[n] for each in passes]) for n in range(classes)]
    first, second, *_ = sorted(p, reverse=True)
    votes = Counter(each.index(max(each)) for each in passes)
    return {
        "margin": 1 - first + second,
        "least_confidence": (1 - first) * classes / (classes - 1),
        "entropy": nats(p) / log(classes),
        "bald": nats(p) - mean([nats(each) for each in passes]),
        "vote_entropy": nats([count / len(passes) for count in votes.values()]),
    }[name]


def by_hand_of_labels(name: str, passes: list[list[float]]) -> float:
    """The same of labels that are told apart each by itself: the mean of what it says of each."""
    if name == "vote_entropy":
        passes = [[float(q > 0.5) for q in each] for each in passes]
    told = [[[q, 1 - q] for q in label] for label in zip(*passes, strict=True)]
    return mean([by_hand("bald" if name == "bald" else "entropy", each) for each in told])


committees = arrays(np.int64, st.tuples(st.just(3), st.integers(1, 5), st.integers(2, 4)), elements=st.integers(0, 3))
OF_PASSES: dict[str, Callable[..., Any]] = {"bald": bald, "vote_entropy": vote_entropy}
OF_ONE: dict[str, Callable[..., Any]] = {"margin": margin, "least_confidence": least_confidence, "entropy": entropy}


@given(committees)
def test_every_utility_is_what_its_formula_says_number_by_number(weights: "NDArray[np.int64]") -> None:
    weights[weights.sum(axis=2) == 0] = 1
    passes = weights / weights.sum(axis=2, keepdims=True)

    found = {name: extractor(passes) for name, extractor in OF_PASSES.items()}
    found |= {name: extractor(passes.mean(axis=1)) for name, extractor in OF_ONE.items()}

    largest = {**dict.fromkeys(OF_ONE, 1.0), **dict.fromkeys(OF_PASSES, log(passes.shape[2]) + 1e-12)}
    for name, utilities in found.items():
        assert utilities == pytest.approx([by_hand(name, each) for each in passes.tolist()], abs=1e-9)
        assert ((utilities >= 0) & (utilities <= largest[name])).all()


@given(committees)
def test_of_many_labels_every_utility_is_the_mean_over_the_labels(weights: "NDArray[np.int64]") -> None:
    passes = weights / 3

    found = {name: extractor(passes, multi_label=True) for name, extractor in OF_PASSES.items()}

    for name, utilities in found.items():
        wanted = [by_hand_of_labels(name, each) for each in passes.tolist()]
        scale = log(2)  # the entropy by hand is by its largest value
        assert utilities == pytest.approx(np.array(wanted) * (1 if name == "bald" else scale), abs=1e-9)
    wanted = [by_hand_of_labels("entropy", [row]) for row in passes.mean(axis=1).tolist()]
    assert entropy(passes.mean(axis=1), multi_label=True) == pytest.approx(wanted, abs=1e-9)
    undecided = [mean([1 - abs(2 * q - 1) for q in row]) for row in passes.mean(axis=1).tolist()]
    assert margin(passes.mean(axis=1), multi_label=True) == pytest.approx(undecided)
    assert least_confidence(passes.mean(axis=1), multi_label=True) == pytest.approx(undecided)


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 9))
def test_what_is_novel_is_far_from_the_nearest_that_was_seen(seed: int, rows: int, columns: int) -> None:
    random = np.random.default_rng(seed)
    seen, features = random.normal(size=(rows, columns)), random.normal(size=(5, columns))

    found = novelty(np.concatenate([features, seen]), Seen(seen, [None] * rows))

    wanted = [min(float(((row - each) ** 2).sum() ** 0.5) for each in seen) for row in features]
    assert found[:5] == pytest.approx(wanted)
    assert found[5:].tolist() == [0.0] * rows


def test_of_many_rows_a_few_distances_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    features, seen = random.normal(size=(50, 3)), Seen(random.normal(size=(7, 3)), [None] * 7)
    at_once = novelty(features, seen)

    for block in (1, 20, 349):
        monkeypatch.setattr("agents.extractors.BLOCK", block)
        assert novelty(features, seen) == pytest.approx(at_once)


def test_a_distance_is_exact_far_from_zero() -> None:
    seen = np.array([[1e6, 0.0], [1e6 + 1, 0.0], [1e6 + 2, 0.0]])

    found = novelty(np.array([[1e6 + 1.25, 0.0]]), Seen(seen, [None] * 3))

    assert found == pytest.approx([0.25], rel=1e-9)


@pytest.mark.parametrize("outlier", [0.0, 1e12])
def test_what_the_model_was_trained_on_is_not_new_however_far_from_zero(outlier: float) -> None:
    seen = 1e8 + np.random.default_rng(0).normal(size=(200, 8))
    seen[0] += outlier

    assert novelty(seen, Seen(seen, [None] * 200)).tolist() == [0.0] * 200


def agnostic(features: NDArray[Any], seen: Floats) -> Floats:
    return fre_class_agnostic(features, Seen(seen, [None] * len(seen)))


def test_what_the_seen_features_cannot_reconstruct_has_the_larger_error() -> None:
    # The variance lies along x: one component, and the error is the square of the distance to that line, about.
    seen = np.array([[-5, 0], [0, 0.1], [5, 0]])
    unseen = np.array([[-4, 2], [-2, 4], [1, 5], [2, 3], [4, 1]])

    found = agnostic(unseen, seen)

    assert found == pytest.approx((unseen[:, 1] - 0.1 / 3) ** 2)


def test_each_predicted_label_is_measured_against_the_seen_media_of_that_label() -> None:
    # Those of A lie along x, those of B along y.
    seen = np.array([[-5, 0], [0, 0.1], [5, 0], [0, -5], [0.1, 0], [0, 5]])
    unseen = np.array([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0]])

    found, failed = fre(unseen, ["A", "B", "A", "B"], Seen(seen, [*"AAABBB"]))

    assert found == pytest.approx([(4 - 0.1 / 3) ** 2, (2 - 0.1 / 3) ** 2, (2 - 0.1 / 3) ** 2, (4 - 0.1 / 3) ** 2])
    assert failed == 0


def test_a_label_without_seen_media_reconstructs_perfectly_and_one_without_variance_not_at_all() -> None:
    seen = Seen(
        np.array([[0.0, 1.0], [2.0, 1.0], [7.0, 7.0], [3.0, 3.0], [3.0, 3.0]]), ["a", "a", "one", "same", "same"]
    )

    found, failed = fre(np.ones((5, 2)) * 2, ["a", "none", "one", "same", None], seen)

    assert found[:2] == pytest.approx([1.0, 0.0])
    assert np.isnan(found[2:]).all()
    assert failed == 2


@given(st.integers(0, 1000), st.integers(3, 30), st.integers(2, 12), st.integers(1, 4))
def test_the_error_is_that_of_scikit_learns_pca(seed: int, rows: int, columns: int, labels: int) -> None:
    random = np.random.default_rng(seed)
    seen = random.normal(size=(rows, columns)) * np.geomspace(1, 1e-3, columns)
    features = random.normal(size=(20, columns))
    of_seen, predicted = random.integers(labels, size=rows), random.integers(labels, size=20)

    found, failed = fre(features, predicted.tolist(), Seen(seen, of_seen.tolist()))

    singles = 0
    for label in set(predicted.tolist()):
        which, known = predicted == label, seen[of_seen == label]
        if len(known) == 1:
            singles += 1
            assert np.isnan(found[which]).all()
            continue
        wanted = reconstruction_error(features[which], known) if len(known) else np.zeros(which.sum())
        assert found[which] == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert failed == singles
    assert agnostic(features, seen) == pytest.approx(reconstruction_error(features, seen), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("noise", [0.05, 1e-2, 1e-4, 1e-9], ids=lambda noise: f"{noise:g} is left")
@pytest.mark.parametrize("away", [0.0, 1.0, 1e3], ids=["around zero", "near zero", "far from zero"])
@pytest.mark.parametrize("columns", [3, 64, 200])
def test_the_error_in_single_precision_is_that_in_double(columns: int, away: float, noise: float) -> None:
    random = np.random.default_rng(0)
    spectrum, turned = np.geomspace(1, noise, columns), np.linalg.qr(random.normal(size=(columns, columns)))[0]
    seen = (random.normal(size=(100, columns)) * spectrum) @ turned + away
    unseen = ((random.normal(size=(500, columns)) * spectrum) @ turned + away).astype(np.float32)

    found = agnostic(unseen, seen)

    mean = seen.mean(axis=0)
    centred = unseen.astype(np.float64) - mean
    _, singular, components = np.linalg.svd(seen - mean, full_matrices=False)
    count = int((np.cumsum(singular**2) <= 0.995 * (singular**2).sum()).sum()) + 1
    residual = centred - centred @ components[:count].T @ components[:count]
    assert found == pytest.approx((residual**2).sum(axis=1), rel=1e-4, abs=0)


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e140])
@pytest.mark.parametrize("rows", [5, 30], ids=["fewer rows than columns", "more rows"])
def test_features_in_double_precision_may_be_of_any_size(rows: int, scale: float) -> None:
    random = np.random.default_rng(0)
    seen, unseen = random.normal(size=(rows, 8)) * np.geomspace(1, 0.01, 8), random.normal(size=(20, 8))

    found = agnostic(unseen * scale, seen * scale)

    assert found / scale / scale == pytest.approx(agnostic(unseen, seen), rel=1e-6, abs=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_features_in_single_precision_may_be_of_any_size(scale: float) -> None:
    random = np.random.default_rng(0)
    seen, unseen = random.normal(size=(30, 8)) * np.geomspace(1, 0.01, 8), random.normal(size=(20, 8))

    found = agnostic((unseen * scale).astype(np.float32), seen * scale)

    assert found / scale == pytest.approx(agnostic(unseen, seen) * scale, rel=1e-4)


def reconstruction_error(features: Floats, seen: Floats) -> Floats:
    pca = PCA(n_components=0.995, svd_solver="full").fit(seen)
    error: Floats = ((features - pca.inverse_transform(pca.transform(features))) ** 2).sum(axis=1)
    return error


@pytest.mark.parametrize("seen", [[[1.0, 2.0]], [[1.0, 2.0]] * 3])
def test_seen_features_without_variance_are_told(seen: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="differ"):
        agnostic(np.array([[1.0, 2.0]]), np.array(seen).reshape(len(seen), 2))


@pytest.mark.parametrize("rows", [2, 3, 7, 100, 333])
def test_equal_seen_rows_are_without_variance_however_their_mean_is_rounded(rows: int) -> None:
    seen = np.tile(np.float64(np.float32(0.1)) + np.array([0, 0.3, 0.7, np.pi]), (rows, 1))

    with pytest.raises(ValueError, match="differ"):
        agnostic(np.ones((1, 4)), seen)


def test_a_pca_is_made_once() -> None:
    seen = Seen(np.array([[0.0, 1.0], [2.0, 1.0]]), ["a", "a"])

    assert seen.subspace() is seen.subspace()
    assert seen.subspace_of("a") is seen.subspace_of("a")
