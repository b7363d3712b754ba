"""The benchmarks' arithmetic; nothing is timed."""

import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import soundfile
import torch

from benchmarks import _materials, _peers, _timing, network, whole_job
from vggish_hf import VGGishConfig, VGGishModel

BENCHMARKS = Path(_timing.__file__).parent
NAMES = sorted(path.stem for path in BENCHMARKS.glob("[!_]*.py"))
ROUNDING = 1e-6  # of float32


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_what_it_is_and_can_be_run(name):
    # Not imported: peers need not be installed.
    module = ast.parse((BENCHMARKS / f"{name}.py").read_text())
    functions = [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
    assert ast.get_docstring(module)
    assert "main" in functions


def test_an_unknown_benchmark():
    command = [sys.executable, "-m", "benchmarks", "network", "speed"]
    done = subprocess.run(
        command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"Expected benchmarks among {', '.join(NAMES)}, got speed\n"


def test_contestants_take_turns_in_an_order_that_rotates():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = _timing.alternate(contestants, 0.0)
    # the first are to warm up
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc" + "bca"
    assert {name: len(measured) for name, measured in times.items()} == {"a": 5, "b": 5, "c": 5}


def test_a_turn_of_several_calls():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = _timing.alternate(contestants, 0.0, {"a": 2})
    assert "".join(calls) == "ab" + "aab" + "baa" + "aab" + "baa" + "aab"
    assert [len(measured) for measured in times.values()] == [5, 5]


def test_rounds_go_on_until_the_time_is_over():
    calls = []

    def run():
        calls.append("a")
        if len(calls) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _timing.alternate({"a": run}, math.inf)


def test_spread():
    assert _timing.spread([4.0, 1.0, 3.0, 2.0, 5.0]) == (3.0, 2.0, 4.0)
    assert str(_timing.Spread(1.234, 1.0, 2.5)) == "1.23 (1.00-2.50)"


def test_ratio_is_of_the_pairs():
    # The ratio of the medians would be 20 / 4.
    assert _timing.ratio([10.0, 20.0, 90.0], [5.0, 4.0, 3.0]) == (5.0, 3.5, 17.5)
    with pytest.raises(ValueError, match="shorter"):
        _timing.ratio([1.0, 2.0], [1.0])


def test_save(tmp_path, monkeypatch):
    monkeypatch.setattr(_timing, "OUTPUT", tmp_path / "new" / "folder")
    _timing.save("name", {"rate": _timing.Spread(2.0, 1.0, 3.0)})
    written = (tmp_path / "new" / "folder" / "name.json").read_text()
    assert json.loads(written) == {"rate": [2.0, 1.0, 3.0]}


def test_draw(tmp_path, monkeypatch):
    monkeypatch.setattr(_timing, "OUTPUT", tmp_path)
    groups = {
        "batch 1": {"ours": _timing.Spread(3.0, 2.5, 3.5), "other": _timing.Spread(2.0, 1.0, 2.5)},
        "batch 8": {"other": _timing.Spread(2.0, 1.0, 2.5)},
    }
    _timing.draw("name", "title", "examples a second", groups, {"batch 1": 4.0})
    header = (tmp_path / "name.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width = int.from_bytes(header[16:20])
    assert width == 1660  # twice GitHub's


def test_operations_of_the_network():
    assert network.network_flops(VGGishConfig()) == 1_727_791_104


def test_operations_of_a_small_network():
    # One channel everywhere: of 16 by 16 the poolings make 8 by 8, 4 by 4, 2 by 2 and 1 by 1.
    config = VGGishConfig(
        conv_channels=(1,) * 6, hidden_size=1, embedding_size=1, num_frames=16, num_mel_bins=16
    )
    convolutions = 9 * (256 + 64 + 2 * 16 + 2 * 4)
    assert network.network_flops(config) == 2 * (convolutions + 1 + 1 + 1)


def test_rate_is_one_over_the_seconds():
    assert network.rate([0.5, 0.25, 0.1]).median == 4.0


def test_relative_error():
    error = network.relative_error(torch.tensor([3.0, 4.4]), torch.tensor([3.0, 4.0]).double())
    assert math.isclose(error, 0.08, rel_tol=ROUNDING)


def test_steps_apart(small_model):
    process = small_model.postprocessor
    expected = torch.zeros(2, 128) + process.means.float()
    moved = expected.double()
    moved[0] += torch.linalg.inv(process.eigenvectors.double())[:, 0] * 3 * 4 / 255
    assert network.steps_apart(small_model, expected, expected) == "0.00%, by 0 at most"
    assert network.steps_apart(small_model, moved, expected) == "0.39%, by 3 at most"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_ports_network_is_the_same_network(small_model, generator, dtype):
    examples = torch.randn(3, 96, 64, generator=generator)
    with torch.no_grad():
        expected = small_model(examples)
    found = _peers.port(small_model, dtype)(examples)
    assert found.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2  # eight bits of mantissa
    assert network.relative_error(found, expected.double()) < tolerance


def test_log_mel_is_the_reference():
    waveform = np.random.default_rng(0).uniform(-1, 1, 2 * 16_000)
    expected = reference.log_mel_examples(waveform)
    assert np.abs(whole_job.log_mel(waveform) - expected).max() < 1e-12


def test_table_of_a_clip(tmp_path):
    embeddings = torch.arange(256.0).reshape(2, 128)
    table = whole_job.make_table(Path("a.wav"), embeddings)
    whole_job.pq.write_table(table, tmp_path / "a.parquet")
    assert table.drop_columns("embedding").to_pylist() == [
        {"id": "a.wav", "example": 0, "start_seconds": 0.0},
        {"id": "a.wav", "example": 1, "start_seconds": 0.96},
    ]
    assert (whole_job.read_embeddings(tmp_path / "a.parquet") == embeddings.numpy()).all()


def test_pieces_follow_each_other(tmp_path):
    paths = [Path(str(number)) for number in range(3 * whole_job.PIECE)]
    done, ticks = [], []
    run = whole_job.piece_by_piece(
        lambda piece, out: done.append((piece, out)), paths, tmp_path, ticks
    )
    for _ in range(4):
        run()
    first = (paths[: whole_job.PIECE], tmp_path)
    assert [done[0], done[3]] == [first, first]
    assert done[1][0] + done[2][0] == paths[whole_job.PIECE :]
    assert len(ticks) == 4


def test_plan():
    plan = whole_job.plan(3_600_000, 75.0, {"float32": 60.0, "bfloat16": 30.0})
    assert plan["core-hours, float32"] == 75
    assert plan["core-hours, bfloat16"] == 45
    assert plan["core-hours without the network"] == 15
    assert plan["embeddings, uint8, GB"] == 4.608


@pytest.mark.slow
def test_clips_differ_and_are_the_same_every_time(tmp_path):
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        _materials.write_clips(tmp_path / name, 3, seconds=1)
    once = sorted((tmp_path / "once").iterdir())
    assert [path.name for path in once] == ["00000.wav", "00001.flac", "00002.mp3"]
    infos = [soundfile.info(path) for path in once]
    assert [(info.samplerate, info.channels) for info in infos] == [(44_100, 2)] * 3
    assert [info.frames for info in infos[:2]] == [44_100] * 2  # MP3 adds some
    sounds = [soundfile.read(path)[0][:44_100] for path in once]
    again = [soundfile.read(tmp_path / "again" / path.name)[0][:44_100] for path in once]
    assert all(np.array_equal(*pair) for pair in zip(sounds, again, strict=True))
    assert all(np.abs(sound).max() > 0.01 for sound in sounds)
    assert not np.allclose(sounds[0], sounds[1], atol=0.01)
    assert not np.allclose(sounds[0][:, 0], sounds[0][:, 1], atol=0.01)


def test_normalizing_a_layer(generator):
    layer = torch.nn.Conv2d(1, 4, 3)
    torch.nn.init.normal_(layer.weight, generator=generator)
    hook = layer.register_forward_hook(_materials._normalize)
    images = torch.randn(8, 1, 9, 9, generator=generator) + 3
    given = layer(images)
    hook.remove()
    torch.testing.assert_close(given, layer(images), atol=1e-4, rtol=1e-4)
    deviation, mean = torch.std_mean(given, (0, 2, 3))
    torch.testing.assert_close(deviation, torch.ones(4))
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-5, rtol=0)


def test_a_folder_of_weights_replaces_random_ones(small_model, small_model_folder, monkeypatch):
    monkeypatch.setenv("VGGISH_WEIGHTS", str(small_model_folder))
    model = _materials.make_model()
    assert isinstance(model, VGGishModel)
    assert torch.equal(model.fc2.weight, small_model.fc2.weight)
