"""That a job into one file gives the pipeline's rows, names what fails and notes no secret."""

import json
import os
import subprocess
import sys

import embedding_faults as faults
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from vggish_hf import VGGishPipeline
from vggish_hf.audio import AudioLimits
from vggish_hf.inputs import Clip, find_clips
from vggish_hf.jobs import EmbeddingSummary, embed_to_file, embed_to_folder

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def pipeline(lively_model_folder):
    return VGGishPipeline.from_pretrained(lively_model_folder)


@pytest.fixture
def clips(tmp_path):
    return [Clip(*pair) for pair in faults.make_clips(tmp_path / "files", 3)]


def rows_of(path):
    table = pq.read_table(path)
    return table["id"].to_pylist(), np.stack(table["embedding"].to_numpy())


def test_rows_and_summary(pipeline, clips, tmp_path):
    listing = [*clips, Clip("bad", "/none.wav")]
    done = []
    summary = embed_to_file(
        pipeline,
        listing,
        tmp_path / "out.parquet",
        progress=lambda count, seconds: done.append((count, seconds)),
    )
    assert (summary.clips, summary.examples, summary.too_short, summary.skipped) == (3, 6, (), 0)
    assert list(summary.failed) == ["bad"]
    ids, rows = rows_of(tmp_path / "out.parquet")
    assert ids == [clip.id for clip in clips for _ in range(2)]
    expected = torch.cat([pipeline(clip.path).embeddings for clip in clips])
    assert np.allclose(rows, expected, **TOLERANCE)
    assert sum(count for count, _ in done) == 4
    assert sum(seconds for _, seconds in done) == pytest.approx(6.0)


def test_nothing_is_written_where_all_fail(pipeline, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("older")
    summary = embed_to_file(pipeline, [Clip("a", "/none.wav")], out)
    assert (summary.clips, list(summary.failed)) == (0, ["a"])
    assert out.read_text() == "older"
    assert list(tmp_path.iterdir()) == [out]


def test_clips_without_an_example(lively_model_folder, clips, tmp_path):
    pipeline = VGGishPipeline.from_pretrained(lively_model_folder, padding="none")
    soundfile.write(clips[1].path, np.zeros(100), 16_000)
    summary = embed_to_file(pipeline, clips[:2], tmp_path / "out.npz")
    assert summary == EmbeddingSummary(1, 2, {}, (clips[1].id,), 0)


@pytest.mark.slow
@pytest.mark.parametrize(("embed", "out"), [(embed_to_file, "out.npz"), (embed_to_folder, "out")])
def test_progress_inside_a_long_clip(pipeline, tmp_path, embed, out):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * 300), 16_000)
    done = []
    clip = Clip("a", str(path))
    embed(pipeline, [clip], tmp_path / out, progress=lambda *now: done.append(now))
    assert sum(seconds for _, seconds in done) == pytest.approx(300)
    before_the_end = [seconds for count, seconds in done if not count and 0 < seconds <= 20]
    assert len(before_the_end) >= 15


def test_no_secret_is_noted(pipeline, clips, tmp_path):
    inputs = [
        "https://me:PASS@host/a.ogg?X-Amz-Signature=SIGNED",
        "simplecache::https://me:PASS@host/b.ogg",
        "sounds/a?b#c.wav",
    ]
    for name in ("out.parquet", "out.npz", "out.csv"):
        path = tmp_path / name
        embed_to_file(pipeline, clips[:1], path, inputs=inputs)
        content = path.read_bytes() + (
            (tmp_path / "out.csv.json").read_bytes() if name == "out.csv" else b""
        )
        for encoding in ("utf-8", "utf-32-le"):
            assert "PASS".encode(encoding) not in content
            assert "SIGNED".encode(encoding) not in content
    noted = json.loads((tmp_path / "out.csv.json").read_text())["options"]["inputs"]
    assert noted[0] == "https://host/a.ogg"
    assert noted[2] == "sounds/a?b#c.wav"  # a file, not a URL


@pytest.mark.parametrize("pool", ["mean", pytest.param("max", marks=pytest.mark.slow), "mean_std"])
def test_one_row_per_clip(pipeline, clips, tmp_path, pool):
    summary = embed_to_file(pipeline, clips, tmp_path / "out.parquet", pool=pool)
    assert (summary.clips, summary.examples) == (3, 6)
    ids, rows = rows_of(tmp_path / "out.parquet")
    assert ids == [clip.id for clip in clips]
    for clip, row in zip(clips, rows, strict=True):
        own = pipeline(clip.path).embeddings.numpy()
        expected = {
            "mean": own.mean(0),
            "max": own.max(0),
            "mean_std": np.concatenate([own.mean(0), own.std(0)]),
        }[pool]
        assert np.allclose(row, expected, **TOLERANCE)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["start_seconds"].to_pylist() == table["example"].to_pylist() == [0, 0, 0]
    assert json.loads(table.schema.metadata[b"vggish_hf"])["pool"] == pool
    embed_to_folder(pipeline, clips, tmp_path / "out", pool=pool)
    found = faults.read_rows(tmp_path / "out")
    for clip, row in zip(clips, rows, strict=True):
        assert np.allclose(found[clip.id], row[None], **TOLERANCE)
    with pytest.raises(ValueError, match=f"provenance.pool: '{pool}', now None"):
        embed_to_folder(pipeline, clips, tmp_path / "out")


