"""Values, against a slow numpy version, goldens of the original, and properties of signals."""

import numpy as np
import pytest
import reference
import torch
from folders import TESTS

from vggish_hf import VGGishFeatureConfig
from vggish_hf.feature_extraction import functional
from vggish_hf.feature_extraction.functional import (
    cached_constant,
    check_waveform,
    extract_examples,
    hann_window,
    hertz_to_mel,
    is_best_in_parts,
    log_mel_spectrogram,
    mel_blocks,
    mel_filterbank,
)

CPU = torch.device("cpu")
CONFIG = VGGishFeatureConfig()

# Half a unit in the last place at 4.6 is 2.4e-7. A transform in float32 would give 1e-3.
MAX_ERROR = {torch.float32: 2e-6, torch.float64: 1e-11}
MEAN_ERROR = {torch.float32: 5e-7, torch.float64: 1e-12}


def sine(hertz, seconds=3.0, rate=16_000):
    return np.sin(2 * np.pi * hertz * np.arange(0, seconds, 1 / rate))


def signals():
    rng = np.random.Generator(np.random.PCG64(0))
    time = np.arange(48_000) / 16_000
    return {
        "sine": sine(1000),
        "noise": rng.uniform(-1, 1, 48_000),
        "quiet noise": 1e-4 * rng.standard_normal(48_000),
        "chirp": np.sin(2 * np.pi * (50 + 1300 * time) * time),
        "impulses": (np.arange(48_000) % 1000 == 0).astype(float),
        "silence": np.zeros(48_000),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", signals())
def test_equals_the_slow_version(name, dtype):
    waveform = signals()[name]
    if dtype == torch.float32:  # both get the same samples
        waveform = waveform.astype(np.float32).astype(np.float64)
    expected = reference.log_mel_examples(waveform)
    examples = extract_examples(torch.from_numpy(waveform).to(dtype), CONFIG)
    assert examples.dtype == dtype
    error = np.abs(examples.double().numpy() - expected)
    assert error.max() <= MAX_ERROR[dtype]
    assert error.mean() <= MEAN_ERROR[dtype]


def test_golden_sine_of_the_original():
    log_mel = log_mel_spectrogram(torch.from_numpy(sine(1000)), CONFIG)
    assert log_mel.shape == (298, 64)
    statistics = [log_mel.mean(), log_mel.std(correction=0), log_mel.min(), log_mel.max()]
    expected = [-3.42961870, 2.12657734, -4.60116305, 4.81111773]
    assert statistics == pytest.approx(expected, abs=1e-8)
    first = [-4.48313252, -4.27083405, -4.17064267, -4.23770552, -4.47501975]
    assert log_mel[0, :5].tolist() == pytest.approx(first, abs=1e-8)


def test_golden_examples_of_the_original():
    golden = np.load(TESTS / "golden" / "pretrained" / "smoke_1khz_3s_logmel.npy")
    examples = extract_examples(torch.from_numpy(sine(1000)), CONFIG)
    # The golden is float32: half a unit in the last place at 4.8 is 2.4e-7.
    assert np.abs(examples.numpy() - golden).max() < 3e-7


def test_mel_filters_are_the_originals():
    filters = mel_filterbank(CONFIG, torch.float64, CPU)
    assert filters.sum().item() == pytest.approx(230.913599, abs=1e-6)
    assert torch.count_nonzero(filters) == 461
    assert filters.max().item() == pytest.approx(0.996191, abs=1e-6)
    assert np.abs(filters.numpy() - reference.mel_matrix()).max() < 1e-12


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        VGGishFeatureConfig(num_mel_bins=20, mel_min_hz=1e-9, mel_max_hz=8000.0),
        VGGishFeatureConfig(num_mel_bins=200, sampling_rate=44_100, mel_max_hz=22_050.0),
    ],
)
def test_mel_blocks_hold_all_of_the_filters(config):
    filters = mel_filterbank(config, torch.float64, CPU)
    found = torch.zeros_like(filters)
    first = 0
    for bins, weight in mel_blocks(config, torch.float64, CPU):
        found[bins, first : first + weight.shape[1]] = weight
        first += weight.shape[1]
    assert first == config.num_mel_bins
    assert torch.equal(found, filters)


