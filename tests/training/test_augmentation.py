import math

import pytest
import torch
from folders import TESTS

from vggish_hf import VGGishFeatureConfig, VGGishFeatureExtractor
from vggish_hf.audio import load_audio
from vggish_hf.training.augmentation import SpecAugment, WaveformAugmentation, mixup
from vggish_hf.training.batches import WaveformClip, collate_waveforms, extract_batch

AUDIO = TESTS / "data" / "audio_cases"
NAMES = ("harritaylor__test.wav", "rochars__RIFX-16bit-mono.wav", "librosa__198-209-0000.ogg")
SILENCE = math.log(VGGishFeatureConfig().log_offset)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    clips = []
    for name in NAMES:
        waveform, rate = load_audio(AUDIO / name)
        clips.append(WaveformClip(id=name, waveform=waveform[: 2 * rate], sampling_rate=rate))
    return collate_waveforms(clips)


def valid(batch):
    for waveform, length in zip(batch["waveform"], batch["length"], strict=True):
        yield waveform[:length]


def assert_filling_is_zero(batch):
    for waveform, length in zip(batch["waveform"], batch["length"], strict=True):
        assert not waveform[length:].any()


def test_evaluation_changes_nothing(batch):
    augment = WaveformAugmentation(gain_db=6, shift_seconds=1, speed=0.1).eval()
    assert augment(batch) is batch


def test_nothing_asked_for_changes_nothing(batch):
    augmented = WaveformAugmentation()(batch)
    assert augmented.keys() == batch.keys()
    assert all(augmented[name] is batch[name] for name in batch)


def test_what_comes_in_stays_as_it_is(batch):
    before = {name: batch[name].clone() for name in ("waveform", "length", "sampling_rate")}
    augmented = WaveformAugmentation(gain_db=6, shift_seconds=1, speed=0.1)(batch)
    assert not torch.equal(augmented["waveform"], batch["waveform"])
    assert all(torch.equal(batch[name], value) for name, value in before.items())


def test_gain(batch):
    augment = WaveformAugmentation(gain_db=6)
    gains = []
    for _ in range(100):
        augmented = augment(batch)
        assert_filling_is_zero(augmented)
        for clip, original in zip(valid(augmented), valid(batch), strict=True):
            factor = clip.norm() / original.norm()
            assert torch.allclose(clip, factor * original)
            gains.append(20 * math.log10(factor))
    assert -6 <= min(gains) < -5
    assert 5 < max(gains) <= 6
    assert len({round(gain, 3) for gain in gains[:3]}) == 3  # each clip its own


def test_shift(batch):
    augment = WaveformAugmentation(shift_seconds=0.5)
    shifts = []
    for _ in range(30):
        augmented = augment(batch)
        assert_filling_is_zero(augmented)
        rates = batch["sampling_rate"].tolist()
        for clip, original, rate in zip(valid(augmented), valid(batch), rates, strict=True):
            # The shift is where the circular correlation peaks.
            spectrum = torch.fft.rfft(clip.double()) * torch.fft.rfft(original.double()).conj()
            peak = int(torch.fft.irfft(spectrum, len(clip)).argmax())
            assert torch.equal(clip, original.roll(peak))
            shifts.append((peak if peak < rate else peak - 2 * rate) / rate)
    assert -0.5 <= min(shifts) < -0.4
    assert 0.4 < max(shifts) <= 0.5


def test_speed_draws_few_rates_with_small_filters(batch):
    augment = WaveformAugmentation(speed=0.1)
    drawn = torch.stack([augment(batch)["sampling_rate"] for _ in range(100)])
    assert drawn.dtype == torch.int64
    assert sorted(set(drawn[:, 0].tolist())) == [14_400, 15_200, 16_000, 16_800, 17_600]
    assert sorted(set(drawn[:, 2].tolist())) == [19_800, 20_900, 22_050, 23_200, 24_300]
    assert torch.equal(augment(batch)["waveform"], batch["waveform"])
    assert torch.equal(augment(batch)["length"], batch["length"])


