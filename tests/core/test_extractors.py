import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from agents.extractors import Seen, fre, fre_class_agnostic, margin

Floats = NDArray[np.float64]


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


def agnostic(features: Floats, seen: Floats) -> Floats:
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
