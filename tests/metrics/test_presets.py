"""Each preset against the tool's own steps, written out slowly from its code."""

import numpy as np
import pytest
import soundfile
import torch
from folders import TESTS
from reference import log_mel_examples

from vggish_hf import VGGishFeatureConfig, VGGishFeatureExtractor, VGGishPipeline
from vggish_hf.audio import load_audio
from vggish_hf.feature_extraction.resampling import resample
from vggish_hf.metrics import PRESETS, ClipEmbedder

# float32 in the front end and in batches of other sizes.
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture
def pipe(lively_model_folder):
    return VGGishPipeline.from_pretrained(lively_model_folder)


@torch.no_grad()
def network(pipe, examples):
    shape = (-1, 96, 64)
    return pipe.model(torch.from_numpy(np.asarray(examples)).float().reshape(shape)).numpy()


def embed(pipe, preset, clip):
    ((_, rows),) = ClipEmbedder(pipe, preset).stream([clip])
    return rows


def clip(samples, level=0.3, rate=16_000, seed=0):
    rng = np.random.default_rng(seed)
    envelope = np.sin(np.linspace(0, 9, samples)) ** 2
    waveform = envelope * rng.normal(size=samples).clip(-3, 2.5)
    return (level * waveform / np.abs(waveform).max()).astype(np.float32), rate


def as_google_does(samples, floor=0.1):
    """The examples of `AudioSetModel.extract_features`: windows of a second every half second."""
    samples = samples.astype(np.float64) / max(floor, samples.max())
    starts = range(0, len(samples) - 16_000 + 1, 8000)
    return [log_mel_examples(samples[start : start + 16_000]) for start in starts]


# The second window is whole with 24,000 samples, though its example needs 23,600 alone.
@pytest.mark.parametrize("samples", [16_000, 23_700, 23_999, 24_000, 60_000])
@pytest.mark.parametrize("level", [0.02, pytest.param(0.9, marks=pytest.mark.slow)])
def test_google(pipe, samples, level):
    waveform, rate = clip(samples, level)
    examples = as_google_does(waveform)
    assert len(examples) == (samples - 8000) // 8000
    rows = embed(pipe, "google", (waveform, rate))
    assert np.allclose(rows, network(pipe, examples), **TOLERANCE)


def test_google_takes_the_largest_sample_not_the_largest_magnitude(pipe):
    waveform, rate = clip(32_000)
    waveform = np.where(waveform > 0, waveform / 2, waveform)
    assert waveform.max() < 0.6 * np.abs(waveform).max()
    rows = embed(pipe, "google", (waveform, rate))
    assert np.allclose(rows, network(pipe, as_google_does(waveform)), **TOLERANCE)


def test_google_reads_integers(pipe, tmp_path):
    # A quiet file of 16 bits: its integers are far above 0.1, and so it is brought to full scale.
    waveform, rate = clip(40_000, level=0.01)
    path = tmp_path / "quiet.wav"
    soundfile.write(path, waveform, rate, subtype="PCM_16")
    integers, _ = soundfile.read(path, dtype="int16")
    rows = embed(pipe, "google-int16", path)
    assert np.allclose(rows, network(pipe, as_google_does(integers)), **TOLERANCE)
    as_floats = embed(pipe, "google", path)
    assert np.allclose(as_floats, network(pipe, as_google_does(integers / 32_768)), **TOLERANCE)
    assert not np.allclose(rows, as_floats, **TOLERANCE)


@pytest.mark.parametrize("preset", ["google", "google-int16"])
def test_google_of_silence(pipe, preset):
    silence = np.zeros(16_000, np.float32)
    rows = embed(pipe, preset, (silence, 16_000))
    assert np.allclose(rows, network(pipe, log_mel_examples(silence)), **TOLERANCE)