def test_window_is_periodic():
    window = hann_window(400, torch.float64, CPU)
    assert torch.allclose(window[1:], window[1:].flip(0))
    assert window[0] == 0
    assert window[200] == 1


@pytest.mark.parametrize("band", [0, 10, 31, 63])
def test_a_tone_lands_in_its_band(band):
    low, high = hertz_to_mel(torch.tensor([125.0, 7500.0], dtype=torch.float64))
    centre = low + (band + 1) * (high - low) / 65
    hertz = 700 * torch.expm1(centre / 1127).item()
    log_mel = log_mel_spectrogram(torch.from_numpy(sine(hertz)), CONFIG)
    assert log_mel.mean(0).argmax() == band


def test_silence_is_the_logarithm_of_the_offset():
    examples = extract_examples(torch.zeros(16_000, dtype=torch.float64), CONFIG)
    assert torch.all(examples == np.log(0.01))


def test_a_shift_by_a_hop_shifts_a_frame(generator):
    waveform = torch.randn(16_000, generator=generator, dtype=torch.float64)
    log_mel = log_mel_spectrogram(waveform, CONFIG)
    shifted = log_mel_spectrogram(waveform[160:], CONFIG)
    assert torch.allclose(shifted, log_mel[1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2,), (2, 3)])
@pytest.mark.parametrize(("time", "count"), [(399, 0), (15_599, 0), (15_600, 1), (31_000, 2)])
def test_shapes(batch, time, count):
    examples = extract_examples(torch.zeros(*batch, time), CONFIG)
    assert examples.shape == (*batch, count, 96, 64)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
@pytest.mark.parametrize("frames", [1, 167, 168, 169, 336, 400])
@pytest.mark.parametrize("hop", [0.01, 0.03])
def test_parts_leave_no_seam(batch, frames, hop, generator):
    config = VGGishFeatureConfig(hop_seconds=hop)
    time = (frames - 1) * config.hop_length + 400 + 7
    waveform = torch.randn(*batch, time, generator=generator, dtype=torch.float64)
    log_mel = log_mel_spectrogram(waveform, config)
    assert log_mel.shape == (*batch, frames, 64)
    whole = log_mel_spectrogram(waveform.requires_grad_(), config)  # what has a graph is one part
    assert torch.allclose(log_mel, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((100, 800), [33, 33, 33, 1]),  # several short clips at a time
        ((2, 3, 13_440), [2, 2, 2]),
        ((2, 16_000), [1, 1]),
        ((2, 40_000), [1, 1, 1, 1]),  # a long one in parts
    ],
)
def test_a_part_holds_as_many_clips_as_fit(shape, sizes, generator, monkeypatch):
    waveform = torch.randn(*shape, generator=generator, dtype=torch.float64)
    parts = []

    def log_mel(part, config):
        parts.append(part)
        return whole(part, config)

    whole = functional._log_mel
    monkeypatch.setattr(functional, "_log_mel", log_mel)
    found = log_mel_spectrogram(waveform, CONFIG)
    assert [len(part) for part in parts] == sizes
    assert max(part.numel() for part in parts) <= 168 * 160 + 240
    assert torch.allclose(found, whole(waveform, CONFIG), rtol=0, atol=1e-12)


def test_what_is_worked_on_in_parts():
    waveform = torch.zeros(2, 50)
    assert is_best_in_parts(waveform, 99)
    assert not is_best_in_parts(waveform, 100)
    assert not is_best_in_parts(waveform.to("meta"), 99)
    waveform.requires_grad_()
    assert not is_best_in_parts(waveform, 99)
    with torch.no_grad():
        assert is_best_in_parts(waveform, 99)