def test_speed_moves_a_tone():
    time = torch.arange(32_000) / 16_000
    clip = WaveformClip(
        id="tone", waveform=torch.sin(2 * torch.pi * 1000 * time), sampling_rate=16_000
    )
    batch = collate_waveforms([clip])
    bands = {}
    for seed in range(20):
        torch.manual_seed(seed)
        augmented = WaveformAugmentation(speed=0.2)(batch)
        examples, _ = extract_batch(VGGishFeatureExtractor(), augmented)
        bands[int(augmented["sampling_rate"])] = int(examples[0, 0].mean(0).argmax())
    rates = sorted(bands)
    assert rates == [12_800, 14_400, 16_000, 17_600, 19_200]
    low, high = (1127 * math.log1p(hertz / 700) for hertz in (125, 7500))
    for rate, band in bands.items():
        mel = 1127 * math.log1p(1000 * rate / 16_000 / 700)
        assert band == round(65 * (mel - low) / (high - low)) - 1


def test_the_seed_decides(batch):
    augment = WaveformAugmentation(gain_db=6, shift_seconds=1, speed=0.1)
    torch.manual_seed(3)
    first = augment(batch)
    torch.manual_seed(3)
    again = augment(batch)
    other = augment(batch)
    assert torch.equal(first["waveform"], again["waveform"])
    assert torch.equal(first["sampling_rate"], again["sampling_rate"])
    assert not torch.equal(first["waveform"], other["waveform"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"gain_db": -1.0}, r"`gain_db` from 0 .* got -1\.0"),
        ({"shift_seconds": math.nan}, "`shift_seconds` .* got nan"),
        ({"speed": 1.0}, r"`speed` from 0 to below 1\.0, got 1\.0"),
    ],
)
def test_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        WaveformAugmentation(**arguments)


def runs(silent):
    """Lengths of the runs of True in a row."""
    changes = torch.nn.functional.pad(silent.int(), (1, 1)).diff().nonzero().flatten()
    return (changes[1::2] - changes[::2]).tolist()


def test_spec_augment_masks_with_silence():
    torch.manual_seed(0)
    examples = torch.randn(20, 10, 96, 64)
    masked = SpecAugment(max_bands=16, max_frames=24)(examples)
    assert masked.shape == examples.shape
    silent = masked == SILENCE
    assert torch.equal(masked[~silent], examples[~silent])
    bands, frames = silent.all(2).flatten(0, 1), silent.all(3).flatten(0, 1)
    # Nothing but whole bands and whole frames, in one piece each, other ones in each example.
    assert torch.equal(silent.flatten(0, 1), bands[:, None, :] | frames[:, :, None])
    for found, limit in ((bands, 16), (frames, 24)):
        lengths = [length for row in found for length in runs(row)]
        assert all(len(runs(row)) <= 1 for row in found)
        assert max(lengths) == limit - 1
        assert len({tuple(row.tolist()) for row in found}) > 100


@pytest.mark.parametrize(("bands", "frames"), [(16, 0), (0, 24), (0, 0)])
def test_spec_augment_of_one_kind(bands, frames):
    torch.manual_seed(0)
    silent = SpecAugment(bands, frames)(torch.zeros(4, 10, 96, 64)) == SILENCE
    assert bool(silent.all(2).any()) == (bands > 0)
    assert bool(silent.all(3).any()) == (frames > 0)


def test_spec_augment_masks_with_the_front_ends_silence(batch):
    extractor = VGGishFeatureExtractor(VGGishFeatureConfig(log_offset=1e-4))
    augment = SpecAugment(40, 60, log_offset=extractor.config.log_offset)
    examples, _ = extract_batch(extractor, batch)
    assert augment(examples).min() == pytest.approx(math.log(1e-4))


