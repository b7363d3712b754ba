"""Mean and covariance of any number of embeddings, in bounded memory, with their provenance."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vggish_hf.metrics.frechet import Array, frechet_distance
from vggish_hf.metrics.moments_file import read_moments, write_moments
from vggish_hf.modeling import VGGishPostprocessor
from vggish_hf.provenance import is_provenance_known, provenance_differences

# Rows that are cast to float64 at once: 8 MiB of 128 columns.
_CHUNK_ROWS = 8192

# The values of the post-processor's eight bits.
_LEAST, _MOST = VGGishPostprocessor.dequantize(torch.tensor([0, 255], dtype=torch.uint8)).tolist()


class SmallSampleWarning(UserWarning):
    """A covariance is singular because of too few examples: the distance is biased upwards."""


@dataclass(frozen=True, eq=False)
class EmbeddingStatistics:
    """The moments of a set of embeddings.

    They are exact for any order and division of the embeddings: merged in float64 by the formula of
    Chan, Golub and LeVeque (1979), which subtracts no large numbers.

    Args:
        count: How many embeddings.
        mean: (size,), float64.
        scatter: (size, size), float64: the sum of the outer products of the deviations from the
            mean, which is the covariance times `count - 1`.
        provenance: How the embeddings were made, ready for JSON; empty if unknown.
        clips: The number of clips; None if unknown.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> statistics = EmbeddingStatistics.empty(2)
        >>> for _ in range(10):
        ...     statistics = statistics.update(rng.normal(size=(100, 2)))
        >>> statistics.count, statistics.covariance.shape
        (1000, (2, 2))
        >>> statistics.distance(statistics) < 1e-12
        True
    """

    count: int
    mean: Array
    scatter: Array
    provenance: Mapping[str, Any] = field(default_factory=dict)
    clips: int | None = None

    @classmethod
    def empty(cls, size: int, provenance: Mapping[str, Any] | None = None) -> Self:
        """The statistics of no embeddings of this size."""
        return cls(0, np.zeros(size), np.zeros((size, size)), provenance or {})

    @classmethod
    def from_embeddings(
        cls, embeddings: ArrayLike, provenance: Mapping[str, Any] | None = None
    ) -> Self:
        """Compute the statistics of embeddings (count, size), an array or a tensor on the CPU.

        Raises:
            ValueError: See `update`.
        """
        rows = np.asarray(embeddings)
        size = rows.shape[-1] if rows.ndim == 2 else 0
        return cls.empty(size, provenance).update(rows)

    @classmethod
    def from_covariance(
        cls,
        mean: ArrayLike,
        covariance: ArrayLike,
        count: int,
        provenance: Mapping[str, Any] | None = None,
        clips: int | None = None,
    ) -> Self:
        """Use moments computed elsewhere, with the divisor `count - 1`.

        Raises:
            ValueError: There are fewer than 2 examples, or the shapes do not fit.
        """
        mean, covariance = np.array(mean, np.float64), np.array(covariance, np.float64)
        if count < 2 or mean.ndim != 1 or covariance.shape != 2 * mean.shape:
            raise ValueError(
                "Expected a mean (size,) and a covariance (size, size) of at least 2 examples, got "
                f"{mean.shape}, {covariance.shape} and {count}"
            )
        with np.errstate(over="ignore"):
            scatter = covariance * (count - 1)
        if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
            raise ValueError("Expected finite moments, got NaN or infinity")
        return cls(count, mean, scatter, provenance or {}, clips)

    @property
    def size(self) -> int:
        """Length of an embedding."""
        return len(self.mean)

    @property
    def covariance(self) -> Array:
        """The sample covariance (size, size), with the divisor `count - 1`.

        Raises:
            ValueError: There are fewer than 2 examples.
        """
        if self.count < 2:
            raise ValueError(f"Expected at least 2 examples for a covariance, got {self.count}")
        return self.scatter / (self.count - 1)

    def update(self, embeddings: ArrayLike) -> Self:
        """Compute the statistics of these embeddings and more of the same provenance.

        Args:
            embeddings: (count, size), floating-point; an array, or a tensor on the CPU.

        Raises:
            ValueError: The embeddings have another shape, are not finite, or are integers:
                dequantize stored ones of eight bits first.
        """
        rows = np.asarray(embeddings)
        if rows.ndim != 2 or rows.shape[1] != self.size or not self.size:
            expected = self.size or "size"
            raise ValueError(f"Expected embeddings of shape (count, {expected}), got {rows.shape}")
        if not np.issubdtype(rows.dtype, np.floating):
            raise ValueError(
                f"Expected embeddings of a float type, got {rows.dtype}; "
                "VGGishPostprocessor.dequantize makes floats of uint8"
            )
        check_scale(rows)
        merged = self
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[start : start + _CHUNK_ROWS].astype(np.float64)
            if not np.isfinite(chunk).all():
                raise ValueError("Expected finite embeddings, got NaN or infinity")
            mean = chunk.mean(0)
            deviations = chunk - mean
            merged = merged._merge(len(chunk), mean, deviations.T @ deviations)
        return merged

    def merge(self, other: "EmbeddingStatistics", *, force: bool = False) -> Self:
        """Compute the statistics of both sets together.

        Args:
            other: Statistics of the same size and provenance.
            force: Merge even if the provenances differ; this one's is kept.

        Raises:
            ValueError: The sizes or the provenances differ.
        """
        self.check_comparable(other, force=force)
        merged = self._merge(other.count, other.mean, other.scatter)
        known = self.clips is not None and other.clips is not None
        return replace(merged, clips=(self.clips or 0) + (other.clips or 0) if known else None)

    def distance(self, other: "EmbeddingStatistics", *, force: bool = False) -> float:
        """Compute the squared Frechet distance to another set, see `frechet_distance`.

        Args:
            other: Statistics of the same size and provenance.
            force: Compare even if the provenances differ.

        Raises:
            ValueError: The sizes or the provenances differ, or a set has fewer than 2 examples.

        Warns:
            SmallSampleWarning: A set has no more examples than dimensions.
        """
        self.check_comparable(other, force=force)
        distance = frechet_distance(self.mean, self.covariance, other.mean, other.covariance)
        for note in filter(None, (self.small_sample_note(), other.small_sample_note())):
            warnings.warn(note, SmallSampleWarning, stacklevel=2)
        return distance

    def check_comparable(self, other: "EmbeddingStatistics", *, force: bool = False) -> None:
        """Raise ValueError if the sizes, or unless forced the provenances, differ.

        Two sets that both say nothing of their origin, as arrays do, are not compared.
        """
        if self.size != other.size:
            raise ValueError(f"Expected embeddings of one size, got {self.size} and {other.size}")
        differences = self.differences(other)
        is_known = self.is_provenance_known or other.is_provenance_known
        if differences and is_known and not force:
            lines = "\n  ".join(differences)
            raise ValueError(
                "The two sets were embedded differently; embed both in one way, or pass "
                f"`force`:\n  {lines}"
            )

    def differences(self, other: "EmbeddingStatistics") -> list[str]:
        """List the differences in how the embeddings were made, see `provenance_differences`."""
        if self.is_provenance_known != other.is_provenance_known:
            return ["one of the two has no provenance"]
        return provenance_differences(self.provenance, other.provenance)

    @property
    def is_provenance_known(self) -> bool:
        """Whether the provenance says anything that decides the embeddings' values."""
        return is_provenance_known(self.provenance)

    def small_sample_note(self) -> str | None:
        """A warning for distances from this set if it is small, else None."""
        if self.count > self.size:
            return None
        return (
            f"{self.count} examples of {self.size} dimensions: the covariance is singular and the "
            "distance biased upwards; only compare it with distances of as many examples"
        )

    def save(self, path: str | Path) -> None:
        """Write an `.npz` file for `load`; it appears only when it is complete.

        Raises:
            ValueError: The name has another ending, or there are fewer than 2 examples.
        """
        write_moments(
            Path(path), self.mean, self.covariance, self.count, self.provenance, self.clips
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of `save`, and check its claims.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: It has other content.
        """
        moments = read_moments(Path(path))
        try:
            return cls.from_covariance(**vars(moments))
        except ValueError as error:
            raise ValueError(f"{error}, in {str(path)!r}") from None

    def _merge(self, count: int, mean: Array, scatter: Array) -> Self:
        total = self.count + count
        if not count:
            return self
        shift = mean - self.mean
        return type(self)(
            total,
            self.mean + shift * (count / total),
            self.scatter + scatter + np.outer(shift, shift) * (self.count * (count / total)),
            self.provenance,
        )


def check_scale(rows: NDArray[Any]) -> None:
    """Raise ValueError for embeddings of eight bits that were cast to floats."""
    # The first row is almost always enough.
    if rows.size and _is_whole(rows[0]) and _is_whole(rows):
        least, most = rows.min(), rows.max()
        if least < _LEAST or most > _MOST:
            raise ValueError(
                f"Expected embeddings, got floats that are whole numbers from {least:g} to "
                f"{most:g}: embeddings of eight bits that were cast; cast them back to uint8 and "
                "pass them through VGGishPostprocessor.dequantize"
            )


def _is_whole(values: NDArray[Any]) -> bool:
    return bool(np.isfinite(values).all() and (values == np.rint(values)).all())
