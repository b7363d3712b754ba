"""The module: goldens of the original, streams, export, company of torchaudio's transforms."""

import shutil

import numpy as np
import pytest
import soundfile
import torch
from folders import TESTS

from vggish_hf import VGGishFeatureConfig, VGGishFeatureExtractor
from vggish_hf.feature_extraction.functional import extract_examples
from vggish_hf.feature_extraction.resampling import resample

# The requirement is 5e-4 in the mean; this is what the resampler's taps at the original's places
# and float32 leave.
MEAN_ERROR = 1e-5
MEAN_ERROR_FLOAT64 = 2e-6  # the goldens are float32

CASES = np.load(TESTS / "golden" / "logmel_reference.npz")


def load_mono(path):
    samples, rate = soundfile.read(path, always_2d=True)
    return torch.from_numpy(samples.mean(1)), rate


def assert_equals_golden(path, golden):
    waveform, rate = load_mono(path)
    extractor = VGGishFeatureExtractor()
    for dtype, limit in ((torch.float32, MEAN_ERROR), (torch.float64, MEAN_ERROR_FLOAT64)):
        examples = extractor(waveform.to(dtype), sampling_rate=rate)
        assert examples.shape == golden.shape
        assert np.abs(examples.numpy() - golden).mean() <= limit


@pytest.mark.parametrize("name", CASES.files)
def test_golden_examples_of_real_files(name):
    folder = TESTS / "data" / "audio_cases"
    assert_equals_golden(folder / name, CASES[name])


def test_golden_examples_of_all_files(shared):
    golden = np.load(shared / "golden" / "logmel_reference.npz")
    assert len(golden.files) == 13
    for name in golden.files:
        assert_equals_golden(shared / "data" / "audio_cases" / name, golden[name])


def test_module_equals_functions(generator):
    config = VGGishFeatureConfig(padding="tail", example_hop_seconds=0.48)
    waveform = torch.randn(2, 50_000, generator=generator)
    expected = extract_examples(resample(waveform, 44_100, 16_000), config)
    assert torch.equal(VGGishFeatureExtractor(config)(waveform, 44_100), expected)


@pytest.mark.parametrize("batch", [(0,), (1,), (2,), (2, 3)])
def test_batch_equals_one_by_one(batch, generator):
    extractor = VGGishFeatureExtractor()
    waveform = 0.1 * torch.randn(*batch, 50_000, generator=generator, dtype=torch.float64)
    examples = extractor(waveform, 44_100)
    assert examples.shape == (*batch, 1, 96, 64)
    flat = zip(waveform.reshape(-1, 50_000), examples.reshape(-1, 1, 96, 64), strict=True)
    for row, expected in flat:
        assert torch.allclose(extractor(row, 44_100), expected, rtol=0, atol=1e-10)


def test_example_times():
    half = VGGishFeatureExtractor(VGGishFeatureConfig(example_hop_seconds=0.48))
    assert half.example_times(4).tolist() == pytest.approx([0.0, 0.48, 0.96, 1.44], abs=1e-15)
    assert half.example_times(4).dtype == torch.float64
    assert torch.equal(half.example_times(2, first_example=3), half.example_times(5)[3:])
    assert VGGishFeatureExtractor().example_times(0).shape == (0,)


@pytest.mark.parametrize("rate", [0, -16_000, 44_100.0])
def test_rate_is_checked(rate):
    with pytest.raises(ValueError, match="positive whole number of Hz"):
        VGGishFeatureExtractor()(torch.zeros(16_000), rate)


def test_integers_are_refused_before_resampling():
    with pytest.raises(ValueError, match="integer PCM"):
        VGGishFeatureExtractor()(torch.zeros(16_000, dtype=torch.int16), 44_100)


def test_a_cast_module_computes_the_same(generator):
    waveform = torch.randn(16_000, generator=generator, dtype=torch.float64)
    expected = VGGishFeatureExtractor()(waveform)
    assert torch.equal(VGGishFeatureExtractor().to(torch.bfloat16)(waveform), expected)
    assert VGGishFeatureExtractor().state_dict() == {}


