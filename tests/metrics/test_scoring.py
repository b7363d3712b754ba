"""Scores of real audio, degraded step by step."""

import itertools
import json
import warnings

import numpy as np
import pytest
import soundfile
import torch
from folders import TESTS

from vggish_hf import (
    VGGishConfig,
    VGGishFeatureExtractor,
    VGGishModel,
    VGGishOutput,
    VGGishPipeline,
)
from vggish_hf.audio import load_audio
from vggish_hf.hub import BUILTIN_MODELS, WEIGHTS_NAME
from vggish_hf.metrics import (
    EmbeddingStatistics,
    bootstrap_interval,
    fad_infinity,
    frechet_audio_distance,
    frechet_distance,
)
from vggish_hf.outputs import open_output

DEMO = BUILTIN_MODELS["demo"](True) / WEIGHTS_NAME
demo = pytest.param(
    "demo",
    marks=pytest.mark.skipif(not DEMO.is_file(), reason="the demo network has no weights"),
)

# What float32 leaves of zero in a network whose embeddings vary by ten.
ZERO = 1e-6


@pytest.fixture
def pipe(lively_model_folder):
    return VGGishPipeline.from_pretrained(lively_model_folder)


@pytest.fixture(params=[pytest.param("lively", marks=pytest.mark.slow), demo])
def any_pipe(request, pipe):
    """The small network of random weights, and the one that is trained."""
    return pipe if request.param == "lively" else VGGishPipeline.from_pretrained(request.param)


@pytest.fixture(scope="module")
def clips():
    """Six pieces of five seconds of each real recording that is long enough."""
    folder = TESTS / "data" / "audio_cases"
    pieces = []
    for name in (
        "facebookresearch__bach.mp3",
        "librosa__198-209-0000.ogg",
        "harritaylor__test.wav",
        "rochars__8bit-16kHz-bext-mono.wav",
    ):
        waveform, rate = load_audio(folder / name)
        pieces += [(piece, rate) for piece in waveform.split(5 * rate) if len(piece) > rate]
    return pieces


def with_noise(clips, deviation):
    generator = torch.Generator().manual_seed(0)
    return [
        (waveform + deviation * torch.randn(waveform.shape, generator=generator), rate)
        for waveform, rate in clips
    ]


def low_pass(clips, hertz):
    filtered = []
    for waveform, rate in clips:
        spectrum = torch.fft.rfft(waveform)
        spectrum[torch.fft.rfftfreq(len(waveform), 1 / rate) > hertz] = 0
        filtered.append((torch.fft.irfft(spectrum, len(waveform)), rate))
    return filtered


def score(real, fake, pipe, **options):
    return frechet_audio_distance(real, fake, model=pipe, **options).score


def test_to_itself(any_pipe, clips):
    result = frechet_audio_distance(clips, clips, model=any_pipe)
    assert 0 <= result.score < ZERO
    assert result.real.clips == result.fake.clips == len(clips)


def test_symmetric(any_pipe, clips):
    noisy = with_noise(clips, 0.01)
    there, back = score(clips, noisy, any_pipe), score(noisy, clips, any_pipe)
    assert there > 1000 * ZERO
    assert there == pytest.approx(back, rel=1e-6)


def test_order_and_batch_size_change_nothing(any_pipe, clips):
    noisy = with_noise(clips, 0.01)
    expected = score(clips, noisy, any_pipe)
    assert score(clips[::-1], noisy[::-1], any_pipe) == pytest.approx(expected, rel=1e-4)
    for batch_size in (1, 5, 100):
        found = score(clips, noisy, any_pipe, batch_size=batch_size, num_workers=1)
        assert found == pytest.approx(expected, rel=1e-4)


# Random weights follow a degradation only so far; from where it is loud their distance falls again.
FAINT = (0.0001, 0.0003, 0.001, 0.003, 0.01)
HERTZ = (7000, 6000, 5000, 4000, 3000, 2000, 1000)


