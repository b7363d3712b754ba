import copy
import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from fad_processes import SIZE, batches
from folders import TESTS
from processes import run_processes
from torchmetrics import MetricCollection

from vggish_hf import VGGishPipeline
from vggish_hf.metrics import (
    ClipEmbedder,
    EmbeddingStatistics,
    FrechetAudioDistance,
    SmallSampleWarning,
    embed_set,
    frechet_audio_distance,
)

few = pytest.mark.filterwarnings("ignore::vggish_hf.metrics.SmallSampleWarning")


@pytest.fixture
def pipe(lively_model_folder):
    return VGGishPipeline.from_pretrained(lively_model_folder)


@pytest.fixture
def clips(generator):
    """Unequal lengths, 8 kHz."""
    lengths = (8000, 20_000, 30_000, 12_345, 9000)
    return [torch.randn(length, generator=generator) / 9 for length in lengths]


def sets(count=100, size=SIZE):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, size)), 1.5 * rng.normal(size=(count, size)) + 1


def expected_distance(real, fake):
    real, fake = map(EmbeddingStatistics.from_embeddings, (real, fake))
    return real.distance(fake)


def test_embeddings():
    real, fake = sets()
    metric = FrechetAudioDistance(embedding_size=SIZE)
    for part in np.array_split(real, 7):
        metric.update(torch.from_numpy(part), real=True)
    for part in np.array_split(fake, 3):
        metric.update(torch.from_numpy(part).float(), False)
    distance = metric.compute()
    assert distance.dtype == torch.float64
    assert distance.shape == ()
    assert float(distance) == pytest.approx(expected_distance(real, fake), rel=1e-6)
    assert metric.statistics(real=True).count == 100


@few
def test_waveforms(pipe, clips):
    metric = FrechetAudioDistance(pipe)
    metric.update(clips, real=True, sampling_rate=8000)
    noisy = [clip + 0.1 * torch.sin(torch.arange(len(clip))) for clip in clips]
    metric.update(noisy[:2], real=False, sampling_rate=8000)
    metric.update(noisy[2:], real=False, sampling_rate=8000)
    expected = frechet_audio_distance(
        [(clip, 8000) for clip in clips], [(clip, 8000) for clip in noisy], model=pipe
    )
    assert float(metric.compute()) == pytest.approx(expected.score, rel=1e-4)
    statistics = metric.statistics(real=False)
    assert statistics.count == expected.fake.statistics.count
    assert statistics.provenance == expected.provenance


@few
@pytest.mark.parametrize("channels", [None, 1, 2])
def test_a_padded_batch(pipe, clips, channels):
    metric = FrechetAudioDistance(pipe, real=EmbeddingStatistics.empty(128), force=True)
    metric.update(clips, real=False, sampling_rate=8000)
    longest = max(map(len, clips))
    padded = torch.full((len(clips), longest), torch.nan)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    if channels:
        padded = padded[:, None].repeat(1, channels, 1)
    other = FrechetAudioDistance(pipe, real=EmbeddingStatistics.empty(128), force=True)
    lengths = torch.tensor([len(clip) for clip in clips])
    other.update(padded, real=False, sampling_rate=8000, lengths=lengths)
    assert torch.allclose(metric.fake_moments, other.fake_moments, rtol=1e-4, atol=1e-3)
    equal = torch.stack([clip[:8000] for clip in clips])
    other.reset()
    other.update(equal, real=False, sampling_rate=8000)
    assert other.statistics(real=False).count == 5


def test_a_preset(pipe, clips):
    metric = FrechetAudioDistance(pipe, preset="google")
    metric.update([clips[1]], real=True, sampling_rate=8000)
    expected = embed_set([(clips[1], 8000)], ClipEmbedder(pipe, "google")).statistics
    found = metric.statistics(real=True)
    assert found.count == expected.count == 4  # 2.5 s: every half second a whole one
    assert np.allclose(found.mean, expected.mean, rtol=1e-5)
    assert found.provenance["preset"]["name"] == "google"


@few
def test_known_statistics(pipe, clips, tmp_path):
    real = embed_set([(clip, 8000) for clip in clips], ClipEmbedder(pipe)).statistics
    real.save(tmp_path / "real.npz")
    distances = []
    for given in (real, tmp_path / "real.npz", str(tmp_path / "real.npz")):
        metric = FrechetAudioDistance(pipe, real=given)
        metric.update(clips[:3], real=False, sampling_rate=8000)
        distances.append(float(metric.compute()))
        with pytest.raises(
            ValueError, match="only fake clips, since the metric has the statistics"
        ):
            metric.update(clips, real=True, sampling_rate=8000)
    assert distances[0] > 1e-3
    assert distances == pytest.approx([distances[0]] * 3)
    # It is the one use in which calling the metric gives a batch's own distance.
    count = metric.statistics(real=False).count
    assert float(metric(clips[:3], real=False, sampling_rate=8000)) == pytest.approx(distances[0])
    assert metric.statistics(real=False).count == 2 * count


