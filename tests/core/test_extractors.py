import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.decomposition import PCA

from agents.extractors import fre_class_agnostic, margin


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


def test_what_the_seen_features_cannot_reconstruct_has_the_larger_error() -> None:
    # The variance lies along x: one component, and the error is the square of the distance to that line, about.
    seen = np.array([[-5, 0], [0, 0.1], [5, 0]])
    unseen = np.array([[-4, 2], [-2, 4], [1, 5], [2, 3], [4, 1]])

    found = fre_class_agnostic(unseen, seen)

    assert found == pytest.approx((unseen[:, 1] - 0.1 / 3) ** 2)
    ranks = np.argsort(np.argsort(-found))
    assert ranks / len(ranks) == pytest.approx([0.6, 0.2, 0.0, 0.4, 0.8])


@given(st.integers(0, 1000), st.integers(3, 30), st.integers(2, 12))
def test_the_error_is_that_of_scikit_learns_pca(seed: int, rows: int, columns: int) -> None:
    random = np.random.default_rng(seed)
    seen = random.normal(size=(rows, columns)) * np.geomspace(1, 1e-3, columns)
    features = random.normal(size=(20, columns))
    pca = PCA(n_components=0.995, svd_solver="full").fit(seen)

    wanted = ((features - pca.inverse_transform(pca.transform(features))) ** 2).sum(axis=1)

    assert fre_class_agnostic(features, seen) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ([[1.0, 2.0]], "at least 2"),
        ([[1.0, 2.0]] * 3, "differ"),
        ([[1.0], [2.0]], "1 columns"),
        ([], "1 columns|at least"),
    ],
)
def test_features_that_allow_no_reconstruction_are_told(seen: list[list[float]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fre_class_agnostic(np.array([[1.0, 2.0]]), np.array(seen).reshape(len(seen), -1 if seen else 2))


@pytest.mark.parametrize("rows", [2, 3, 7, 100, 333])
def test_equal_seen_rows_are_without_variance_however_their_mean_is_rounded(rows: int) -> None:
    seen = np.tile(np.float64(np.float32(0.1)) + np.array([0, 0.3, 0.7, np.pi]), (rows, 1))

    with pytest.raises(ValueError, match="differ"):
        fre_class_agnostic(np.ones((1, 4)), seen)
