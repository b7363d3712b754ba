"""Against scipy's root of the product, and against closed forms where that one fails."""

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from vggish_hf.metrics import frechet_distance
from vggish_hf.metrics.frechet import distances_from

# What the numbers of two routes through float64 may differ by, relative to the traces.
ROUNDING = 1e-12


def scipy_distance(mean_a, covariance_a, mean_b, covariance_b):
    root = scipy.linalg.sqrtm(covariance_a @ covariance_b)
    apart = mean_a - mean_b
    return float(apart @ apart + np.trace(covariance_a + covariance_b - 2 * root.real))


def precise_distance(mean_a, covariance_a, mean_b, covariance_b):
    """With fifty digits, by the eigenvalues of the product's symmetric form."""
    with mpmath.workdps(50):
        a, b = mpmath.matrix(covariance_a.tolist()), mpmath.matrix(covariance_b.tolist())
        values, vectors = mpmath.eigsy(a)
        roots = mpmath.diag([mpmath.sqrt(max(value, 0)) for value in values])
        root = vectors * roots * vectors.T
        product = mpmath.eigsy(root * b * root, eigvals_only=True)
        trace = sum(mpmath.sqrt(max(value, 0)) for value in product)
        apart = sum(
            (mpmath.mpf(x) - mpmath.mpf(y)) ** 2 for x, y in zip(mean_a, mean_b, strict=True)
        )
        return float(apart + sum(a[i, i] + b[i, i] for i in range(a.rows)) - 2 * trace)


def moments(rng, count, size):
    rows = rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) / size**0.5
    rows += rng.normal(size=size)
    return rows.mean(0), np.atleast_2d(np.cov(rows, rowvar=False))


@pytest.mark.parametrize("size", [1, 2, 16, 128])
@pytest.mark.parametrize("seed", range(5))
def test_equals_scipy_where_well_conditioned(size, seed):
    rng = np.random.default_rng(seed)
    a, b = moments(rng, 20 * size + 10, size), moments(rng, 30 * size + 10, size)
    distance = frechet_distance(*a, *b)
    assert distance == pytest.approx(scipy_distance(*a, *b), rel=1e-10, abs=1e-8)
    assert frechet_distance(*b, *a) == pytest.approx(distance, rel=ROUNDING)


@pytest.mark.parametrize("power", [1, 4, 8, 12])
def test_equals_fifty_digits_where_ill_conditioned(power):
    rng = np.random.default_rng(power)

    def covariance():
        basis = np.linalg.qr(rng.normal(size=(8, 8)))[0]
        return basis @ np.diag(np.logspace(-power, 0, 8)) @ basis.T

    a, b = (rng.normal(size=8), covariance()), (rng.normal(size=8), covariance())
    a, b = [(mean, (matrix + matrix.T) / 2) for mean, matrix in (a, b)]
    assert frechet_distance(*a, *b) == pytest.approx(precise_distance(*a, *b), abs=1e-9)


@pytest.mark.parametrize(("rank_a", "rank_b"), [(5, 128), (5, 9), (50, 40), (1, 1), (0, 7), (0, 0)])
def test_singular_covariances(rank_a, rank_b):
    rng = np.random.default_rng(rank_a + rank_b)
    mean = rng.normal(size=128)
    factor_a, factor_b = rng.normal(size=(128, rank_a)), rng.normal(size=(128, rank_b))
    # The trace of the root is the sum of the singular values of A'B, of full rank here.
    common = np.linalg.svd(factor_a.T @ factor_b, compute_uv=False).sum()
    traces = np.sum(factor_a**2) + np.sum(factor_b**2)
    expected = traces - 2 * common
    a, b = (mean, factor_a @ factor_a.T), (mean, factor_b @ factor_b.T)
    assert frechet_distance(*a, *b) == pytest.approx(expected, abs=ROUNDING * traces)


def test_scipy_fails_there():
    # Where this fails no more, the reason that the documents give for a method of our own is gone.
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(128, 5))
    covariance = factor @ factor.T
    zero = np.zeros(128)
    assert abs(scipy_distance(zero, covariance, zero, covariance)) > 1e-6
    assert frechet_distance(zero, covariance, zero, covariance) < 1e-20


def test_covariances_that_commute():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(2, 64))
    a[:20] = b[10:30] = 0
    expected = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    zero = np.zeros(64)
    assert frechet_distance(zero, np.diag(a), zero, np.diag(b)) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_distance_to_itself(scale):
    rng = np.random.default_rng(0)
    for count in (2, 50, 128, 1000):
        mean, covariance = moments(rng, count, 128)
        mean, covariance = mean * scale**0.5, covariance * scale
        distance = frechet_distance(mean, covariance, mean, covariance)
        assert 0 <= distance < 1e-20 * np.trace(covariance)


def test_small_distances_are_not_lost():
    # Next to a trace of 128 the rounding of a difference of traces is 1e-14.
    moved = np.eye(128) * (1 + 1e-9) ** 2
    zero = np.zeros(128)
    assert frechet_distance(zero, np.eye(128), zero, moved) == pytest.approx(128e-18, rel=1e-4)


