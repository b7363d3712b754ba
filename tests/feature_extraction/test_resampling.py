"""Against a slow sum over neighbours, and against the originals' goldens in test_transforms.py."""

import functools

import numpy as np
import pytest
import reference
import torch

from vggish_hf._checks import check_sampling_rate
from vggish_hf.feature_extraction import resampling
from vggish_hf.feature_extraction.resampling import resample, resample_blocks, resample_kernel

# Common rates, rates of the odd test files, primes (as many filters as output samples a second).
RATES = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 1_234]
# A filter for each of 16,000 phases.
RATES += [pytest.param(rate, marks=pytest.mark.slow) for rate in (7_919, 44_101)]

# Rounding of a sum of a few hundred products.
MAX_ERROR = {torch.float32: 3e-6, torch.float64: 1e-13}


@functools.cache
def slowly_resampled(rate):
    """A waveform of a twentieth of a second, and what it is at 16 kHz."""
    rng = np.random.Generator(np.random.PCG64(rate))
    waveform = rng.uniform(-1, 1, rate // 20 + 7).astype(np.float32)
    if rate == 16_000:
        return waveform, waveform
    return waveform, reference.resample(waveform.astype(np.float64), rate, 16_000)


@pytest.mark.parametrize("dtype", MAX_ERROR)
@pytest.mark.parametrize("rate", RATES)
def test_equals_the_slow_version(rate, dtype):
    waveform, expected = slowly_resampled(rate)
    output = resample(torch.from_numpy(waveform).to(dtype), rate, 16_000)
    assert output.dtype == dtype
    assert output.shape == expected.shape
    assert np.abs(output.double().numpy() - expected).max() <= MAX_ERROR[dtype]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [1, 2, 441, 10_000])
def test_length_is_the_floor(rate, samples):
    assert resample(torch.zeros(samples), rate, 16_000).shape == (samples * 16_000 // rate,)


@pytest.mark.parametrize("batch", [(0,), (1,), (2, 3)])
def test_batch_equals_one_by_one(batch, generator):
    waveform = torch.randn(*batch, 4410, generator=generator)
    output = resample(waveform, 44_100, 16_000)
    assert output.shape == (*batch, 1600)
    for row, expected in zip(waveform.reshape(-1, 4410), output.reshape(-1, 1600), strict=True):
        assert torch.allclose(resample(row, 44_100, 16_000), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 7_919])
@pytest.mark.parametrize("block", [1, 17, 441, 5_000, 100_000])
def test_blocks_leave_no_seam(rate, block, generator):
    waveform = torch.randn(300 if block == 1 else 20_000, generator=generator, dtype=torch.float64)
    parts = list(resample_blocks(waveform.split(block), rate, 16_000))
    whole = resample(waveform, rate, 16_000)
    assert torch.allclose(torch.cat(parts), whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize("shape", [(300_000,), (2, 140_000), (2, 2, 40_000)])
def test_parts_leave_no_seam(rate, shape, generator):
    waveform = torch.randn(*shape, generator=generator, dtype=torch.float64)
    output = resample(waveform, rate, 16_000)
    assert output.shape == (*shape[:-1], shape[-1] * 16_000 // rate)
    whole = resample(waveform.requires_grad_(), rate, 16_000)  # what has a graph is one part
    assert torch.allclose(output, whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("shape", "rate", "new_rate", "calls"),
    [
        ((400, 882), 44_100, 16_000, 5),  # several short clips at a time
        ((2, 3, 60_000), 44_100, 16_000, 3),
        ((2, 100_000), 44_100, 16_000, 2),
        ((100, 50), 4_001, 1_600, 4),  # each is padded to a whole second
    ],
)
def test_a_part_holds_as_many_clips_as_fit(shape, rate, new_rate, calls, generator, monkeypatch):
    waveform = torch.randn(*shape, generator=generator, dtype=torch.float64)
    sizes = []

    def apply(padded, kernel, num_blocks):
        sizes.append(padded.numel())
        return whole(padded, kernel, num_blocks)

    whole = resampling._apply_kernel
    monkeypatch.setattr(resampling, "_apply_kernel", apply)
    found = resample(waveform, rate, new_rate)
    assert len(sizes) == calls
    assert max(sizes) <= 1 << 17
    expected = resample(waveform.requires_grad_(), rate, new_rate)  # what has a graph is one part
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1, 2, 3, 5, 50])
def test_very_low_rates(rate):
    rng = np.random.Generator(np.random.PCG64(rate))
    waveform = rng.uniform(-1, 1, 2)
    found = resample(torch.from_numpy(waveform), rate, 16_000)
    assert np.abs(found.numpy() - reference.resample(waveform, rate, 16_000)).max() < 1e-13
    kernel = resample_kernel(rate, 16_000, torch.float64, torch.device("cpu"))
    assert sum(group.weight.numel() for group in kernel.groups) < 1 << 21


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate != 16_000])
def test_blocks_are_as_long_as_their_filters(rate):
    kernel = resample_kernel(rate, 16_000, torch.float32, torch.device("cpu"))
    # Only so does the matrix of taps, whose rows stand a block apart, take part without a copy.
    assert max(group.weight.shape[1] for group in kernel.groups) <= kernel.stride


def test_blocks_at_the_same_rate_are_passed_on(generator):
    blocks = torch.randn(10, generator=generator).split(3)
    assert all(map(torch.equal, resample_blocks(blocks, 16_000, 16_000), blocks))


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_a_tone_keeps_its_amplitude_and_pitch(rate):
    time = torch.arange(rate, dtype=torch.float64) / rate
    output = resample(torch.sin(2 * torch.pi * 1000 * time), rate, 16_000)
    expected = torch.sin(2 * torch.pi * 1000 * torch.arange(16_000, dtype=torch.float64) / 16_000)
    inside = slice(200, -200)
    # The original's window table makes for -70 dB.
    assert (output - expected)[inside].abs().max() < 3e-4


def test_what_is_above_half_the_new_rate_is_gone():
    time = torch.arange(44_100, dtype=torch.float64) / 44_100
    output = resample(torch.sin(2 * torch.pi * 9_000 * time), 44_100, 16_000)
    assert output[200:-200].abs().max() < 1e-4


def test_gradient(generator):
    waveform = torch.randn(300, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resample(x, 44_100, 16_000), waveform)


@pytest.mark.parametrize("rate", [0, -1, 44_100.0, True, "44100", None])
def test_rates_are_positive_whole_numbers(rate):
    with pytest.raises(ValueError, match=f"positive whole number of Hz, got {rate!r}"):
        check_sampling_rate(rate)


@pytest.mark.parametrize("rate", [999_983, 2**31 - 1])
def test_a_hostile_rate_allocates_nothing(rate):
    with pytest.raises(ValueError, match=f"common divisor, got {rate} Hz"):
        resample(torch.zeros(100), rate, 16_000)


def test_kernels_are_cached_for_each_rate_dtype_and_device():
    arguments = (44_100, 16_000, torch.float32, torch.device("cpu"))
    assert resample_kernel(*arguments) is resample_kernel(*arguments)
    other = resample_kernel(44_100, 16_000, torch.float64, torch.device("cpu"))
    assert other.groups[0].weight.dtype == torch.float64