@pytest.mark.parametrize("samples", [15_599, 15_600, 40_000])
def test_gudgud(pipe, samples):
    # torchvggish: examples of 0.96 s, and what fills none is dropped.
    waveform, rate = clip(samples)
    rows = embed(pipe, "gudgud", (waveform, rate))
    assert np.allclose(rows, network(pipe, log_mel_examples(waveform)), **TOLERANCE)
    assert len(rows) == (samples >= 15_600) * (1 + (samples - 15_600) // 15_360)


@pytest.mark.parametrize("samples", [1000, 15_700, 40_000])
def test_fadtk(pipe, samples):
    waveform, rate = clip(samples, level=1.0)
    # Written to and read from a file of 16 bits, padded to a second, kept in half precision.
    stored = np.clip(np.round(waveform * 32_768.0), -32_768, 32_767) / 32_768.0
    padded = np.pad(stored, (0, max(16_000 - samples, 0)))
    expected = network(pipe, log_mel_examples(padded)).astype(np.float16)
    rows = embed(pipe, "fadtk", (waveform, rate))
    assert rows.dtype == np.float32
    assert np.array_equal(rows, rows.astype(np.float16))
    assert np.allclose(rows, expected.astype(np.float32), rtol=2e-3, atol=2e-5)


def test_fadtk_rounds_the_samples(pipe):
    # Below half a step of 16 bits there is nothing.
    waveform, rate = clip(16_000, level=0.4 / 32_768)
    silence = embed(pipe, "fadtk", (np.zeros(16_000, np.float32), rate))
    assert np.array_equal(embed(pipe, "fadtk", (waveform, rate)), silence)
    assert not np.array_equal(embed(pipe, "gudgud", (waveform, rate)), silence)


def test_fadtk_clips_what_is_too_loud(pipe):
    waveform, rate = clip(16_000, level=2.0)
    clipped = waveform.clip(-1, 32_767 / 32_768)
    assert waveform.max() > 1
    rows = embed(pipe, "fadtk", (waveform, rate))
    assert np.array_equal(rows, embed(pipe, "fadtk", (clipped, rate)))


def test_default_is_the_pipeline_as_it_is(small_model):
    config = VGGishFeatureConfig(example_hop_seconds=0.48, padding="tail")
    pipe = VGGishPipeline(VGGishFeatureExtractor(config), small_model)
    waveform = clip(40_000)
    assert ClipEmbedder(pipe).pipeline is pipe
    assert np.allclose(embed(pipe, "default", waveform), pipe(waveform).embeddings, **TOLERANCE)


@pytest.mark.parametrize("preset", PRESETS)
def test_any_rate_and_channels(pipe, preset):
    path = TESTS / "data" / "audio_cases" / "librosa__198-209-0000.ogg"
    waveform, rate = load_audio(path)
    at_16k = (resample(waveform.double(), rate, 16_000).float(), 16_000)
    rows = embed(pipe, preset, path)
    # A step of 16 bits, or one of half precision (0.004 from 4 on), may fall to the other side.
    tolerance = {"rtol": 3e-3, "atol": 1e-2} if preset == "fadtk" else TOLERANCE
    assert np.allclose(rows, embed(pipe, preset, at_16k), **tolerance)
    stereo = (waveform[None] * torch.tensor([[0.5], [1.5]]), rate)
    assert np.allclose(rows, embed(pipe, preset, stereo), **tolerance)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_moment_at_a_high_rate(pipe, preset):
    # One sample at 48 kHz is none at 16 kHz.
    rows = embed(pipe, preset, (torch.ones(1), 48_000))
    assert len(rows) == (preset in ("default", "fadtk"))


@pytest.mark.parametrize(
    "preset",
    [name if name == "google" else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS],
)
def test_batch_size_and_blocks_change_nothing(pipe, preset, generator):
    # Ninety seconds: decoded in blocks of twenty, taken by the front end in parts of thirty.
    long = (0.05 * torch.randn(90 * 16_000 + 123, generator=generator), 16_000)
    clips = [clip(20_000), long, clip(50_000, seed=1)]
    alone = [embed(pipe, preset, one) for one in clips]
    for batch_size in (1, 7, 64):
        together = list(ClipEmbedder(pipe, preset).stream(clips, batch_size=batch_size))
        assert [index for index, _ in together] == [0, 1, 2]
        for (_, rows), expected in zip(together, alone, strict=True):
            assert np.allclose(rows, expected, rtol=2e-3 if preset == "fadtk" else 1e-4, atol=2e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_bad_clips_are_the_handlers(pipe, preset, tmp_path):
    bad = [tmp_path / "none.wav", (np.full(16_000, np.nan, np.float32), 16_000), b"noise"]
    failed = []
    found = ClipEmbedder(pipe, preset).stream(
        [*bad, clip(16_000)], on_error=lambda index, *_: failed.append(index)
    )
    assert [index for index, _ in found] == [3]
    assert failed == [0, 1, 2]
    with pytest.raises(ValueError, match="finite"):
        list(ClipEmbedder(pipe, preset).stream(bad[1:]))


def test_the_pipeline_that_was_given_is_left_alone(pipe):
    before = pipe.extractor
    embedder = ClipEmbedder(pipe, "google")
    assert pipe.extractor is before
    assert embedder.pipeline.model is pipe.model
    assert embedder.size == 128


def test_provenance(pipe, lively_model_folder):
    provenance = ClipEmbedder(pipe, "google").provenance
    assert provenance["model"] == str(lively_model_folder)
    assert provenance["weights_sha256"] == pipe.weights_sha256
    assert provenance["feature_config"]["example_hop_seconds"] == 0.5
    assert provenance["feature_config"]["padding"] == "none"
    assert provenance["config"]["embedding_activation"] == "none"
    assert provenance["postprocess"] == "none"
    assert provenance["resampler"] == "kaiser_best of resampy 0.4.3"
    assert provenance["preset"] == {
        "name": "google",
        "peak_floor": 0.1,
        "window_samples": 16_000,
        "int16": False,
        "float16": False,
    }


def test_a_model_by_its_id(lively_model_folder, pipe):
    waveform = clip(20_000)
    assert np.array_equal(
        embed(str(lively_model_folder), "gudgud", waveform), embed(pipe, "gudgud", waveform)
    )
    with pytest.raises(FileNotFoundError):
        ClipEmbedder("./none")


def test_errors(pipe, small_model):
    with pytest.raises(ValueError, match=r"`preset` to be one of 'default', 'google', .*'other'"):
        ClipEmbedder(pipe, "other")
    config = VGGishFeatureConfig(sampling_rate=32_000)
    other = VGGishPipeline(VGGishFeatureExtractor(config), small_model)
    with pytest.raises(ValueError, match="needs a model of 16 kHz, got one of 32000 Hz"):
        ClipEmbedder(other, "google")
    assert ClipEmbedder(other).pipeline is other