def test_scales_with_the_square():
    rng = np.random.default_rng(0)
    (mean_a, a), (mean_b, b) = moments(rng, 50, 16), moments(rng, 60, 16)
    expected = 9 * frechet_distance(mean_a, a, mean_b, b)
    assert frechet_distance(3 * mean_a, 9 * a, 3 * mean_b, 9 * b) == pytest.approx(expected)


def test_a_shift_and_a_rotation_change_nothing():
    rng = np.random.default_rng(0)
    (mean_a, a), (mean_b, b) = moments(rng, 50, 16), moments(rng, 60, 16)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    moved = [turn @ (mean_a + 5), turn @ a @ turn.T, turn @ (mean_b + 5), turn @ b @ turn.T]
    assert frechet_distance(*moved) == pytest.approx(frechet_distance(mean_a, a, mean_b, b))


def test_storage_in_single_precision_is_forgiven():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(32, 3))
    exact = factor @ factor.T
    stored = exact.astype(np.float32)
    assert np.linalg.eigvalsh(stored.astype(float))[0] < 0
    zero = np.zeros(32)
    # The root of what rounding leaves, 1e-7 of the trace, times the dimensions.
    assert frechet_distance(zero, exact, zero, stored) < 1e-4 * np.trace(exact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean_a": np.zeros((2, 2))}, r"`mean_a` of shape \(size,\), got \(2, 2\)"),
        ({"mean_b": np.zeros(0)}, r"`mean_b` of shape \(size,\), got \(0,\)"),
        ({"covariance_a": np.eye(2)[:1]}, r"`covariance_a` of shape \(size, size\), got \(1, 2\)"),
        ({"mean_b": np.zeros(3)}, r"of one size, got 2, \(2, 2\), 3 and \(2, 2\)"),
        ({"covariance_b": np.eye(3)}, r"of one size, got 2, \(2, 2\), 2 and \(3, 3\)"),
        ({"mean_a": np.array([0, np.nan])}, "a finite `mean_a`, got NaN"),
        ({"covariance_b": np.diag([1, np.inf])}, "a finite `covariance_b`"),
        ({"mean_b": np.array([0, 1e160])}, "values beyond 1e150"),
        ({"covariance_a": np.array([[1, 0.5], [0, 1]])}, "a symmetric `covariance_a`"),
        (
            {"covariance_b": np.diag([1, -0.1])},
            "without negative eigenvalues, got -0.1 with 1 as the largest",
        ),
    ],
)
def test_errors(change, message):
    good = {
        "mean_a": np.zeros(2),
        "covariance_a": np.eye(2),
        "mean_b": np.zeros(2),
        "covariance_b": np.eye(2),
    }
    assert frechet_distance(**good) == 0
    with pytest.raises(ValueError, match=message):
        frechet_distance(**good | change)


def test_the_largest_values_give_a_number():
    mean, covariance = np.full(4, 1e149), np.eye(4) * 1e149
    assert np.isfinite(frechet_distance(mean, covariance, -mean, covariance / 3))


@pytest.mark.parametrize("count", [20, 128, 129, 2000])
def test_a_set_is_at_zero_from_itself(count):
    # Whatever order it is read in: what is left is rounding.
    rows = np.random.default_rng(0).normal(size=(count, 128)) * 5 + 3
    moments = [(part.mean(0), np.cov(part, rowvar=False)) for part in (rows, rows[::-1])]
    assert frechet_distance(*moments[0], *moments[0]) == 0
    assert frechet_distance(*moments[0], *moments[1]) == 0
    near = (moments[0][0] + 1e-9, moments[0][1])
    assert frechet_distance(*moments[0], *near) == pytest.approx(128e-18, rel=1e-3)


def test_distances_from_one():
    rng = np.random.default_rng(0)
    mean_a, mean_b = rng.normal(size=(2, 8))
    with distances_from(mean_a, np.eye(8)) as distance_to:
        assert distance_to(mean_b, 2 * np.eye(8)) == frechet_distance(
            mean_a, np.eye(8), mean_b, 2 * np.eye(8)
        )
        with pytest.raises(ValueError, match=r"one size, got 8, \(8, 8\), 7 and \(7, 7\)"):
            distance_to(mean_b[:7], np.eye(7))
        with pytest.raises(ValueError, match="finite `mean_b`"):
            distance_to(mean_b * np.nan, np.eye(8))


def test_it_computes_in_one_thread(monkeypatch):
    threads = []

    def noting(compute):
        def note(matrix):
            threads.append(torch.get_num_threads())
            return compute(matrix)

        return note

    for name in ("eigh", "svd"):
        monkeypatch.setattr(torch.linalg, name, noting(getattr(torch.linalg, name)))
    before = torch.get_num_threads()
    frechet_distance(np.zeros(8), np.eye(8), np.ones(8), np.eye(8))
    assert threads == [1, 1, 1]
    assert torch.get_num_threads() == before