@pytest.mark.parametrize("padding", ["none", "short", "tail"])
@pytest.mark.parametrize("hop", [0.48, 0.96, pytest.param(1.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize(
    "seconds",
    [
        1e-4,
        pytest.param(0.5, marks=pytest.mark.slow),
        0.98,
        pytest.param(5.0, marks=pytest.mark.slow),
        6.3,
    ],
)
def test_a_stream_has_no_seams(padding, hop, rate, seconds, generator):
    config = VGGishFeatureConfig(padding=padding, example_hop_seconds=hop)
    extractor = VGGishFeatureExtractor(config)
    waveform = 0.1 * torch.randn(
        max(int(seconds * rate), 3), generator=generator, dtype=torch.float64
    )
    whole = extractor(waveform, rate)
    for block, most in ((10_000, 1), (7_777, 3), (10**6, 64)):
        parts = list(extractor.stream(waveform.split(block), rate, max_examples=most))
        assert all(0 < len(part) <= most for part in parts)
        streamed = torch.cat([whole[:0], *parts])
        assert streamed.shape == whole.shape
        assert torch.allclose(streamed, whole, rtol=0, atol=1e-10)


def test_a_stream_checks_what_comes():
    extractor = VGGishFeatureExtractor()
    with pytest.raises(ValueError, match="got no blocks"):
        list(extractor.stream([]))
    with pytest.raises(ValueError, match=r"shape \(time,\), got \(2, 100\)"):
        list(extractor.stream([torch.zeros(2, 100)]))
    with pytest.raises(ValueError, match="finite samples"):
        list(extractor.stream([torch.zeros(100), torch.full((100,), torch.nan)]))
    with pytest.raises(ValueError, match="`max_examples` of at least 1, got 0"):
        list(extractor.stream([torch.zeros(100)], max_examples=0))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [None, 44_100])
def test_export(rate, generator):
    extractor = VGGishFeatureExtractor()
    sizes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    program = torch.export.export(
        extractor,
        (torch.zeros(2, 100_000), rate),
        dynamic_shapes={"waveform": sizes, "sampling_rate": None},
    )
    exported = program.module()
    # one clip or several, and lengths that give whole blocks of the resampler, too
    for shape in ((3, 123_456), (1, 88_200), (2, 132_300)):
        waveform = 0.1 * torch.randn(*shape, generator=generator)
        assert torch.allclose(exported(waveform, rate), extractor(waveform, rate), atol=1e-4)
    # What was traced left no fake tensor in a cache.
    assert torch.isfinite(extractor(waveform, rate)).all()


def test_vmap(generator):
    extractor = VGGishFeatureExtractor()
    waveform = 0.1 * torch.randn(2, 3, 44_100, generator=generator)
    mapped = torch.vmap(lambda clip: extractor(clip, 44_100))(waveform)
    assert torch.allclose(mapped, extractor(waveform, 44_100), atol=1e-5)


def test_times_are_rounded_once():
    extractor = VGGishFeatureExtractor(VGGishFeatureConfig(example_hop_seconds=0.1))
    assert extractor.example_times(12).tolist() == [i / 10 for i in range(12)]
    assert extractor.example_times(2, first_example=3).tolist() == [0.3, 0.4]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [None, 44_100])
def test_compiles_as_one_graph(rate, generator):
    extractor = VGGishFeatureExtractor()
    compiled = torch.compile(extractor, fullgraph=True, backend="aot_eager")
    waveform = 0.1 * torch.randn(2, 60_000, generator=generator)
    assert torch.allclose(compiled(waveform, rate), extractor(waveform, rate), atol=1e-4)


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning",
    "ignore:`torch.jit.trace:DeprecationWarning",
    "ignore:`torch.jit:FutureWarning",
)
def test_a_trace_serves_other_lengths(generator):
    extractor = VGGishFeatureExtractor()
    traced = torch.jit.trace(extractor, torch.zeros(2, 100_000), check_trace=False)
    waveform = 0.1 * torch.randn(3, 60_000, generator=generator)
    assert torch.allclose(traced(waveform), extractor(waveform), atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings(
    "ignore:Torchinductor does not support code generation for complex",
    "ignore:`torch.jit.script_method` is deprecated",
)
def test_compiles_to_code(generator):
    extractor = VGGishFeatureExtractor()
    waveform = 0.1 * torch.randn(2, 60_000, generator=generator)
    compiled = torch.compile(extractor, fullgraph=True)
    assert torch.allclose(compiled(waveform), extractor(waveform), atol=1e-4)


def test_composes_with_torchaudio(generator):
    transforms = pytest.importorskip("torchaudio.transforms", exc_type=(ImportError, OSError))
    waveform = 0.1 * torch.randn(2, 48_000, generator=generator)
    extractor = VGGishFeatureExtractor()
    chain = torch.nn.Sequential(transforms.Vol(0.5), extractor, transforms.FrequencyMasking(8))
    torch.manual_seed(0)
    examples = chain(waveform)
    assert examples.shape == (2, 3, 96, 64)
    kept = examples != 0
    assert torch.equal(examples[kept], extractor(0.5 * waveform)[kept])
    assert not kept.all()


@pytest.mark.gpu
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_the_gpu_computes_the_same(rate, generator):
    waveform = 0.1 * torch.randn(2, 100_000, generator=generator, dtype=torch.float64)
    extractor = VGGishFeatureExtractor()
    on_gpu = extractor(waveform.cuda(), rate)
    assert on_gpu.is_cuda
    assert torch.allclose(on_gpu.cpu(), extractor(waveform, rate), atol=1e-9)
