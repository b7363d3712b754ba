"""The Frechet distance between two normal distributions, by a method that needs no matrix root.

The squared distance of `N(a, A)` and `N(b, B)` is `|a - b|^2 + tr(A + B - 2 (A B)^(1/2))` (Dowson
and Landau, 1982); Frechet Audio Distance is this square. With factors `A = P P'` and `B = Q Q'` the
trace is the least `|P - Q U|^2` over all rotations `U`, and the singular values of `Q' P` give the
best one. A sum of squares cannot be negative, and is zero for equal distributions, while the
difference of traces leaves its rounding. Other libraries take the root of the product itself, which
is not symmetric: it fails, or is complex, if a covariance is singular.

torch does the decompositions, in one thread: on matrices this small, more threads wait longer than
they compute, and numpy cannot limit its threads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vggish_hf._runtime.threads import TorchThreads

Array = NDArray[np.float64]

# A covariance stored in single precision has eigenvalues this far below zero.
_NEGATIVE_LIMIT = 1e-5
_EPSILON = float(np.finfo(np.float64).eps)
# Squares of larger values leave the range of float64, and the distance would be NaN.
_LARGEST = 1e150


def frechet_distance(
    mean_a: ArrayLike, covariance_a: ArrayLike, mean_b: ArrayLike, covariance_b: ArrayLike
) -> float:
    """Compute the squared Frechet distance between two normal distributions.

    Eigenvalues of a covariance within rounding of zero count as zero, and so do negative ones down
    to `-1e-5` of the largest, which come from storage in single precision.

    Args:
        mean_a: The first mean.
        covariance_a: The first covariance; it may be singular.
        mean_b: The second mean.
        covariance_b: The second covariance.

    Returns:
        The distance, at least 0; symmetric up to rounding. Distances within rounding of equal
        distributions, `(size * 2.2e-16) ** 2` of their traces and squared means, are 0.

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
    with distances_from(mean_a, covariance_a) as distance_to:
        return distance_to(mean_b, covariance_b)


@contextmanager
def distances_from(
    mean: ArrayLike, covariance: ArrayLike
) -> Iterator[Callable[[ArrayLike, ArrayLike], float]]:
    """Prepare the distances of many normal distributions from one.

    Args:
        mean: Its mean.
        covariance: Its covariance.

    Yields:
        A function that computes `frechet_distance` from it to another mean and covariance.

    Example:
        >>> with distances_from([0.0], [[1.0]]) as distance_to:
        ...     [distance_to([mean], [[1.0]]) for mean in (1.0, 2.0)]
        [1.0, 4.0]
    """
    with TorchThreads(1) as thread:
        one = thread.submit(_Normal.of, mean, covariance, "a").result()

        def distance_to(mean_b: ArrayLike, covariance_b: ArrayLike) -> float:
            return thread.submit(
                lambda: one.distance(_Normal.of(mean_b, covariance_b, "b"))
            ).result()

        yield distance_to


class _Normal(NamedTuple):
    """A normal distribution: its mean, and a factor P of its covariance `P P'`."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, mean: ArrayLike, covariance: ArrayLike, name: str) -> Self:
        """Check and factorise; `name` is that of the arguments in messages."""
        return cls(_check_mean(mean, f"mean_{name}"), _factor(covariance, f"covariance_{name}"))

    def distance(self, other: "_Normal") -> float:
        (a, factor_a), (b, factor_b) = self, other
        if not len(a) == len(factor_a) == len(b) == len(factor_b):
            raise ValueError(
                f"Expected means and covariances of one size, got {len(a)}, "
                f"{tuple(factor_a.shape)}, {len(b)} and {tuple(factor_b.shape)}"
            )
        left, _, right = torch.linalg.svd(factor_b.mT @ factor_a)
        apart = factor_a - factor_b @ (left @ right)
        distance = float((a - b).square().sum() + apart.square().sum())
        squares = sum(float(part.square().sum()) for part in (a, factor_a, b, factor_b))
        return distance if distance > (len(a) * _EPSILON) ** 2 * squares else 0.0


def _check_mean(mean: ArrayLike, name: str) -> Tensor:
    array = _finite(mean, name)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"Expected `{name}` of shape (size,), got {array.shape}")
    return torch.from_numpy(array)


def _factor(covariance: ArrayLike, name: str) -> Tensor:
    """Find P with `P P' = covariance`, by its eigenvalues."""
    array = _finite(covariance, name)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"Expected `{name}` of shape (size, size), got {array.shape}")
    scale = np.abs(array).max(initial=0.0)
    if np.abs(array - array.T).max(initial=0.0) > _NEGATIVE_LIMIT * scale:
        raise ValueError(f"Expected a symmetric `{name}`, got one that differs from its transpose")
    values, vectors = torch.linalg.eigh(torch.from_numpy((array + array.T) / 2))
    largest = np.abs(values.numpy()).max(initial=0.0)
    if values.numpy().min(initial=0.0) < -_NEGATIVE_LIMIT * largest:
        raise ValueError(
            f"Expected a `{name}` without negative eigenvalues, got {values.min():.3g} with "
            f"{largest:.3g} as the largest"
        )
    # The root would turn a zero rounded to 1e-16 into 1e-8.
    rounding = len(values) * _EPSILON * largest
    factor: Tensor = vectors * torch.where(values > rounding, values, 0.0).sqrt()
    return factor


def _finite(values: Any, name: str) -> Array:
    array = np.array(values, dtype=np.float64)  # a copy: torch rejects read-only arrays
    if not (np.abs(array) <= _LARGEST).all():
        raise ValueError(f"Expected a finite `{name}`, got NaN, infinity or values beyond 1e150")
    return array