def test_what_cannot_be_pooled(small_model_folder, clips, tmp_path):
    pipeline = VGGishPipeline.from_pretrained(small_model_folder)
    for embed, out in ((embed_to_file, "out.parquet"), (embed_to_folder, "out")):
        with pytest.raises(ValueError, match="`postprocess` 'none' or 'pca' with `pool` 'mean'"):
            embed(pipeline, clips, tmp_path / out, pool="mean", postprocess="uint8")
        with pytest.raises(ValueError, match="`pool` to be one of 'mean', 'max', 'mean_std'"):
            embed(pipeline, clips, tmp_path / out, pool="median")
    embed_to_file(pipeline, clips, tmp_path / "out.parquet", pool="max", postprocess="pca")


def test_arguments(pipeline, clips, tmp_path):
    out = tmp_path / "out.parquet"
    with pytest.raises(ValueError, match=r"of different ids, got '00\.wav' twice"):
        embed_to_file(pipeline, [*clips, clips[0]], out)
    with pytest.raises(ValueError, match="`batch_size` of at least 1"):
        embed_to_file(pipeline, clips, out, batch_size=0)
    summary = embed_to_file(pipeline, clips[:1], out, limits=AudioLimits(max_seconds=1))
    assert "at most 1 seconds" in summary.failed[clips[0].id]
    assert not out.exists()


def test_a_file_named_twice_and_names_that_differ_by_case(pipeline, clips, tmp_path):
    upper = tmp_path / "files" / "00.WAV"
    try:
        upper.touch(exist_ok=False)
    except FileExistsError:
        pytest.skip("names do not differ by case here")
    soundfile.write(upper, np.zeros(16_000), 16_000, format="WAV")
    path = str(tmp_path / "files" / "00.wav")
    found = find_clips([path, str(tmp_path / "files"), path])
    summary = embed_to_file(pipeline, found, tmp_path / "out.parquet")
    assert summary.clips == 4  # each file once
    ids, _ = rows_of(tmp_path / "out.parquet")
    assert {os.path.basename(clip) for clip in ids} == {"00.wav", "00.WAV", "01.wav", "02.wav"}


# An output that is an input


def make_link(kind, target, link):
    if kind == "link":
        link.symlink_to(target)
    elif kind == "hard link":
        link.hardlink_to(target)
    return target if kind == "same" else link


@pytest.mark.parametrize("kind", ["same", "link", "hard link"])
@pytest.mark.parametrize("prefix", ["", "file://"])
def test_an_output_that_is_an_input_is_refused(pipeline, tmp_path, kind, prefix):
    table = tmp_path / "x.parquet"
    table.write_bytes(b"audio of mine")
    out = make_link(kind, table, tmp_path / "link.parquet")
    clip = Clip("x.parquet/0", f"{prefix}{table}", "0")
    with pytest.raises(ValueError, match=r"is or contains the input .* choose another output"):
        embed_to_file(pipeline, [clip], out)
    assert table.read_bytes() == b"audio of mine"


@pytest.mark.parametrize("kind", ["same", "link"])
def test_an_output_folder_that_holds_an_input_is_refused(pipeline, clips, tmp_path, kind):
    out = tmp_path / "out"
    embed_to_folder(pipeline, clips, out)
    inside = out / "deep" / "part-00000.parquet"
    inside.parent.mkdir()
    inside.write_bytes(b"audio of mine")
    target = make_link(kind, out, tmp_path / "link")
    with pytest.raises(ValueError, match="is or contains the input"):
        embed_to_folder(pipeline, [*clips, Clip("in", str(inside), "0")], target)
    assert inside.read_bytes() == b"audio of mine"
    # What lies beside it is no input of its own.
    sibling = tmp_path / "out-inputs"
    sibling.mkdir()
    soundfile.write(sibling / "a.wav", np.zeros(16_000), 16_000)
    inside.unlink()
    inside.parent.rmdir()
    assert embed_to_folder(pipeline, find_clips([str(sibling)]), out).clips == 1


# Two jobs


@pytest.mark.slow
@pytest.mark.parametrize("out", ["out.parquet", "out.npz", "out.csv", "out"])
def test_two_jobs_on_one_output(pipeline, lively_model_folder, clips, tmp_path, out):
    code = """
import sys, time
from vggish_hf import VGGishPipeline
from vggish_hf.inputs import Clip
from vggish_hf.jobs import embed_to_file, embed_to_folder
model, path, out = sys.argv[1:]
def hang(clips, seconds):
    if seconds:
        print("at it", flush=True)
        time.sleep(600)
embed = embed_to_file if "." in out.rpartition("/")[2] else embed_to_folder
clips = [Clip("a", path), Clip("b", path)]
options = {"part_clips": 1} if embed is embed_to_folder else {}
embed(VGGishPipeline.from_pretrained(model), clips, out, progress=hang, **options)
"""
    command = [sys.executable, "-c", code, str(lively_model_folder), clips[0].path]
    job = subprocess.Popen(
        [*command, str(tmp_path / out)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    embed = embed_to_folder if out == "out" else embed_to_file
    try:
        assert job.stdout.readline() == "at it\n"
        with pytest.raises(OSError, match=f"process {job.pid} on .* since .* is writing"):
            embed(pipeline, clips, tmp_path / out)
    finally:
        os.killpg(job.pid, 9)
        job.communicate()
    assert embed(pipeline, clips, tmp_path / out).clips == 3  # which the system has let go of