def test_statistics_of_another_provenance(pipe):
    real, _ = sets(200, 128)
    unknown = EmbeddingStatistics.from_embeddings(real)
    with pytest.raises(
        ValueError, match=r"embedded differently(.|\n)*  one of the two has no provenance"
    ):
        FrechetAudioDistance(pipe, real=unknown)
    assert FrechetAudioDistance(pipe, real=unknown, force=True).real is unknown
    small = EmbeddingStatistics.from_embeddings(real[:, :5])
    with pytest.raises(ValueError, match="one size, got 128 and 5"):
        FrechetAudioDistance(pipe, real=small, force=True)
    assert FrechetAudioDistance(real=small).embedding_size == 5


def test_reset():
    real, fake = map(torch.from_numpy, sets())
    for reset_real_features in (True, False):
        metric = FrechetAudioDistance(embedding_size=SIZE, reset_real_features=reset_real_features)
        metric.update(real, True)
        metric.update(fake[:50], False)
        metric.reset()
        assert metric.statistics(real=False).count == 0
        assert metric.statistics(real=True).count == (0 if reset_real_features else 100)
    metric.update(fake, False)
    expected = expected_distance(real, fake)
    assert float(metric.compute()) == pytest.approx(expected)
    # A batch's own distance does not count the real set twice, nor forget it.
    assert float(metric(fake[:50], False)) == pytest.approx(expected_distance(real, fake[:50]))
    assert metric.statistics(real=True).count == 100
    assert metric.statistics(real=False).count == 150


def test_the_state_is_small():
    metric = FrechetAudioDistance()
    rng = np.random.default_rng(0)
    before = len(pickle.dumps(metric))
    for _ in range(50):
        metric.update(torch.from_numpy(rng.normal(size=(1000, 128))), True)
    assert metric.statistics(real=True).count == 50_000
    assert len(pickle.dumps(metric)) == pytest.approx(before, rel=0.01)
    assert before < 700_000  # two sets, and what reset takes


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))]
)
def test_copies(pipe, clips, copied):
    metric = FrechetAudioDistance(pipe)
    metric.update(clips, real=True, sampling_rate=8000)
    other = copied(metric)
    for one in (metric, other):
        one.update(clips[:2], real=False, sampling_rate=8000)
        one.update(clips[:2], real=True, sampling_rate=8000)
    assert torch.allclose(metric.real_moments, other.real_moments)
    assert other.statistics(real=True).provenance == metric.statistics(real=True).provenance
    with pytest.warns(SmallSampleWarning):
        assert float(metric.compute()) == pytest.approx(float(other.compute()), rel=1e-6)


def test_in_a_collection():
    real, fake = map(torch.from_numpy, sets())
    metrics = MetricCollection({"fad": FrechetAudioDistance(embedding_size=SIZE)})
    metrics.update(real, real=True)
    metrics.update(fake, real=False)
    assert float(metrics.compute()["fad"]) == pytest.approx(expected_distance(real, fake))


@pytest.mark.parametrize("move", ["half", "float", "double", "bfloat16"])
def test_other_precision_changes_neither_state_nor_network(pipe, clips, move):
    metric = FrechetAudioDistance(pipe)
    holder = torch.nn.ModuleDict({"fad": metric})
    getattr(holder, move)()
    assert metric.real_moments.dtype == torch.float64
    assert pipe.model.dtype == torch.float32
    metric.update(clips[:1], real=True, sampling_rate=8000)
    assert metric.real_moments.dtype == torch.float64


def test_the_network_is_in_no_checkpoint(pipe):
    holder = torch.nn.ModuleDict({"fad": FrechetAudioDistance(pipe)})
    assert holder.state_dict() == {}
    assert list(holder.parameters()) == []


def test_persistent_state():
    real, _ = map(torch.from_numpy, sets())
    metric = FrechetAudioDistance(embedding_size=SIZE)
    metric.persistent(True)
    metric.update(real, True)
    other = FrechetAudioDistance(embedding_size=SIZE)
    other.load_state_dict(metric.state_dict())
    assert other.statistics(real=True).count == 100


def test_it_moves_with_its_network(pipe):
    metric = FrechetAudioDistance(pipe)
    torch.nn.ModuleDict({"fad": metric}).to("meta")
    assert {metric.real_moments.device.type, metric.fake_moments.device.type} == {"meta"}
    assert pipe.model.device.type == "meta"
    assert metric.device.type == "meta"


