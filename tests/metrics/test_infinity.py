"""On normal distributions, whose true distance is known."""

import numpy as np
import pytest

from vggish_hf.metrics import EmbeddingStatistics, bootstrap_interval, fad_infinity

SIZE = 16
SHIFT = np.full(SIZE, 0.3)
TRUE = float(SHIFT @ SHIFT) + SIZE * (1.5 - 1) ** 2
REAL = EmbeddingStatistics.from_covariance(np.zeros(SIZE), np.eye(SIZE), 1_000_000)


def sample(count, seed):
    return 1.5 * np.random.default_rng(seed).normal(size=(count, SIZE)) + SHIFT


def clips(count, seed, alike=0.8):
    """Clips of five examples that are alike, as those of one recording are."""
    rng = np.random.default_rng(seed)
    of_clip = rng.normal(size=(count, 1, SIZE)) * alike**0.5
    own = rng.normal(size=(count, 5, SIZE)) * (1 - alike) ** 0.5
    return list(1.5 * (of_clip + own) + SHIFT)


def distance(rows):
    return REAL.distance(EmbeddingStatistics.from_embeddings(rows))


def test_points_and_line():
    rows = sample(2000, 0)
    fit = fad_infinity(REAL, rows, steps=7, min_count=200)
    counts, distances = map(np.array, zip(*fit.points, strict=True))
    assert counts.tolist() == [200, 500, 800, 1100, 1400, 1700, 2000]
    assert distances[-1] == pytest.approx(distance(rows))
    slope, intercept = np.polyfit(1 / counts, distances, 1)
    assert fit.score == pytest.approx(intercept)
    assert fit.slope == pytest.approx(slope)
    assert fit.r_squared == pytest.approx(np.corrcoef(1 / counts, distances)[0, 1] ** 2)


def test_it_is_nearer_to_the_truth():
    whole, infinite = [], []
    for seed in range(12):
        rows = sample(1200, seed)
        whole.append(distance(rows))
        infinite.append(fad_infinity(REAL, rows, steps=15, min_count=150, seed=seed).score)
    bias = np.mean(whole) - TRUE
    assert bias > 0.1
    assert abs(np.mean(infinite) - TRUE) < 0.3 * bias


def test_with_replacement_it_leads_to_the_set_itself():
    # What fadtk extrapolates to: parts drawn with replacement are samples of the set, not of what
    # the set is a sample of.
    whole, infinite = [], []
    for seed in range(12):
        rows = sample(1200, seed)
        whole.append(distance(rows))
        fit = fad_infinity(REAL, rows, steps=15, min_count=150, replace=True, seed=seed)
        infinite.append(fit.score)
    bias = np.mean(whole) - TRUE
    assert abs(np.mean(infinite) - np.mean(whole)) < 0.5 * bias
    assert np.mean(infinite) - TRUE > 0.5 * bias


def test_clips_are_drawn_whole():
    # Five examples that are nearly one: there are as many as clips, whatever is counted.
    clip_wise, example_wise, whole = [], [], []
    for seed in range(8):
        data = clips(800, seed, alike=0.99)
        whole.append(distance(np.concatenate(data)))
        options = {"steps": 15, "seed": seed}
        clip_wise.append(fad_infinity(REAL, data, min_count=100, **options).score)
        rows = np.concatenate(data)
        example_wise.append(fad_infinity(REAL, rows, min_count=500, **options).score)
    bias = np.mean(whole) - TRUE
    assert abs(np.mean(clip_wise) - TRUE) < 0.3 * bias
    assert np.mean(example_wise) - TRUE > 0.6 * bias


def test_clips_of_one_example():
    rows = sample(1000, 0)
    by_example, by_clip = fad_infinity(REAL, rows), fad_infinity(REAL, list(rows[:, None]))
    assert np.allclose(by_example.points, by_clip.points)
    assert (by_example.drawn, by_clip.drawn) == ("examples", "clips")


def test_seeds():
    rows = sample(1000, 0)
    first = fad_infinity(REAL, rows)
    assert fad_infinity(REAL, rows) == first
    assert fad_infinity(REAL, rows, seed=1) != first


def test_a_set_without_variance():
    rows = np.zeros((600, SIZE))
    fit = fad_infinity(REAL, rows)
    assert fit.score == pytest.approx(SIZE)
    assert (fit.slope, fit.r_squared) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_count": 1000}, "`infinity` needs more than 1000 clips or examples, you have 1000"),
        ({"min_count": 5000}, "`infinity` needs more than 5000 clips or examples, you have 1000"),
        ({"min_count": 1}, "`min_count` of at least 2, got 1"),
        ({"steps": 1}, "`steps` of at least 2, got 1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        fad_infinity(REAL, sample(1000, 0), **options)


def test_non_finite():
    rows = sample(1000, 0)
    rows[-1] = np.nan
    with pytest.raises(ValueError, match="finite embeddings"):
        fad_infinity(REAL, rows)
    with pytest.raises(ValueError, match="finite embeddings"):
        bootstrap_interval(REAL, [rows, rows])


@pytest.mark.slow
def test_the_interval_covers_the_truth():
    intervals = [
        bootstrap_interval(REAL, clips(150, seed), confidence=0.9, resamples=60, seed=seed)
        for seed in range(60)
    ]
    covered = np.mean([interval.low <= TRUE <= interval.high for interval in intervals])
    assert covered > 0.75
    # As if the five examples of a clip were independent.
    narrow = [
        bootstrap_interval(
            REAL, np.concatenate(clips(150, seed))[:, None], confidence=0.9, resamples=60
        )
        for seed in range(20)
    ]
    widths = [np.mean([i.high - i.low for i in found]) for found in (intervals, narrow)]
    assert widths[0] > 1.5 * widths[1]


def test_interval():
    data = clips(60, 0)
    interval = bootstrap_interval(REAL, data, resamples=50)
    assert interval.confidence == 0.95
    assert 0 <= interval.low < interval.high
    assert interval == bootstrap_interval(REAL, data, resamples=50)
    assert interval != bootstrap_interval(REAL, data, resamples=50, seed=1)
    narrower = bootstrap_interval(REAL, data, resamples=50, confidence=0.5)
    assert interval.low < narrower.low < narrower.high < interval.high


def test_clips_of_unequal_lengths():
    data = [clip[: 1 + number % 5] for number, clip in enumerate(clips(60, 0))]
    data.append(np.zeros((0, SIZE)))
    assert bootstrap_interval(REAL, data, resamples=20).high > 0


def test_an_interval_ends_at_zero():
    near = EmbeddingStatistics.from_embeddings(np.concatenate(clips(40, 0)))
    assert bootstrap_interval(near, clips(40, 0), resamples=50).low == 0


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (clips(1, 0), {}),
        ([], {}),
        (clips(3, 0), {"confidence": 0}),
        (clips(3, 0), {"confidence": 1.0}),
        (clips(3, 0), {"resamples": 1}),
    ],
)
def test_interval_errors(data, options):
    with pytest.raises(ValueError, match="at least 2 clips and resamples, and a confidence"):
        bootstrap_interval(REAL, data, **options)
