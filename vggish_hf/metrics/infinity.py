"""The distance of infinitely many clips, and the uncertainty of a distance."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggish_hf.metrics.frechet import Array, distances_from
from vggish_hf.metrics.statistics import EmbeddingStatistics

#: The smallest number of clips, or examples, from which distances of 128 dimensions form a line.
MIN_DRAWN = 500


@dataclass(frozen=True)
class InfinityFit:
    """A line through distances over the reciprocal of the number of clips, or of examples.

    Args:
        score: The line's value at infinitely many; it may be below zero.
        slope: The line's slope: the excess of a distance over `score`, times the number.
        r_squared: The share of the distances' variance that the line explains, at most 1.
        points: The numbers drawn, each with its distance.
        drawn: The unit drawn.
    """

    score: float
    slope: float
    r_squared: float
    points: tuple[tuple[int, float], ...]
    drawn: Literal["clips", "examples"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float
    confidence: float


def fad_infinity(
    real: EmbeddingStatistics,
    fake: NDArray[Any] | Sequence[NDArray[Any]],
    *,
    steps: int = 25,
    min_count: int = MIN_DRAWN,
    replace: bool = False,
    seed: int = 0,
) -> InfinityFit:
    """Extrapolate the distance to infinitely many clips (Chong and Forsyth, 2020).

    A distance from N clips is too large by about `slope / N`. Distances of random subsets show the
    slope. The examples of one clip are alike, so drawing single examples shows a smaller slope: a
    subset has examples of nearly all clips.

    Args:
        real: The statistics that the set is compared with.
        fake: The embeddings of the set's clips, each (examples, size), to draw clips; or one array
            (examples, size), to draw examples.
        steps: The number of subset sizes, evenly spaced from `min_count` to all.
        min_count: The smallest subset. Below a few times the size of an embedding, distances are
            not linear in 1 / N.
        replace: Draw with replacement, as fadtk does. The line then leads to the distance of the
            set itself, not of the population it samples.
        seed: Seed of the draws.

    Raises:
        ValueError: There are no more than `min_count` clips or examples, or fewer than 2 steps; or
            see `EmbeddingStatistics.update`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> real = EmbeddingStatistics.from_covariance(np.zeros(2), np.eye(2), 10_000)
        >>> fit = fad_infinity(real, rng.normal(size=(4000, 2)) + [3.0, 4.0])
        >>> round(fit.score), fit.drawn
        (25, 'examples')
    """
    for name, value in (("steps", steps), ("min_count", min_count)):
        if value < 2:
            raise ValueError(f"Expected `{name}` of at least 2, got {value}")
    if len(fake) <= min_count:
        raise ValueError(
            f"`infinity` needs more than {min_count} clips or examples, you have {len(fake)}"
        )
    draws_examples = isinstance(fake, np.ndarray) and fake.ndim == 2
    rng = np.random.default_rng(seed)
    counts = np.linspace(min_count, len(fake), steps).astype(int)
    distances = []
    with _distances_from(real) as distance_to:
        for count in counts:
            indices = rng.choice(len(fake), count, replace=replace)
            part = fake[indices] if draws_examples else np.concatenate([fake[i] for i in indices])
            distances.append(distance_to(part))
    score, slope, r_squared = _fit_line(1 / counts, np.array(distances))
    points = tuple(zip(counts.tolist(), distances, strict=True))
    return InfinityFit(score, slope, r_squared, points, "examples" if draws_examples else "clips")


def bootstrap_interval(
    real: EmbeddingStatistics,
    clips: Sequence[ArrayLike],
    *,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """Estimate a confidence interval for the distance of the population that a set samples.

    It resamples clips, not examples, since the examples of one clip are alike. The interval is the
    basic one, `2 d - q` for the quantiles `q` of the resampled distances: these have the same bias
    as the distance `d` of the set, so the interval surrounds the distance without it, at least 0.
    It ignores the sampling of `real`.

    Args:
        real: The statistics that the set is compared with.
        clips: The embeddings of the set's clips, each (examples, size).
        confidence: The probability of the interval.
        resamples: The number of sets drawn.
        seed: Seed of the draws.

    Raises:
        ValueError: There are fewer than 2 clips or resamples, or the confidence is not between 0
            and 1; or see `EmbeddingStatistics.update`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> real = EmbeddingStatistics.from_covariance(np.zeros(2), np.eye(2), 10_000)
        >>> interval = bootstrap_interval(real, rng.normal(size=(200, 5, 2)) + [3.0, 4.0])
        >>> interval.low < 25 < interval.high
        True
    """
    arrays = [np.asarray(clip) for clip in clips]
    if len(arrays) < 2 or not 0 < confidence < 1 or resamples < 2:
        raise ValueError(
            "Expected at least 2 clips and resamples, and a confidence between 0 and 1, got "
            f"{len(arrays)}, {resamples} and {confidence}"
        )
    rng = np.random.default_rng(seed)
    with _distances_from(real) as distance_to:
        distance = distance_to(np.concatenate(arrays))
        drawn = []
        for _ in range(resamples):
            indices = rng.integers(len(arrays), size=len(arrays))
            drawn.append(distance_to(np.concatenate([arrays[i] for i in indices])))
    tail = (1 - confidence) / 2
    high, low = 2 * distance - np.quantile(drawn, [tail, 1 - tail])
    return Interval(max(float(low), 0.0), max(float(high), 0.0), confidence)


def _fit_line(x: Array, y: Array) -> tuple[float, float, float]:
    """Intercept, slope and R squared of the line of least squares."""
    u, v = x - x.mean(), y - y.mean()
    slope = float(u @ v / (u @ u))
    spread = float(v @ v)
    r_squared = 1 - float(np.sum((v - slope * u) ** 2)) / spread if spread else 1.0
    return float(y.mean() - slope * x.mean()), slope, r_squared


@contextmanager
def _distances_from(real: EmbeddingStatistics) -> Iterator[Callable[[ArrayLike], float]]:
    with distances_from(real.mean, real.covariance) as distance_to:

        def distance_of(rows: ArrayLike) -> float:
            fake = EmbeddingStatistics.from_embeddings(rows)
            return distance_to(fake.mean, fake.covariance)

        yield distance_of