@pytest.mark.gpu
def test_on_a_gpu(lively_model_folder, clips):
    distances = []
    for device in ("cpu", "cuda"):
        metric = FrechetAudioDistance(lively_model_folder).to(device)
        metric.update([clip.to(device) for clip in clips], real=True, sampling_rate=8000)
        metric.update(torch.randn(200, 128).to(device), real=False)
        metric.update([clip.to(device) for clip in clips[:2]], real=False, sampling_rate=8000)
        assert metric.real_moments.device.type == device
        assert metric.embedder.pipeline.model.device.type == device
        metric.reset()
        assert metric.real_moments.device.type == device
        metric.update([clip.to(device) for clip in clips], real=True, sampling_rate=8000)
        metric.update([clip.to(device) for clip in clips[:3]], real=False, sampling_rate=8000)
        with pytest.warns(SmallSampleWarning):
            distances.append(metric.compute())
        assert distances[-1].device.type == device
    assert float(distances[0]) == pytest.approx(float(distances[1]), rel=1e-2)


IN_TWO_PROCESSES = """
import json, sys
import torch
from torch import distributed

sys.path.insert(0, sys.argv[1])
from fad_processes import distances_of_shares

distributed.init_process_group("gloo")
print(json.dumps(distances_of_shares(distributed.get_rank(), json.loads(sys.argv[2]))))
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes():
    by_set = {True: [], False: []}
    for embeddings, real in batches():
        by_set[real].append(embeddings.double())
    expected = expected_distance(torch.cat(by_set[True]), torch.cat(by_set[False]))
    shares = [(0, 1, 0, 1, 0, 1), (0, 0, 1, 1, 1, 0), (1, 1, 1, 1, 1, 1)]
    outputs = run_processes(IN_TWO_PROCESSES, TESTS, json.dumps(shares))
    results = [json.loads(output) for output in outputs]
    assert [len(of_process) for of_process in results] == [3, 3]
    for distance, before, after in itertools.chain.from_iterable(results):
        assert distance == pytest.approx(expected, rel=1e-9)
        assert before == after  # each has its own part again


def test_warnings_and_errors(pipe, clips):
    real, fake = map(torch.from_numpy, sets())
    metric = FrechetAudioDistance(embedding_size=SIZE)
    metric.update(fake, False)
    with pytest.raises(ValueError, match=r"of the real set, got 0; call update\(..., real=True\)"):
        metric.compute()
    metric.update(real[:1], True)
    with pytest.raises(ValueError, match="of the real set, got 1"):
        metric.compute()
    metric.update(real[1:SIZE], True)
    with pytest.warns(SmallSampleWarning, match="8 examples of 8 dimensions"):
        assert torch.isfinite(metric.compute())
    with pytest.raises(ValueError, match=r"shape \(examples, 8\), got \(4, 16000\); pass `sampl"):
        metric.update(torch.zeros(4, 16_000), True)
    with pytest.raises(ValueError, match=r"shape \(examples, 8\), got list"):
        metric.update([torch.zeros(8)], True)
    with pytest.raises(ValueError, match="float type, got uint8"):
        metric.update(torch.zeros(4, 8, dtype=torch.uint8), True)
    with pytest.raises(ValueError, match="finite embeddings"):
        metric.update(torch.full((4, 8), torch.nan), True)
    with pytest.raises(ValueError, match="the metric has no `model`"):
        metric.update(torch.zeros(4, 16_000), True, sampling_rate=16_000)

    metric = FrechetAudioDistance(pipe)
    for waveforms, options, message in [
        (torch.zeros(16_000), {}, r"\(batch, channels, time\), got \(16000,\); a single clip"),
        (torch.zeros(2, 9), {"lengths": [9]}, "2 `lengths` from 1 to 9 samples"),
        (torch.zeros(2, 9), {"lengths": [9, 10]}, r"from 1 to 9 samples, got \[9, 10\]"),
        (torch.zeros(2, 9), {"lengths": [0, 9]}, "from 1 to 9 samples"),
        (clips, {"lengths": [1] * 5}, "`lengths` only with a padded tensor"),
        ([torch.full((9,), torch.nan)], {}, "finite samples"),
        ([torch.zeros(9, dtype=torch.int16)], {}, "array of floats"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric.update(waveforms, True, sampling_rate=8000, **options)
    with pytest.raises(ValueError, match="positive whole number of Hz"):
        metric.update(clips, True, sampling_rate=-1)
    assert metric.statistics(real=True).count == 0  # nothing of what failed was counted


@pytest.mark.slow
def test_without_torchmetrics():
    code = (
        "import sys; sys.modules['torchmetrics'] = None\n"
        "from vggish_hf import metrics\n"
        "print(metrics.frechet_distance([0.0], [[1.0]], [1.0], [[1.0]]))\n"
        "from vggish_hf.metrics import FrechetAudioDistance"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "1.0\n"
    assert "ImportError: FrechetAudioDistance needs `torchmetrics`" in done.stderr
    assert "pip install 'vggish-hf[lightning]'" in done.stderr


@pytest.mark.slow
def test_importing_metrics_imports_no_torchmetrics():
    code = (
        "import sys, vggish_hf.metrics\n"
        "sys.exit(bool({'torchmetrics', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
