import pytest
import torch
from folders import TESTS

from vggish_hf import VGGishFeatureConfig, VGGishFeatureExtractor
from vggish_hf.audio import load_audio
from vggish_hf.training.batches import WaveformClip, collate_waveforms, extract_batch

AUDIO = TESTS / "data" / "audio_cases"

# A batch is filtered by other matrix products than a clip: float32 rounding of the spectrum, which
# the logarithm magnifies where bands are silent.
TOLERANCE = 2e-5


def real_clip(name, start, end):
    waveform, rate = load_audio(AUDIO / name)
    waveform = waveform[round(start * rate) : round(end * rate)]
    return WaveformClip(id=name, waveform=waveform, sampling_rate=rate)


@pytest.fixture(scope="module")
def clips():
    return [
        real_clip("rochars__8bit-alaw-8kHz-noBext-mono-encoded.wav", 0, 6),
        real_clip("harritaylor__test.wav", 0, 4),
        real_clip("facebookresearch__bach.mp3", 1, 3.5),
        real_clip("iver56__signed_24bit.wav", 0, 1.1),
        real_clip("librosa__198-209-0000.ogg", 2, 4.1),
        real_clip("facebookresearch__bach.mp3", 4, 4.3),  # shorter than an example
        real_clip("harritaylor__test.wav", 1, 1.9),  # too
    ]


@pytest.fixture(params=["none", "short", "tail"])
def extractor(request):
    return VGGishFeatureExtractor(VGGishFeatureConfig(padding=request.param))


def test_collate(clips):
    batch = collate_waveforms(clips)
    assert batch["id"] == [clip["id"] for clip in clips]
    assert batch["sampling_rate"].tolist() == [8000, 16000, 44100, 48000, 22050, 44100, 16000]
    assert batch["waveform"].dtype == torch.float32
    assert batch["length"].dtype == batch["sampling_rate"].dtype == torch.int64
    assert "target" not in batch
    for row, length, clip in zip(batch["waveform"], batch["length"], clips, strict=True):
        assert torch.equal(row[:length], clip["waveform"])
        assert not row[length:].any()


def test_collate_targets(clips):
    targets = torch.eye(len(clips))
    batch = collate_waveforms(
        [WaveformClip(**clip, target=row) for clip, row in zip(clips, targets, strict=True)]
    )
    assert torch.equal(batch["target"], targets)


def test_each_clip_gets_what_the_extractor_gives_it_alone(clips, extractor):
    examples, mask = extract_batch(extractor, collate_waveforms(clips))
    assert len({clip["sampling_rate"] for clip in clips}) == 5
    longest = 0
    for found, valid, clip in zip(examples, mask, clips, strict=True):
        alone = extractor(clip["waveform"], clip["sampling_rate"])
        longest = max(longest, len(alone))
        assert valid.tolist() == [i < len(alone) for i in range(len(valid))]
        assert torch.allclose(found[valid], alone, rtol=0, atol=TOLERANCE)
        assert not found[~valid].any()
    assert examples.shape == (len(clips), longest, 96, 64)


def test_the_order_of_clips_does_not_matter(clips):
    extractor = VGGishFeatureExtractor()
    examples, mask = extract_batch(extractor, collate_waveforms(clips))
    backwards, mask_backwards = extract_batch(extractor, collate_waveforms(clips[::-1]))
    assert torch.allclose(examples.flip(0), backwards, rtol=0, atol=TOLERANCE)
    assert torch.equal(mask.flip(0), mask_backwards)


@pytest.mark.parametrize(("padding", "count"), [("none", 0), ("short", 1), ("tail", 1)])
def test_clips_that_are_all_too_short(clips, padding, count):
    extractor = VGGishFeatureExtractor(VGGishFeatureConfig(padding=padding))
    one_sample = WaveformClip(id="x", waveform=torch.ones(1), sampling_rate=44_100)
    examples, mask = extract_batch(extractor, collate_waveforms([clips[5], one_sample]))
    assert examples.shape == (2, count, 96, 64)
    assert mask.shape == (2, count)
    assert mask.all()
    alone = extractor(clips[5]["waveform"], 44_100)
    assert torch.allclose(examples[0], alone, rtol=0, atol=TOLERANCE)
    assert torch.allclose(examples[1], torch.full((count, 96, 64), 0.01).log())


def test_autocast_changes_nothing(clips):
    batch = collate_waveforms(clips)
    extractor = VGGishFeatureExtractor()
    expected, _ = extract_batch(extractor, batch)
    with torch.autocast("cpu", torch.bfloat16):
        examples, _ = extract_batch(extractor, batch)
    assert examples.dtype == torch.float32
    assert torch.equal(examples, expected)


def test_gradient(clips):
    batch = collate_waveforms(clips)
    batch["waveform"].requires_grad_()
    examples, _ = extract_batch(VGGishFeatureExtractor(), batch)
    examples[2, 0].sum().backward()
    gradient = batch["waveform"].grad
    assert gradient[2, :44_100].any()
    assert not gradient[[0, 1, 3, 4, 5, 6]].any()


def test_not_finite(clips):
    batch = collate_waveforms(clips)
    batch["waveform"][3, 7] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        extract_batch(VGGishFeatureExtractor(), batch)