@pytest.mark.parametrize("hop", [0.01, 0.48, 0.96, 1.5])
def test_overlapping_examples_are_windows_of_the_spectrogram(hop, generator):
    config = VGGishFeatureConfig(example_hop_seconds=hop)
    waveform = torch.randn(2, 40_000, generator=generator)
    examples = extract_examples(waveform, config)
    log_mel = log_mel_spectrogram(waveform, CONFIG)
    for i in range(examples.shape[1]):
        first = i * config.example_hop_frames
        assert torch.allclose(examples[:, i], log_mel[:, first : first + 96], atol=1e-4)
    assert first + 96 + config.example_hop_frames > log_mel.shape[1]


@pytest.mark.parametrize("padding", ["short", "tail"])
@pytest.mark.parametrize("time", [1, 15_599, 15_600, 20_000, 30_959])
def test_padding_is_with_zeros(padding, time, generator):
    config = VGGishFeatureConfig(padding=padding)
    waveform = torch.randn(time, generator=generator)
    padded = torch.nn.functional.pad(waveform, (0, 100_000))
    examples = extract_examples(waveform, config)
    assert len(examples) == config.num_examples(time)
    assert torch.allclose(examples, extract_examples(padded, CONFIG)[: len(examples)], atol=1e-6)


def test_gradient(generator):
    config = VGGishFeatureConfig(
        sampling_rate=800, num_mel_bins=4, mel_max_hz=400.0, mel_min_hz=20.0, window_seconds=0.02
    )
    waveform = torch.randn(800, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: extract_examples(x, config), waveform)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_silence_is_zero(dtype):
    waveform = torch.zeros(15_600, dtype=dtype, requires_grad=True)
    extract_examples(waveform, CONFIG).sum().backward()
    assert torch.equal(waveform.grad, torch.zeros_like(waveform))


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(100, dtype=torch.int16), "float32 or float64 .* got torch.int16; .* 32768"),
        (torch.zeros(100, dtype=torch.float16), "got torch.float16"),
        (torch.tensor(0.0), "got a scalar"),
        (torch.zeros(0), r"at least one sample, got shape \(0,\)"),
        (torch.zeros(2, 0), r"at least one sample, got shape \(2, 0\)"),
        (torch.zeros(16_000, 2), r"got \(16000, 2\), which looks like \(time, channels\)"),
        (torch.tensor([0.0, torch.nan]), "finite samples, got NaN or infinity"),
        (torch.tensor([0.0, -torch.inf]), "finite samples, got NaN or infinity"),
        (torch.tensor([torch.inf, -torch.inf]), "finite samples, got NaN or infinity"),
    ],
)
def test_check_waveform_refuses(waveform, message):
    with pytest.raises(ValueError, match=message):
        check_waveform(waveform)


def test_check_waveform_refuses_what_is_no_tensor():
    with pytest.raises(TypeError, match=r"as a torch\.Tensor, got ndarray; torch\.from_numpy"):
        check_waveform(np.zeros(100))


@pytest.mark.parametrize("shape", [(1,), (2, 16_000), (32, 33), (100, 64), (4, 2, 500)])
def test_check_waveform_accepts(shape):
    check_waveform(torch.zeros(shape))


def test_check_waveform_accepts_samples_whose_sum_is_not_finite():
    check_waveform(torch.full((100,), 3e38))


def test_constants_are_made_once_and_serve_training():
    made = []

    @cached_constant
    def build(length):
        made.append(length)
        return torch.ones(length)

    with torch.inference_mode():
        first = build(3)
    assert build(3) is first
    assert made == [3]
    weight = torch.ones(3, requires_grad=True)
    (first * weight).sum().backward()  # an inference tensor would refuse
    assert torch.equal(weight.grad, torch.ones(3))
