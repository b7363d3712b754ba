"""The same odd folder holds the same clips for every command, and the same goes wrong with it."""

import json
import os
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from clip_sources import SPEECH, write_folder, write_parquet, write_tar
from processes import only_decoders_of_their_own

from vggish_hf.cli import main
from vggish_hf.lightning import VGGishClassifier

needs_links = pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")


@pytest.fixture
def folder(tmp_path):
    """Clips of every kind, litter, a hidden file, links, a bad file and archives of other kinds."""
    outside = write_folder(tmp_path / "sounds-of-others", {"far.wav": SPEECH})
    folder = write_folder(
        tmp_path / "sounds",
        {
            "one.wav": SPEECH,
            "deep/er/TWO.WAV": SPEECH,
            "bad.mp3": b"<html>not found</html>",
            "notes.txt": b"one.wav",
            "packed.tar.xz": b"\xfd7zXZ\0",
            "._one.wav": b"\0\5\x16\7",
            "__MACOSX/one.wav": SPEECH,
            ".ipynb_checkpoints/one.wav": SPEECH,
            ".DS_Store": b"",
            "Thumbs.db": b"",
            ".hidden.wav": SPEECH,
        },
    )
    noise = np.random.default_rng(0).normal(size=(48_000, 2)) / 9
    soundfile.write(folder / "three.flac", noise, 44_100)
    write_tar(folder / "shard.tar", {"a.wav": SPEECH, "._a.wav": b"\0\5\x16\7", "b.txt": b"b"})
    write_tar(folder / "text.tar.gz", {"b.txt": b"b"})
    write_parquet(folder / "rows.parquet", {"row": SPEECH, "gone": None})
    (folder / "inside.wav").symlink_to("one.wav")
    (folder / "out.wav").symlink_to(outside / "far.wav")
    (folder / "away").symlink_to(outside)
    return folder


@needs_links
def test_one_odd_folder(folder, lively_model_folder, tmp_path, capsys):
    torch.manual_seed(0)
    VGGishClassifier(["dog", "sea"], pretrained=str(lively_model_folder)).save_pretrained(
        tmp_path / "classifier"
    )
    model = ["--model", str(lively_model_folder)]
    commands = {
        "embed": [str(folder), "-o", str(tmp_path / "clips.parquet"), *model],
        "embed to a folder": [str(folder), "-o", str(tmp_path / "clips") + "/", *model],
        "predict": [
            *(str(folder), "-o", str(tmp_path / "scores.parquet")),
            *("--classifier", str(tmp_path / "classifier")),
        ],
        "fad": [
            *(str(folder), str(folder), "--per-file", "--json", str(tmp_path / "score.json")),
            *model,
        ],
    }
    skipped, failed = {}, {}
    for name, arguments in commands.items():
        with only_decoders_of_their_own():
            assert main([name.split()[0], *arguments]) == 1
        lines = capsys.readouterr().err.splitlines()
        skipped[name] = {line for line in lines if line.startswith("skipped: ")}
        failed[name] = {line for line in lines if line.startswith("failed: ")}

    parts = [pq.read_table(part) for part in (tmp_path / "clips").glob("*.parquet")]
    score = json.loads((tmp_path / "score.json").read_text())
    clips = {
        "embed": set(pq.read_table(tmp_path / "clips.parquet")["id"].to_pylist()),
        "embed to a folder": {clip for part in parts for clip in part["id"].to_pylist()},
        "predict": set(pq.read_table(tmp_path / "scores.parquet")["id"].to_pylist()),
        "fad": {row["clip"] for row in score["per_clip"]},
    }
    names = ["one.wav", "inside.wav", "deep/er/TWO.WAV", "three.flac", "shard.tar/a.wav"]
    expected = {f"{folder}/{name}" for name in [*names, "rows.parquet/row"]}
    assert clips == dict.fromkeys(commands, expected)

    reasons = {
        "away": "a link that leads out of its folder",
        "out.wav": "a link that leads out of its folder",
        ".hidden.wav": "a hidden file",
        "packed.tar.xz": "an archive of a kind that is not read",
        "text.tar.gz": "an archive without audio",
    }
    lines = {f"skipped: {folder}/{name}: {reason}" for name, reason in reasons.items()}
    assert skipped == dict.fromkeys(commands, lines)
    assert failed == dict.fromkeys(commands, failed["embed"])
    names = sorted(re.match(r"failed: (.*?): ", line)[1] for line in failed["embed"])
    assert names == [f"{folder}/bad.mp3", f"{folder}/rows.parquet/gone"]
