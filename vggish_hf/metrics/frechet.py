"""The Frechet distance between two normal distributions, by a method that needs no matrix root.

The squared distance of `N(a, A)` and `N(b, B)` is `|a - b|^2 + tr(A + B - 2 (A B)^(1/2))` (Dowson
and Landau, 1982), and it is this square that is called Frechet Audio Distance. With factors
`A = P P'` and `B = Q Q'` the trace is the least `|P - Q U|^2` over all rotations `U`, and the best
one follows from the singular values of `Q' P`. A sum of squares cannot be negative, and of equal
distributions nothing remains, where the difference of traces leaves its rounding. The root of the
product itself, which other libraries take, is that of a matrix that is not symmetric: it fails, or
comes out complex, where a covariance is singular.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# A covariance that was stored in single precision has eigenvalues so far below zero.
_NEGATIVE_LIMIT = 1e-5
# Squares of what is larger leave the range of float64, and a distance would not be a number.
_LARGEST = 1e150


def frechet_distance(
    mean_a: ArrayLike, covariance_a: ArrayLike, mean_b: ArrayLike, covariance_b: ArrayLike
) -> float:
    """Compute the squared Frechet distance between two normal distributions.

    Eigenvalues of a covariance that lie within rounding of zero count as zero, and so do negative
    ones down to `-1e-5` of the largest, which storage in single precision makes.

    Args:
        mean_a: The first mean.
        covariance_a: The first covariance; it may be singular.
        mean_b: The second mean.
        covariance_b: The second covariance.

    Returns:
        The distance, at least 0; symmetric in the two up to rounding.

    Raises:
        ValueError: The shapes do not fit, a value is not finite or beyond 1e150, or a covariance is
            not symmetric or has a negative eigenvalue.

    Shape:
        - `mean_a`, `mean_b`: `(size,)`
        - `covariance_a`, `covariance_b`: `(size, size)`

    Example:
        >>> frechet_distance([0.0, 0.0], np.eye(2), [3.0, 4.0], 4 * np.eye(2))
        27.0
        >>> frechet_distance([0.0], [[1.0]], [0.0], [[0.0]])
        1.0
    """
    a, factor_a = _check_mean(mean_a, "mean_a"), _factor(covariance_a, "covariance_a")
    b, factor_b = _check_mean(mean_b, "mean_b"), _factor(covariance_b, "covariance_b")
    if not len(a) == len(factor_a) == len(b) == len(factor_b):
        raise ValueError(
            f"Expected means and covariances of one size, got {len(a)}, {factor_a.shape}, "
            f"{len(b)} and {factor_b.shape}"
        )
    left, _, right = np.linalg.svd(factor_b.T @ factor_a)
    apart = factor_a - factor_b @ (left @ right)
    return float(np.sum((a - b) ** 2) + np.sum(apart**2))


def _check_mean(mean: ArrayLike, name: str) -> Array:
    array = _finite(mean, name)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"Expected `{name}` of shape (size,), got {array.shape}")
    return array


def _factor(covariance: ArrayLike, name: str) -> Array:
    """Find P with `P P' = covariance`, by its eigenvalues."""
    array = _finite(covariance, name)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"Expected `{name}` of shape (size, size), got {array.shape}")
    scale = np.abs(array).max(initial=0.0)
    if np.abs(array - array.T).max(initial=0.0) > _NEGATIVE_LIMIT * scale:
        raise ValueError(f"Expected a symmetric `{name}`, got one that differs from its transpose")
    values, vectors = np.linalg.eigh((array + array.T) / 2)
    largest = np.abs(values).max(initial=0.0)
    if values.min(initial=0.0) < -_NEGATIVE_LIMIT * largest:
        raise ValueError(
            f"Expected a `{name}` without negative eigenvalues, got {values.min():.3g} beside "
            f"{largest:.3g}; it is no covariance"
        )
    # The root would turn what rounding leaves of a zero, 1e-16, into 1e-8.
    rounding = len(values) * np.finfo(np.float64).eps * largest
    roots: Array = np.sqrt(np.where(values > rounding, values, 0.0))
    return vectors * roots


def _finite(values: Any, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if not (np.abs(array) <= _LARGEST).all():
        raise ValueError(f"Expected a finite `{name}`, got NaN, infinity or values beyond 1e150")
    return array
