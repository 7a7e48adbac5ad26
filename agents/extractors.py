"""Extractors: from the artifacts of a batch inference to one utility per row; the higher, the sooner to label."""

import numpy as np

from streams.tensors import Array

EXPLAINED = 0.995  # of the variance of the seen features, by the components that are kept


def margin(probabilities: Array, *, multi_label: bool = False) -> Array:
    """How close the two best classes are, 0 (certain) to 1 (a draw), one value per row.

    probabilities: (rows, classes), each row a distribution; with one class there is nothing to confuse it with: 0.
    multi_label: each column is a probability by itself: the mean over labels of 1 - |2q - 1|.
    Source: Scheffer et al. 2001; Settles 2009, section 3.1, turned around so that higher is sooner.

    >>> margin(np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]])).round(6)
    array([0.5, 1. ])
    """
    if multi_label:
        ambiguity: Array = (1 - np.abs(2 * probabilities - 1)).mean(axis=1)
        return ambiguity
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    best = np.partition(probabilities, -2, axis=1)
    return np.clip(1 - (best[:, -1] - best[:, -2]), 0, 1)


def fre_class_agnostic(features: Array, seen: Array) -> Array:
    """Squared feature reconstruction error under a PCA of the seen features, one value per row.

    What the seen features cannot reconstruct is unlike what the model has learnt. The PCA keeps the fewest components
    that explain more than 99.5 % of the variance.

    features: (rows, D); seen: (rows >= 2, D).
    Source: arXiv:2109.06873, section 3, and arXiv:2012.04250.

    Raises:
        ValueError: fewer than two seen rows, seen rows without variance, or another D.

    >>> seen = np.array([[-5, 0], [0, 0.1], [5, 0]])
    >>> fre_class_agnostic(np.array([[2.0, 3.0], [4.0, 1.0]]), seen).round(2)
    array([8.8 , 0.93])
    """
    if seen.shape[1:] != features.shape[1:]:
        raise ValueError(f"features must have {seen.shape[1]} columns, as the seen ones have, not {features.shape[1]}")
    if len(seen) < 2:
        raise ValueError(f"seen features must be at least 2 rows, not {len(seen)}")
    mean = seen.mean(axis=0)
    _, singular, components = np.linalg.svd(seen - mean, full_matrices=False)
    variance = singular**2
    # What is left of equal rows when their mean is taken away is rounding.
    rounding = np.finfo(np.float64).eps * max(seen.shape) * np.abs(seen).max()
    if not singular.max(initial=0) > rounding:
        raise ValueError("seen features must differ from each other")
    explained = np.cumsum(variance / variance.sum())
    kept = components[: int(np.searchsorted(explained, EXPLAINED, side="right")) + 1]
    centred = features - mean
    # The residual itself: |x|^2 - |Wx|^2 is cheaper, and loses its digits where the error is small.
    residual = centred - (centred @ kept.T) @ kept
    error: Array = np.einsum("ij,ij->i", residual, residual)
    return error
