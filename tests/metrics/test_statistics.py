"""Streaming against numpy's mean and covariance, and against the released embeddings by scipy."""

import tarfile
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from folders import TESTS

from vggish_hf.audioset import RecordReader, parse_audioset
from vggish_hf.metrics import EmbeddingStatistics, SmallSampleWarning
from vggish_hf.modeling import VGGishPostprocessor

SPEECH, MUSIC = 0, 137  # of the 527 classes


def rows(count, size=16, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + offset


def assert_moments(statistics, expected, rtol=1e-12):
    assert statistics.count == len(expected)
    assert np.allclose(statistics.mean, expected.mean(0), rtol=rtol, atol=rtol)
    covariance = np.cov(expected, rowvar=False)
    scale = np.abs(covariance).max()
    assert np.allclose(statistics.covariance, covariance, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("count", [2, 3, 100, 8192, 8193, 20_000])
def test_moments(count):
    data = rows(count)
    assert_moments(EmbeddingStatistics.from_embeddings(data), data)


@pytest.mark.parametrize("part", [1, 7, 5000])
def test_parts_give_the_same(part):
    data = rows(6000)
    statistics = EmbeddingStatistics.empty(16)
    for start in range(0, len(data), part):
        statistics = statistics.update(data[start : start + part])
    assert_moments(statistics, data)


def test_order_changes_nothing():
    data = rows(5000)
    shuffled = EmbeddingStatistics.from_embeddings(np.random.default_rng(1).permutation(data))
    assert_moments(shuffled, data)


def test_merge():
    data = rows(1000)
    parts = [EmbeddingStatistics.from_embeddings(part) for part in np.split(data, [0, 1, 600])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert_moments(merged, data)
    assert_moments(parts[3].merge(parts[2]).merge(parts[1]).merge(parts[0]), data)


def test_a_large_mean_costs_no_digits():
    # The sum of squares minus the square of the sum has none left: 1e8 squared is 1e16.
    data = rows(3000)
    moved = data + 1e8
    statistics = EmbeddingStatistics.empty(16)
    for part in np.array_split(moved, 300):
        statistics = statistics.update(part)
    naive = (moved.T @ moved - len(data) * np.outer(moved.mean(0), moved.mean(0))) / 2999
    covariance = np.cov(data, rowvar=False)
    assert np.abs(naive - covariance).max() > 0.1
    assert np.abs(statistics.covariance - covariance).max() < 1e-5


def test_single_precision_and_tensors_are_taken():
    data = rows(500).astype(np.float32)
    assert_moments(EmbeddingStatistics.from_embeddings(data), data.astype(np.float64))
    assert_moments(EmbeddingStatistics.from_embeddings(torch.from_numpy(data)), data.astype(float))


def test_it_is_not_changed():
    data = rows(100)
    first = EmbeddingStatistics.from_embeddings(data)
    first.update(data + 1)
    first.merge(first)
    assert_moments(first, data)


def test_nothing_is_added():
    statistics = EmbeddingStatistics.empty(3).update(np.zeros((0, 3)))
    assert statistics.count == 0
    assert statistics.merge(statistics).count == 0


def test_from_covariance():
    data = rows(50)
    taken = EmbeddingStatistics.from_covariance(data.mean(0), np.cov(data, rowvar=False), 50)
    assert_moments(taken.update(data), np.concatenate([data, data]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.update(np.zeros((2, 3))), r"shape \(count, 16\), got \(2, 3\)"),
        (lambda s: s.update(np.zeros(16)), r"shape \(count, 16\), got \(16,\)"),
        (lambda s: s.update(np.full((2, 16), np.nan)), "finite embeddings"),
        (lambda s: s.update(np.full((1, 16), np.inf, np.float32)), "finite embeddings"),
        (lambda s: s.update(np.zeros((2, 16), np.uint8)), "float type, got uint8; .*dequantize"),
        (lambda s: s.merge(EmbeddingStatistics.empty(3)), "one size, got 16 and 3"),
        (lambda s: s.distance(EmbeddingStatistics.empty(16)), "at least 2 examples .* got 0"),
        (lambda s: s.from_embeddings([1.0, 2.0]), r"shape \(count, size\), got \(2,\)"),
        (lambda s: s.from_embeddings(np.zeros((0, 0))), r"got \(0, 0\)"),
        (lambda s: s.from_covariance([0.0], [[1.0]], 1), "at least 2 examples, got .* and 1"),
        (lambda s: s.from_covariance([0.0], [[1.0, 0.0]], 2), r"got \(1,\), \(1, 2\) and 2"),
        (lambda s: s.from_covariance([np.nan], [[1.0]], 2), "finite moments"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(EmbeddingStatistics.from_embeddings(rows(40)))


def test_few_examples_are_warned_of():
    enough, few = [EmbeddingStatistics.from_embeddings(rows(n)) for n in (17, 16)]
    assert enough.small_sample_note() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough.distance(enough)
    with pytest.warns(SmallSampleWarning, match="16 examples of 16 dimensions: .* singular"):
        distance = enough.distance(few)
    assert np.isfinite(distance)
    with pytest.warns(SmallSampleWarning):
        assert few.distance(few) < 1e-20


def test_other_provenance_is_refused_unless_forced():
    data = rows(40)
    a = EmbeddingStatistics.from_embeddings(data, {"dtype": "float32", "version": "1"})
    b = EmbeddingStatistics.from_embeddings(data, {"dtype": "float16", "version": "2"})
    for compare in (a.distance, a.merge):
        with pytest.raises(ValueError, match=r"differently.*\n  dtype: 'float32' and 'float16'$"):
            compare(b)
    assert a.distance(b, force=True) < 1e-20
    assert a.merge(b, force=True).provenance == a.provenance
    assert a.merge(a).count == 80


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_eight_bits_that_were_cast_are_refused(dtype):
    quantized = np.random.default_rng(0).integers(256, size=(50, 16), dtype=np.uint8)
    with pytest.raises(ValueError, match="floats that are whole numbers from 0 to 255"):
        EmbeddingStatistics.from_embeddings(quantized.astype(dtype))
    right = VGGishPostprocessor.dequantize(torch.from_numpy(quantized))
    assert EmbeddingStatistics.from_embeddings(right).count == 50
    # A ReLU leaves zeros, and whole numbers inside the range say nothing.
    assert EmbeddingStatistics.from_embeddings(np.zeros((5, 16))).count == 5


def test_clips_are_counted_where_they_are_known():
    data = rows(40)
    a = EmbeddingStatistics.from_embeddings(data)
    assert a.clips is a.merge(a).clips is None
    known = replace(a, clips=4)
    assert known.merge(replace(a, clips=3)).clips == 7
    assert known.merge(a).clips is None
    assert known.update(data).clips is None


def test_unknown_provenance_is_one_difference():
    data = rows(40)
    known = EmbeddingStatistics.from_embeddings(data, {"dtype": "float32"})
    unknown = EmbeddingStatistics.from_embeddings(data, {"version": "1"})
    assert known.is_provenance_known
    assert not unknown.is_provenance_known
    for compare in (known.distance, unknown.merge):
        with pytest.raises(ValueError, match="one of the two has no provenance"):
            compare(unknown if compare == known.distance else known)
    assert known.distance(unknown, force=True) == 0
    # Arrays are for the caller to know, but are not said to be alike.
    assert unknown.distance(unknown) == 0
    assert "neither of the two says" in unknown.differences(unknown)[0]


def released(archive):
    """Each clip's rows of uint8, and its labels."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith(".tfrecord"):
                for data in RecordReader(tar.extractfile(member)):
                    record = parse_audioset(data)
                    yield record.embedding, set(record.labels)


def distances(real, fake):
    """Ours, streamed a clip at a time, and scipy's of all at once."""
    moments, statistics = [], []
    for clips in (real, fake):
        streamed = EmbeddingStatistics.empty(128)
        for clip in clips:
            streamed = streamed.update(clip * (4 / 255) - 2)
        statistics.append(streamed)
        whole = np.concatenate(clips) * (4 / 255) - 2
        moments.append((whole.mean(0), np.cov(whole, rowvar=False)))
    (mean_a, a), (mean_b, b) = moments
    root = scipy.linalg.sqrtm(a @ b).real
    apart = mean_a - mean_b
    expected = apart @ apart + np.trace(a + b - 2 * root)
    return statistics[0].distance(statistics[1]), expected


@pytest.mark.slow
def test_released_embeddings(shared):
    folder = shared / "data" / "audioset"
    bal_train = list(released(folder / "bal_train.tar"))
    evaluation = list(released(folder / "eval_quarter.tar"))
    assert len(bal_train) == 22_160
    distance, expected = distances(
        [clip for clip, _ in bal_train], [clip for clip, _ in evaluation]
    )
    assert distance == pytest.approx(expected, abs=1e-10)
    # All of eval is at 0.2815651; a quarter of it is farther, as fewer examples are.
    assert distance == pytest.approx(0.6061507, abs=1e-6)
    speech, music = [
        [clip for clip, labels in evaluation if label in labels] for label in (SPEECH, MUSIC)
    ]
    distance, expected = distances(speech, music)
    assert distance == pytest.approx(expected, abs=1e-10)
    # 27.2987887 in all of eval
    assert distance == pytest.approx(27.3425736, abs=1e-6)


def test_the_constant_of_dequantization_cancels():
    # Ours is the middle of a step, others take its lower end: both means move alike.
    shards = sorted((TESTS / "data" / "audioset").rglob("*.tfrecord"))
    clips = [parse_audioset(data).embedding for path in shards for data in RecordReader(path)]
    halves = [np.concatenate(clips[start::2]) for start in (0, 1)]
    ends = [EmbeddingStatistics.from_embeddings(half * (4 / 255) - 2) for half in halves]
    middles = [
        EmbeddingStatistics.from_embeddings(VGGishPostprocessor.dequantize(torch.tensor(half)))
        for half in halves
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallSampleWarning)
        # dequantize is float32
        assert ends[0].distance(ends[1]) == pytest.approx(middles[0].distance(middles[1]), rel=1e-5)
        # But a mixture of the two does not cancel: 128 (4/512)^2 and more.
        assert ends[0].distance(middles[0]) == pytest.approx(128 * (4 / 512) ** 2, rel=1e-3)
