import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from vggish_hf import VGGishPipeline
from vggish_hf.cli import main
from vggish_hf.metrics import EmbeddingStatistics, frechet_audio_distance


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Eight clips of noise, and the same with a tone; one more of the second is broken."""
    parent = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    tone = np.sin(np.arange(48_000) / 3) / 3
    for name in ("real", "fake", "broken"):
        parent.joinpath(name).mkdir()
    for number in range(8):
        noise = rng.normal(size=48_000) / 10 * (number + 1) / 8
        soundfile.write(parent / "real" / f"{number}.wav", noise, 16_000, subtype="FLOAT")
        for name in ("fake", "broken"):
            soundfile.write(parent / name / f"{number}.wav", noise + tone, 16_000, subtype="FLOAT")
    parent.joinpath("broken", "x.wav").write_bytes(b"noise")
    return parent


@pytest.fixture
def fad(lively_model_folder):
    """Run `fad` with the lively model; returns the exit code."""

    def run(*arguments, model=lively_model_folder):
        return main(["fad", *map(str, arguments), "--model", str(model)])

    return run


@pytest.fixture
def expected(folders, lively_model_folder):
    return frechet_audio_distance(
        folders / "real", folders / "fake", model=lively_model_folder, per_clip=True
    )


def without_notes(text):
    return [line for line in text.splitlines() if not line.startswith("note: ")]


@pytest.mark.slow
def test_two_folders(fad, folders, expected, capsys, lively_model_folder):
    assert fad(folders / "real", folders / "fake") == 0
    captured = capsys.readouterr()
    pipe = VGGishPipeline.from_pretrained(lively_model_folder)
    origin = f"model {lively_model_folder}, weights {pipe.weights_sha256[:12]}, preset default"
    assert without_notes(captured.out) == [
        "set   clips  examples  failed",
        "real      8        24       0",
        "fake      8        24       0",
        "",
        f"FAD  {expected.score:.4g}  ({origin})",
    ]
    assert "note: real: 24 examples of 128 dimensions: the covariance is singular" in captured.out
    assert captured.err == ""


def test_per_file(fad, folders, expected, capsys):
    assert fad(folders / "real", folders / "fake", "--per-file") == 0
    header, *rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert header.split() == ["score", "examples", "file"]
    assert len({row.index("  /") for row in (header.replace("file", "/"), *rows)}) == 1
    assert len({re.match(r" *\d+", row).end() for row in rows}) == 1  # decimal points
    found = [(float(row.split()[0]), int(row.split()[1]), row.split()[2]) for row in rows]
    assert found == [
        (pytest.approx(clip.score, rel=1e-3), clip.examples, clip.clip)
        for clip in expected.per_clip
    ]


def test_clips_that_fail(fad, folders, expected, capsys):
    assert fad(folders / "real", folders / "broken") == 1
    captured = capsys.readouterr()
    assert f"FAD  {expected.score:.4g}" in captured.out
    assert "fake      8        24       1" in captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith(f"failed: {folders / 'broken' / 'x.wav'}: ")


def test_json(fad, folders, expected, capsys, tmp_path):
    out = tmp_path / "result.json"
    assert fad(folders / "real", folders / "broken", "--json", out, "--per-file") == 1
    assert "FAD" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["score"] == pytest.approx(expected.score, rel=1e-4)
    assert len(found["per_clip"]) == 8
    assert found["fake"]["failures"][0]["clip"].endswith("x.wav")
    assert found["provenance"]["weights_sha256"] == expected.provenance["weights_sha256"]
    assert os.listdir(tmp_path) == ["result.json"]
    assert fad(folders / "real", folders / "broken", "--json", "-", "--per-file") == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["score"] == pytest.approx(found["score"], rel=1e-6)
    assert printed.keys() == found.keys()


@pytest.mark.slow
def test_statistics_and_embeddings_need_no_model(fad, folders, expected, capsys, tmp_path):
    real = tmp_path / "real.npz"
    assert fad(folders / "real", folders / "fake", "--save-stats", real) == 0
    first = capsys.readouterr().out
    saved = EmbeddingStatistics.load(real)
    assert np.allclose(saved.covariance, expected.real.statistics.covariance, atol=1e-3)
    model = saved.provenance["model"]
    fake = tmp_path / "fake.parquet"
    assert main(["embed", str(folders / "fake"), "-o", str(fake), "--model", model]) == 0
    capsys.readouterr()
    assert fad(real, fake, model="./there is none") == 0
    found = capsys.readouterr().out
    # A file of embeddings knows of no preset.
    assert first.replace(", preset default", "") == found
    assert fad(real, folders / "fake", model="./there is none") == 2
    assert "there is none" in capsys.readouterr().err


def test_sets_that_were_embedded_differently(fad, folders, capsys, tmp_path):
    real = tmp_path / "real.npz"
    assert fad(folders / "real", folders / "fake", "--preset", "google", "--save-stats", real) == 0
    assert "preset google)" in capsys.readouterr().out
    assert fad(real, folders / "fake") == 2
    assert "preset.peak_floor: 0.1 and None" in capsys.readouterr().err
    assert fad(real, folders / "fake", "--force") == 0
    assert "note: embedded differently: preset.peak_floor: 0.1 and None" in capsys.readouterr().out


def test_infinity(fad, capsys, tmp_path):
    rng = np.random.default_rng(0)
    for name, shift in (("real", 0), ("fake", 1)):
        rows = rng.normal(size=(700, 128)) + shift
        statistics = EmbeddingStatistics.from_embeddings(rows)
        statistics.save(tmp_path / f"{name}.npz")
    from vggish_hf import VGGishOutput
    from vggish_hf.outputs import open_output

    with open_output(tmp_path / "fake.parquet", 128, torch.float32, {}) as write:
        for number, row in enumerate(torch.from_numpy(rows).float()):
            write(str(number), VGGishOutput(row[None], torch.zeros(1).double()))
    assert fad(tmp_path / "real.npz", tmp_path / "fake.parquet", "--inf") == 0
    result = frechet_audio_distance(tmp_path / "real.npz", tmp_path / "fake.parquet", infinity=True)
    printed = capsys.readouterr().out
    assert "note: real and fake: nothing is known of how the embeddings were made" in printed
    out = without_notes(printed)
    fit = result.infinity
    assert out[-2].split() == ["FAD", f"{result.score:.4g}"]
    assert out[-1].split("  ")[-1] == f"(R2 {fit.r_squared:.4f}, drawn: clips)"
    assert out[-1].split()[:2] == ["infinity", f"{fit.score:.4g}"]
    assert out[-2].index(".") == out[-1].index(".")
    assert fad(tmp_path / "real.npz", tmp_path / "fake.npz", "--inf") == 2
    assert "Expected separate clips, got statistics" in capsys.readouterr().err


def test_a_set_and_itself(fad, folders, capsys):
    assert fad(folders / "real", folders / "real", "--per-file", "--inf") == 0
    out = capsys.readouterr().out
    assert "\nFAD  0  (model" in out
    assert "note: `--inf` needs more than 500 clips or examples, you have 24" in out


@pytest.mark.slow
def test_what_embed_takes_and_writes(fad, folders, lively_model_folder, capsys, tmp_path):
    """The same clips, as files, in a tar, in a table, and as embeddings: one score."""
    model = ["--model", str(lively_model_folder)]
    broken = folders / "broken"
    with tarfile.open(tmp_path / "broken.tar", "w") as tar:
        tar.add(broken, "clips")
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(broken.iterdir())]
    pq.write_table(pa.table({"audio": rows}), tmp_path / "audio.parquet")
    for output in ("rows.npz", "rows.parquet", "parts/"):
        target = f"{tmp_path}/{output}"
        assert main(["embed", str(folders / "fake"), "-o", target, *model]) == 0
    shutil.copytree(broken, tmp_path / "odd")
    (tmp_path / "odd" / "out.wav").symlink_to(folders / "real" / "0.wav")
    capsys.readouterr()
    scores = set()
    for name in ("odd", "broken.tar", "audio.parquet", "rows.npz", "rows.parquet", "parts"):
        is_audio = not name.startswith(("rows", "parts"))
        code = fad(folders / "real", tmp_path / name, "--json", "-")
        assert code == is_audio, name
        captured = capsys.readouterr()
        found = json.loads(captured.out)
        assert (found["fake"]["clips"], found["fake"]["examples"]) == (8, 24)
        assert len(found["fake"]["failures"]) == captured.err.count("failed: ") == is_audio
        is_skipped = (
            "skipped: " in captured.err and "out.wav: a link that leads out" in captured.err
        )
        assert is_skipped == (name == "odd")
        scores.add(round(found["score"], 6))
    assert len(scores) == 1
    assert fad(tmp_path / "parts", tmp_path / "rows.npz", model="./none") == 0
    assert "\nFAD  0  (model" in capsys.readouterr().out


def test_a_table_through_pandas(fad, folders, lively_model_folder, capsys, tmp_path):
    path = tmp_path / "a.parquet"
    model = ["--model", str(lively_model_folder)]
    assert main(["embed", str(folders / "real"), "-o", str(path), *model]) == 0
    pd.read_parquet(path).to_parquet(tmp_path / "b.parquet")
    capsys.readouterr()
    assert fad(path, tmp_path / "b.parquet", model="./none") == 0
    out = capsys.readouterr().out
    assert "\nFAD  0" in out
    (note,) = [line for line in out.splitlines() if "comparable" in line]
    assert note.startswith(f"note: {tmp_path}/b.parquet does not say how the embeddings were made")


def test_options_are_named_as_they_are_given(fad, folders, capsys):
    sets = folders / "real", folders / "fake"
    for options, message in (
        (["--batch-size", "0"], "Expected `--batch-size` of at least 1, got 0"),
        (["--workers", "0"], "Expected `--workers` of at least 1, got 0"),
        (["--max-seconds", "-1"], "Expected `--max-seconds` to be a positive number"),
    ):
        assert fad(*sets, *options, model="./none") == 2
        assert message in capsys.readouterr().err
    assert fad(*sets, "--max-seconds", "1") == 2
    message = capsys.readouterr().err
    assert "at most 1 seconds" in message
    assert "raise the limit `--max-seconds`" in message


def test_names_do_not_move_the_cursor(fad, folders, capsys, tmp_path):
    shutil.copytree(folders / "real", tmp_path / "sounds")
    (tmp_path / "sounds" / "\x1b[2Jx.wav").write_bytes(b"noise")
    shutil.copy(folders / "real" / "0.wav", tmp_path / "sounds" / "\x1b[31my.wav")
    assert fad(folders / "real", tmp_path / "sounds", "--per-file") == 1
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "sounds/\\x1b[2Jx.wav: " in captured.err
    assert "sounds/\\x1b[31my.wav" in captured.out


def test_both_sets_are_there_before_the_model_is_loaded(fad, folders, capsys):
    for missing in ("none/", "none.wav", "none.npz"):
        assert fad(folders / "real", missing, model="./none") == 2
        error = capsys.readouterr().err
        assert missing in error
        assert "No such file" in error


def test_plot(fad, folders, tmp_path, capsys):
    import matplotlib.pyplot as plt

    picture = tmp_path / "files.png"
    assert fad(folders / "real", folders / "fake", "--plot", picture) == 0
    assert "examples  file" not in capsys.readouterr().out
    assert np.ptp(matplotlib.image.imread(picture)) > 0.5
    assert os.listdir(tmp_path) == ["files.png"]
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save-stats", "stats.npy"], "Expected --save-stats to end in .npz, got 'stats.npy'"),
        (["--save-stats", "none/a.npz"], "in an existing folder, got 'none/a.npz'"),
        (["--json", "none/a.json"], "in an existing folder, got 'none/a.json'"),
        (["--plot", "."], "in an existing folder, got '.'"),
        (["--plot", "a.npz"], "Expected a picture that ends in one of eps, "),
    ],
)
def test_outputs_are_checked_first(options, message, fad, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fad("none/", "none/", *options, model="./none") == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.slow
def test_plot_without_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = None; from vggish_hf.cli import main;"
        "sys.exit(main(['fad', 'a', 'b', '--plot', 'c.png']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Pictures need matplotlib: pip install 'vggish-hf[plot]'" in done.stderr


def test_no_score(fad, folders, capsys, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fad(folders / "real", empty, model="./none") == 2
    assert str(empty) in capsys.readouterr().err
    assert fad(folders / "real", folders / "broken" / "x.wav", "--save-stats", "a.npz") == 2
    assert "at least 2 examples in `fake`, got 0" in capsys.readouterr().err
    assert not Path("a.npz").exists()