def test_spec_augment_evaluates_without():
    examples = torch.zeros(2, 3, 96, 64)
    assert SpecAugment(16, 24).eval()(examples) is examples


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("bands", "frames"), [(16, 24), (64, 96), (1, 1), (8, 0), (0, 8)])
def test_spec_augment_equals_torchaudio(bands, frames, seed):
    transforms = pytest.importorskip("torchaudio.transforms", exc_type=ImportError)
    examples = torch.randn(3, 5, 96, 64, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    expected = transforms.FrequencyMasking(bands, iid_masks=True)(examples.mT, SILENCE)
    expected = transforms.TimeMasking(frames, iid_masks=True)(expected, SILENCE).mT
    torch.manual_seed(seed)
    assert torch.equal(SpecAugment(bands, frames)(examples), expected)


def test_spec_augment_draws_evenly():
    # The length is uniform below the limit, and the start uniform over what the length leaves.
    torch.manual_seed(0)
    silent = (SpecAugment(max_bands=16)(torch.zeros(20_000, 96, 64)[:, :1]) == SILENCE)[:, 0]
    lengths = silent.sum(1)
    counts = torch.bincount(lengths, minlength=16)
    assert len(counts) == 16
    assert ((counts - 1250).abs() < 5 * 1250**0.5).all()
    full = silent[lengths == 15]
    starts = torch.bincount(full.int().argmax(1), minlength=49)
    assert len(starts) == 49
    # The last start is that of a length of 15 and a fraction: seldom.
    assert ((starts[:48] - len(full) / 48.5).abs() < 5 * (len(full) / 48.5) ** 0.5).all()


def test_spec_augment_of_more_than_there_is():
    torch.manual_seed(0)
    silent = SpecAugment(max_bands=1000, max_frames=1000)(torch.zeros(50, 96, 64)) == SILENCE
    assert silent.any()
    assert not silent.all(dim=(1, 2)).all()
    for name in ("max_bands", "max_frames"):
        with pytest.raises(ValueError, match=f"`{name}` of at least 0, got -1"):
            SpecAugment(**{name: -1})


@pytest.fixture
def pair(generator):
    values = torch.randn(6, 5, 8, generator=generator)
    lengths = torch.tensor([5, 3, 1, 4, 5, 2])
    mask = torch.arange(5) < lengths[:, None]
    return values * mask[..., None], mask, torch.eye(6)


def test_mixup(pair):
    torch.manual_seed(0)
    values, mask, target = pair
    mixed, mixed_mask, mixed_target = mixup(values, mask, target, alpha=1.0)
    assert len({round(float(row.max()), 3) for row in mixed_target}) > 3  # a weight for each pair
    assert torch.allclose(mixed_target.sum(1), torch.ones(6))
    partners = []
    for i in range(6):
        weight = mixed_target[i, i]
        (others,) = torch.where(mixed_target[i] * (1 - torch.eye(6)[i]) > 0)
        partner = int(others[0]) if len(others) else i
        partners.append(partner)
        for step in range(5):
            mine, theirs = values[i, step], values[partner, step]
            if mask[i, step] and mask[partner, step]:
                expected = weight * mine + (1 - weight) * theirs
            else:
                expected = mine + theirs  # one of them is zero
            assert torch.allclose(mixed[i, step], expected, atol=1e-6)
            assert mixed_mask[i, step] == (mask[i, step] or mask[partner, step])
    assert sorted(partners) == list(range(6))
    assert partners != list(range(6))


def test_mixup_of_waveforms_and_examples(pair):
    _, mask, target = pair
    for values in (torch.ones(6, 5), torch.ones(6, 5, 96, 64)):
        mixed, _, _ = mixup(values, torch.ones_like(mask), target, alpha=0.3)
        assert torch.allclose(mixed, values)


@pytest.mark.parametrize(("alpha", "extreme"), [(0.1, True), (50.0, False)])
def test_alpha(alpha, extreme):
    torch.manual_seed(0)
    target = torch.eye(400)
    _, _, mixed = mixup(torch.zeros(400, 1), torch.ones(400, 1, dtype=bool), target, alpha)
    weight = mixed.diagonal()
    near_the_ends = ((weight < 0.1) | (weight > 0.9)).float().mean()
    assert (near_the_ends > 0.7) == extreme
    assert (near_the_ends < 0.1) != extreme
    assert weight.mean() == pytest.approx(0.5, abs=0.06)


def test_mixup_keeps_what_comes_in(pair):
    before = [part.clone() for part in pair]
    mixup(*pair, alpha=1.0)
    assert all(torch.equal(part, copy) for part, copy in zip(pair, before, strict=True))


@pytest.mark.slow
def test_mixup_gradient(pair):
    values, mask, target = pair
    values = values.double().requires_grad_()

    def run(values):
        torch.manual_seed(1)
        return mixup(values, mask, target, alpha=1.0)[0]

    assert torch.autograd.gradcheck(run, values)


def test_mixup_refuses(pair):
    values, mask, target = pair
    with pytest.raises(ValueError, match=r"got torch\.uint8; dequantize them first"):
        mixup(values.byte(), mask, target, alpha=1.0)
    with pytest.raises(ValueError, match="`alpha` to be positive, got 0"):
        mixup(values, mask, target, alpha=0.0)