@pytest.mark.parametrize(
    "preset",
    [
        "default",
        pytest.param("gudgud", marks=pytest.mark.slow),
        pytest.param("fadtk", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("degrade", "levels"),
    [(with_noise, FAINT), pytest.param(low_pass, HERTZ, marks=pytest.mark.slow)],
)
def test_it_rises_with_degradation(any_pipe, clips, degrade, levels, preset):
    real = frechet_audio_distance(clips, clips, model=any_pipe, preset=preset).real.statistics
    scores = [score(real, degrade(clips, level), any_pipe, preset=preset) for level in levels]
    assert all(after > 1.1 * before for before, after in itertools.pairwise([ZERO, *scores]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "deviations", "hertz"),
    [
        ("lively", FAINT[:4], HERTZ[::2]),
        pytest.param(
            *demo.values,
            (0.001, 0.003, 0.01, 0.03, 0.1),
            (6000, 4000, 3000, 2000, 1000),  # from 1000 to 500 Hz its distance falls again
            marks=demo.marks,
        ),
    ],
)
def test_it_rises_with_degradation_of_many_recordings(model, deviations, hertz, request, shared):
    folder = request.getfixturevalue("lively_model_folder") if model == "lively" else model
    pipe = VGGishPipeline.from_pretrained(folder)
    files = sorted((shared / "data" / "esc10").glob("*/*.ogg"))
    clips = [load_audio(path) for path in files[2::16]]
    real = frechet_audio_distance(clips, clips, model=pipe).real.statistics
    for degrade, levels in ((with_noise, deviations), (low_pass, hertz)):
        scores = [score(real, degrade(clips, level), pipe) for level in levels]
        assert all(after > 1.05 * before for before, after in itertools.pairwise([ZERO, *scores]))


@pytest.fixture
def folders(clips, tmp_path):
    """Two folders of WAV files; one file of the second is broken."""
    for name, pieces in (("real", clips), ("fake", with_noise(clips, 0.01))):
        (tmp_path / name).mkdir()
        for number, (waveform, rate) in enumerate(pieces):
            path = tmp_path / name / f"{number:02}.wav"
            soundfile.write(path, waveform.numpy(), rate, subtype="FLOAT")
    (tmp_path / "fake" / "broken.wav").write_bytes(b"noise")
    return tmp_path / "real", tmp_path / "fake"


def test_two_folders(lively_model_folder, pipe, clips, folders):
    result = frechet_audio_distance(*folders, model=lively_model_folder)
    assert result.score == pytest.approx(score(clips, with_noise(clips, 0.01), pipe), rel=1e-4)
    ((name, reason),) = result.fake.failures
    assert name.endswith("broken.wav")
    assert "cannot open it" in reason
    assert result.real.failures == ()
    assert result.fake.clips == len(clips)
    assert result.provenance == result.real.statistics.provenance
    assert result.provenance["weights_sha256"] == pipe.weights_sha256


@pytest.mark.slow
def test_the_result_as_json(pipe, folders):
    result = frechet_audio_distance(*folders, model=pipe, per_clip=True, confidence=0.9)
    found = json.loads(json.dumps(result.to_dict()))
    assert found["score"] == result.score
    assert found["fake"]["clips"] == result.fake.clips
    assert found["fake"]["examples"] == result.fake.statistics.count
    assert found["fake"]["failures"][0]["clip"].endswith("broken.wav")
    assert len(found["per_clip"]) == result.fake.clips
    assert found["per_clip"][0]["score"] == result.per_clip[0].score
    assert found["interval"]["confidence"] == 0.9
    assert found["infinity"] is None
    assert found["provenance"]["preset"]["name"] == "default"


def test_stored_embeddings_and_statistics_give_the_same(pipe, clips, tmp_path):
    noisy = with_noise(clips, 0.01)
    expected = frechet_audio_distance(clips, noisy, model=pipe)
    expected.real.statistics.save(tmp_path / "real.npz")
    with open_output(
        tmp_path / "fake.parquet", 128, torch.float32, pipe.provenance("none")
    ) as write:
        for output in pipe.stream(noisy):
            write(str(output.index), output)
    found = frechet_audio_distance(tmp_path / "real.npz", tmp_path / "fake.parquet")
    assert found.score == pytest.approx(expected.score, rel=1e-6)
    assert found.real.clips == len(clips)
    mixed = score(expected.real.statistics, noisy, pipe)
    assert mixed == pytest.approx(expected.score, rel=1e-6)


def test_each_clip(pipe, clips):
    noisy = [*with_noise(clips, 0.01), (torch.rand(1000), 16_000)]
    result = frechet_audio_distance(clips, noisy, model=pipe, per_clip=True)
    assert len(result.per_clip) == len(noisy)
    real = result.real.statistics
    for name, examples, found in result.per_clip[:-1]:
        rows = pipe(noisy[int(name.removeprefix("clip "))]).embeddings.numpy()
        own = np.cov(rows, rowvar=False)
        expected = frechet_distance(real.mean, real.covariance, rows.mean(0), own)
        assert examples == len(rows)
        assert found == pytest.approx(expected, rel=1e-4)
    scores = [clip.score for clip in result.per_clip[:-1]]
    assert scores == sorted(scores)
    assert result.per_clip[-1] == (f"clip {len(clips)}", 1, None)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two sets of embeddings: the statistics of one, and clips of three rows of the other."""
    rng = np.random.default_rng(0)
    real = EmbeddingStatistics.from_embeddings(rng.normal(size=(2000, 128)))
    path = tmp_path_factory.mktemp("stored") / "fake.parquet"
    rows = rng.normal(size=(600, 3, 128)).astype(np.float32) + 0.1
    with open_output(path, 128, torch.float32, {}) as write:
        for number, clip in enumerate(rows):
            write(f"{number:03}", VGGishOutput(torch.from_numpy(clip), torch.zeros(3).double()))
    return real, path, rows


@pytest.mark.slow
def test_infinity_and_interval(stored):
    real, path, rows = stored
    result = frechet_audio_distance(real, path, infinity=True, confidence=0.9)
    assert result.infinity == fad_infinity(real, list(rows))
    assert result.infinity.drawn == "clips"
    assert result.interval == bootstrap_interval(real, list(rows), confidence=0.9)
    (note,) = result.notes
    assert note.startswith("real and fake: nothing is known of how the embeddings were made")
    as_fadtk = frechet_audio_distance(real, path, infinity=True, preset="fadtk")
    assert as_fadtk.infinity == fad_infinity(real, rows.reshape(-1, 128), replace=True)


def test_infinity_of_few_clips(stored, tmp_path):
    real, _, rows = stored
    few = tmp_path / "few.parquet"
    with open_output(few, 128, torch.float32, {}) as write:
        for number, clip in enumerate(rows.reshape(-1, 9, 128)[:100]):
            write(str(number), VGGishOutput(torch.from_numpy(clip), torch.zeros(9).double()))
    result = frechet_audio_distance(real, few, infinity=True)
    assert result.infinity == fad_infinity(real, rows.reshape(-1, 128)[:900])
    assert "100 clips are too few to draw clips for infinity" in result.notes[-1]


def test_what_cannot_be_had_does_not_cost_the_score(pipe, clips):
    result = frechet_audio_distance(clips, clips, model=pipe, infinity=True)
    assert result.score < ZERO
    assert result.infinity is None
    examples = result.fake.statistics.count
    assert result.notes[-1] == (
        f"`infinity` needs more than 500 clips or examples, you have {examples}"
    )


def test_notes(pipe, clips):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a note says it already
        result = frechet_audio_distance(clips[:4], clips, model=pipe)
    assert [note.partition(" of ")[0] for note in result.notes] == [
        f"real: {result.real.statistics.count} examples",
        f"fake: {result.fake.statistics.count} examples",
    ]
    rng = np.random.default_rng(0)
    many = EmbeddingStatistics.from_embeddings(rng.normal(size=(200, 128)))
    (note,) = frechet_audio_distance(many, many).notes
    assert note.startswith("real and fake: nothing is known of how the embeddings were made")


def test_a_relu_is_noted(clips):
    config = VGGishConfig(
        conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16, embedding_activation="relu"
    )
    torch.manual_seed(0)
    pipe = VGGishPipeline(VGGishFeatureExtractor(), VGGishModel(config))
    result = frechet_audio_distance(clips, clips, model=pipe)
    assert any("the model applies a ReLU" in note for note in result.notes)
    assert result.provenance["config"]["embedding_activation"] == "relu"


def test_sets_that_were_embedded_differently(pipe, clips, tmp_path):
    google = frechet_audio_distance(clips, clips, model=pipe, preset="google").real.statistics
    google.save(tmp_path / "google.npz")
    with pytest.raises(
        ValueError, match=r"embedded differently(.|\n)*preset.peak_floor: 0.1 and None"
    ):
        score(tmp_path / "google.npz", clips, pipe)
    assert score(tmp_path / "google.npz", clips, pipe, preset="google") < ZERO
    result = frechet_audio_distance(tmp_path / "google.npz", clips, model=pipe, force=True)
    assert "embedded differently: preset.peak_floor: 0.1 and None" in result.notes


def test_errors(pipe, clips, tmp_path):
    silence = [(torch.zeros(16_000), 16_000)]
    with pytest.raises(ValueError, match="at least 2 examples in `real`, got 1"):
        score(silence, clips, pipe)
    names = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for name in names:
        name.write_bytes(b"noise")
    with pytest.raises(ValueError, match=r"got 0; failed clips: 2\n  .*a.wav: .*\n  .*b"):
        score(clips, names, pipe)
    with pytest.raises(FileNotFoundError, match=r"folder: './a.wav', nor any of 1 more"):
        score(clips, ["./a.wav", "./b.wav"], pipe)
    with pytest.raises(ValueError, match="a `model` to embed audio with"):
        frechet_audio_distance(clips, clips)
    with pytest.raises(ValueError, match="`confidence` between 0 and 1, got 95"):
        score(clips, clips, pipe, confidence=95)
    with pytest.raises(ValueError, match="`preset` to be one of"):
        score(clips, clips, pipe, preset="googol")
    with pytest.raises(FileNotFoundError):
        score(clips, clips, "./none")
    with pytest.raises(FileNotFoundError):
        frechet_audio_distance(tmp_path / "none.npz", clips, model=pipe)


def test_noise_of_the_score_without_audio():
    # Two samples of one distribution: the distance is all bias, and infinity finds next to none.
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 20_000, 128))
    result = frechet_audio_distance(
        EmbeddingStatistics.from_embeddings(real), EmbeddingStatistics.from_embeddings(fake[:1000])
    )
    assert result.score > 3
    statistics = EmbeddingStatistics.from_covariance(np.zeros(128), np.eye(128), 1_000_000)
    assert abs(fad_infinity(statistics, fake[:4000]).score) < 0.1 * result.score
