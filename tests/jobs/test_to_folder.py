"""That a job on one machine does each clip once, whatever happens, and a repeated one the rest."""

import os
import signal
import tarfile

import embedding_faults as faults
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from folders import TESTS
from limits import files_of_at_most

from vggish_hf import VGGishPipeline
from vggish_hf.audio import AudioLimits
from vggish_hf.inputs import Clip, find_clips
from vggish_hf.jobs.job import EmbeddingJob, EmbeddingSummary, cut_parts, job_provenance
from vggish_hf.jobs.to_folder import embed_to_folder
from vggish_hf.outputs.folder import EmbeddingFolder, part_name

AUDIO = TESTS / "data" / "audio_cases"
ENGINE = {"engine": "local", "options": {"num_workers": 2}}

# Batches of other sizes add in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def pipeline(lively_model_folder):
    return VGGishPipeline.from_pretrained(lively_model_folder)


@pytest.fixture
def clips(tmp_path):
    return [Clip(*pair) for pair in faults.make_clips(tmp_path / "files", 5)]


def count_into(counts):
    """A `progress` that collects the numbers of clips."""
    return lambda clips, _seconds: counts.append(clips)


def names(clips):
    return [clip.id for clip in clips]


# What it does


def test_rows_are_the_pipeline_s(pipeline, tmp_path):
    clips = [Clip(path.name, str(path)) for path in sorted(AUDIO.iterdir())]
    expected, failed = {}, {}
    for clip in clips:
        try:
            expected[clip.id] = pipeline(clip.path).embeddings
        except (ValueError, OSError) as error:
            failed[clip.id] = str(error).removeprefix(f"{clip.path}: ")
    done = []
    summary = embed_to_folder(
        pipeline, clips, tmp_path / "out", part_clips=4, batch_size=5, progress=count_into(done)
    )
    rows = faults.read_rows(tmp_path / "out")
    assert rows.keys() == expected.keys()
    for name in rows:
        assert np.allclose(rows[name], expected[name], **TOLERANCE)
    assert summary == EmbeddingSummary(
        len(expected), sum(map(len, expected.values())), failed, (), 0
    )
    assert len(failed) > 2
    assert EmbeddingFolder(tmp_path / "out").failed() == failed
    assert sum(done) == len(clips)
    hidden = {path.name for path in (tmp_path / "out").glob(".*")}
    assert hidden == {".embeddings.json", ".failed.jsonl"}


def test_a_part_is_named_after_its_clips(pipeline, clips, tmp_path):
    embed_to_folder(pipeline, clips, tmp_path / "out", part_clips=2)
    expected = [part_name(names(clips[start : start + 2])) for start in (0, 2, 4)]
    assert faults.parts(tmp_path / "out").keys() == {f"{name}.parquet" for name in expected}


def test_only_what_is_missing_is_done(pipeline, clips, tmp_path):
    out = tmp_path / "out"
    bad = Clip("bad", str(tmp_path / "bad.wav"))
    listing = [*clips[:2], bad, *clips[2:]]
    first = embed_to_folder(pipeline, [bad, *clips[1:3]], out, part_clips=2)
    assert (first.clips, first.skipped, list(first.failed)) == (2, 0, ["bad"])
    before = faults.parts(out)
    done = []
    second = embed_to_folder(pipeline, listing, out, part_clips=2, progress=count_into(done))
    assert (second.clips, second.skipped, list(second.failed)) == (3, 2, ["bad"])
    assert done[0] == 2
    assert sum(done) == len(listing)
    after = faults.parts(out)
    assert {name: after[name] for name in before} == before
    soundfile.write(bad.path, np.zeros(16_000), 16_000)
    third = embed_to_folder(pipeline, listing, out, part_clips=2)
    assert third == EmbeddingSummary(1, 1, {}, (), 5)
    faults.assert_complete(out, [(name, "") for name in names(listing)])
    assert embed_to_folder(pipeline, listing, out) == EmbeddingSummary(0, 0, {}, (), 6)


def test_all_that_fail_are_named(pipeline, tmp_path):
    clips = [Clip(name, f"/{name}.wav") for name in "abc"]
    summary = embed_to_folder(pipeline, clips, tmp_path / "out", part_clips=1)
    assert list(summary.failed) == ["a", "b", "c"]
    assert EmbeddingFolder(tmp_path / "out").failed() == summary.failed
    assert faults.parts(tmp_path / "out") == {}


def test_a_clip_without_an_example_is_done(lively_model_folder, clips, tmp_path):
    pipeline = VGGishPipeline.from_pretrained(lively_model_folder, padding="none")
    soundfile.write(clips[1].path, np.zeros(100), 16_000)
    first = embed_to_folder(pipeline, clips[:2], tmp_path / "out")
    assert first == EmbeddingSummary(1, 2, {}, (clips[1].id,), 0)
    second = embed_to_folder(pipeline, clips[:2], tmp_path / "out")
    assert second == EmbeddingSummary(0, 0, {}, (), 2)


@pytest.mark.parametrize("postprocess", ["pca", "uint8"])
def test_postprocess(small_model_folder, clips, tmp_path, postprocess):
    pipeline = VGGishPipeline.from_pretrained(small_model_folder)
    embed_to_folder(pipeline, clips[:1], tmp_path / "out", postprocess=postprocess)
    rows = faults.read_rows(tmp_path / "out")[clips[0].id]
    expected = pipeline(clips[0].path, postprocess=postprocess).embeddings.numpy()
    assert rows.dtype == expected.dtype
    assert np.allclose(rows, expected, **TOLERANCE)


def test_cuts_do_not_depend_on_what_is_done():
    clips = [Clip(name, name) for name in "abcdefg"]
    whole = list(cut_parts(clips, set("abcdefg"), 3))
    assert ["".join(names(part)) for part in whole] == ["abc", "def", "g"]
    rest = list(cut_parts(clips, set("bdefg"), 3))
    assert ["".join(names(part)) for part in rest] == ["b", "def", "g"]
    assert list(cut_parts(clips, set(), 3)) == []


# What it refuses


def test_arguments(pipeline, clips, tmp_path):
    out = tmp_path / "out"
    for name in ("batch_size", "num_workers", "part_clips"):
        with pytest.raises(ValueError, match=f"`{name}` of at least 1, got 0"):
            embed_to_folder(pipeline, clips, out, **{name: 0})
    with pytest.raises(ValueError, match=r"of different ids, got '00\.wav' twice"):
        embed_to_folder(pipeline, [*clips, clips[0]], out)
    with pytest.raises(ValueError, match="post-processor"):
        embed_to_folder(pipeline, clips, out, postprocess="uint8")
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"weights": 2.0}, "weights_sha256: "),
        ({"padding": "tail"}, "padding: 'short', now 'tail'"),
        ({"example_hop_seconds": 0.48}, "example_hop_seconds: 0.96, now 0.48"),
        ({"dtype": torch.float64}, "dtype: 'float32', now 'float64'"),
        ({"limits": AudioLimits(max_seconds=5)}, "limits.max_seconds: 43200.0, now 5"),
    ],
)
def test_other_weights_and_options_are_refused(lively_model_folder, clips, tmp_path, change, key):
    out = tmp_path / "out"
    pipeline = VGGishPipeline.from_pretrained(lively_model_folder)
    embed_to_folder(pipeline, clips[:1], out)
    before = faults.parts(out)
    limits = {name: change.pop(name) for name in ("limits",) if name in change}
    if "weights" in change:
        with torch.no_grad():
            pipeline.model.fc2.weight.mul_(change.pop("weights"))
        pipeline.save_pretrained(tmp_path / "scaled")
        lively_model_folder = tmp_path / "scaled"
    other = VGGishPipeline.from_pretrained(lively_model_folder, **{"padding": "short", **change})
    with pytest.raises(ValueError, match="write to another folder") as raised:
        embed_to_folder(other, clips, out, **limits)
    assert key in str(raised.value)
    assert faults.parts(out) == before


def test_how_it_runs_may_change(pipeline, clips, tmp_path):
    out = tmp_path / "out"
    embed_to_folder(pipeline, clips[:2], out, batch_size=3, num_workers=1, part_clips=1)
    summary = embed_to_folder(pipeline, clips, out, batch_size=32, part_clips=4)
    assert summary.skipped == 2
    faults.assert_complete(out, [(name, "") for name in names(clips)])


def test_limits_are_kept(pipeline, clips, tmp_path):
    summary = embed_to_folder(
        pipeline, clips[:1], tmp_path / "out", limits=AudioLimits(max_seconds=1.5)
    )
    assert "at most 1.5 seconds" in summary.failed[clips[0].id]


# What is noted


def test_a_clip_counts_once(pipeline, clips, tmp_path):
    ids = names(clips)
    with EmbeddingJob(clips, tmp_path / "out", pipeline, "none", AudioLimits()) as job:
        assert job.note({ids[0]: 2, ids[1]: 0}, {ids[2]: "gone"}) == 3
        assert job.note({ids[0]: 2, ids[2]: 3}, {ids[1]: "gone", "another": "gone"}) == 0
        assert job.pending == set(ids[3:])
        assert job.finish() == EmbeddingSummary(1, 2, {ids[2]: "gone"}, (ids[1],), 0)


def test_provenance(pipeline):
    found = job_provenance(pipeline, "none", AudioLimits(max_seconds=7))
    assert found.pop("limits")["max_seconds"] == 7
    assert found.pop("pool") is None
    assert found == pipeline.provenance("none")


# What may happen


@pytest.mark.slow
def test_files_that_cannot_grow(pipeline, clips, tmp_path):
    out = tmp_path / "out"
    embed_to_folder(pipeline, clips[:2], out, part_clips=2)
    size = max(map(len, faults.parts(out).values()))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with (
            files_of_at_most(size),
            pytest.raises(OSError, match="Fix the cause and run the command again") as raised,
        ):
            embed_to_folder(pipeline, clips, out, part_clips=5)
    finally:
        signal.signal(signal.SIGXFSZ, handler)
    assert str(out) in str(raised.value)
    assert len(faults.parts(out)) == 1
    assert not list(out.glob(".*.unfinished"))
    assert embed_to_folder(pipeline, clips, out).clips == 3
    faults.assert_complete(out, [(name, "") for name in names(clips)])


def test_an_error_of_the_network_ends_the_job(pipeline, clips, tmp_path, monkeypatch):
    calls = []

    def fail_later(examples, postprocess):
        calls.append(len(examples))
        if len(calls) > 2:
            raise RuntimeError("out of memory")
        return VGGishPipeline.embed_examples(pipeline, examples, postprocess)

    monkeypatch.setattr(pipeline, "embed_examples", fail_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        embed_to_folder(pipeline, clips, tmp_path / "out", part_clips=1)
    assert len(faults.parts(tmp_path / "out")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_repeated(lively_model_folder, tmp_path, number):
    pytest.importorskip("aiohttp")
    faults.check_killed_and_repeated(ENGINE, tmp_path, lively_model_folder, number)


@pytest.mark.slow
def test_poison(lively_model_folder, tmp_path):
    faults.check_poison(ENGINE, tmp_path, lively_model_folder)


@pytest.mark.slow
def test_full_disk(lively_model_folder, tmp_path):
    faults.check_full_disk(ENGINE, tmp_path, lively_model_folder)


@pytest.mark.slow
def test_slow_store(lively_model_folder, tmp_path):
    pytest.importorskip("aiohttp")
    faults.check_slow_store(ENGINE, tmp_path, lively_model_folder)


# Files that have changed since


def change(clip, seed=99, seconds=3):
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 16_000 * seconds)
    soundfile.write(clip.path, noise, 16_000)


def check_rows(pipeline, clips, out):
    rows = faults.read_rows(out)  # each clip once
    assert rows.keys() == set(names(clips))
    for clip in clips:
        assert np.allclose(rows[clip.id], pipeline(clip.path).embeddings, **TOLERANCE)


@pytest.mark.parametrize(
    "changed",
    [
        [1],
        pytest.param([0, 1], marks=pytest.mark.slow),
        pytest.param([0, 1, 2, 3, 4], marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("part_clips", [2, 1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_changed_file_is_embedded_again(pipeline, clips, tmp_path, changed, part_clips):
    out = tmp_path / "out"
    embed_to_folder(pipeline, clips, out, part_clips=2)
    for number in changed:
        change(clips[number], seed=number + 50)
    summary = embed_to_folder(pipeline, clips, out, part_clips=part_clips)
    assert (summary.clips, summary.skipped) == (len(changed), 5 - len(changed))
    check_rows(pipeline, clips, out)
    assert embed_to_folder(pipeline, clips, out).skipped == 5


def test_a_file_of_the_same_size_and_another_time_has_changed(pipeline, clips, tmp_path):
    out = tmp_path / "out"
    embed_to_folder(pipeline, clips, out)
    state = os.stat(clips[0].path)
    change(clips[0], seconds=2)
    os.utime(clips[0].path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert os.stat(clips[0].path).st_size == state.st_size
    assert embed_to_folder(pipeline, clips, out).clips == 1
    check_rows(pipeline, clips, out)


def test_a_changed_file_that_has_no_example_loses_its_rows(lively_model_folder, clips, tmp_path):
    pipeline = VGGishPipeline.from_pretrained(lively_model_folder, padding="none")
    out = tmp_path / "out"
    embed_to_folder(pipeline, clips[:2], out)
    soundfile.write(clips[0].path, np.zeros(100), 16_000)
    for clips_done, too_short in ((0, (clips[0].id,)), (0, ())):
        summary = embed_to_folder(pipeline, clips[:2], out)
        assert (summary.clips, summary.too_short) == (clips_done, too_short)
        assert faults.read_rows(out).keys() == {clips[1].id}
    change(clips[0])
    assert embed_to_folder(pipeline, clips[:2], out).clips == 1
    check_rows(pipeline, clips[:2], out)


def test_a_changed_file_that_cannot_be_read_keeps_its_rows_and_is_named(pipeline, clips, tmp_path):
    out = tmp_path / "out"
    embed_to_folder(pipeline, clips, out)
    before = faults.read_rows(out)
    with open(clips[0].path, "wb") as file:
        file.write(b"RIFF")
    for _ in range(2):  # and is tried again
        summary = embed_to_folder(pipeline, clips, out)
        assert list(summary.failed) == [clips[0].id]
        assert faults.read_rows(out).keys() == before.keys()


def test_a_changed_tar_is_embedded_again(pipeline, clips, tmp_path):
    tar, out = tmp_path / "a.tar", tmp_path / "out"
    for count in (2, 3):
        with tarfile.open(tar, "w") as archive:
            for clip in clips[:count]:
                archive.add(clip.path, clip.id)
        summary = embed_to_folder(pipeline, find_clips([str(tar)]), out)
        assert (summary.clips, summary.skipped) == (count, 0)
        assert len(faults.read_rows(out)) == count


def test_files_of_which_nothing_is_known_count_as_unchanged(pipeline, clips, tmp_path):
    out = tmp_path / "out"
    embed_to_folder(pipeline, clips, out)
    for part in out.glob("part-*"):
        table = pq.read_table(part)
        metadata = {b"vggish_hf": table.schema.metadata[b"vggish_hf"]}
        pq.write_table(table.replace_schema_metadata(metadata), part)
    change(clips[0])
    os.unlink(clips[1].path)
    assert embed_to_folder(pipeline, clips, out).skipped == 5


def test_a_run_that_was_killed_before_the_old_rows_went(pipeline, clips, tmp_path):
    out = tmp_path / "out"
    embed_to_folder(pipeline, clips, out, part_clips=5)
    old = {path: path.read_bytes() for path in out.glob("part-*")}
    time = next(iter(old)).stat().st_mtime_ns
    change(clips[1])
    embed_to_folder(pipeline, clips, out, part_clips=5)
    for path, content in old.items():
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
    summary = embed_to_folder(pipeline, clips, out)
    assert (summary.clips, summary.skipped) == (0, 5)
    check_rows(pipeline, clips, out)


# Weights


@pytest.mark.parametrize("from_file", [True, False])
def test_weights_that_changed_in_memory_are_refused(
    lively_model_folder, clips, tmp_path, from_file
):
    pipeline = VGGishPipeline.from_pretrained(lively_model_folder)
    if not from_file:
        pipeline = VGGishPipeline(pipeline.extractor, pipeline.model)
    embed_to_folder(pipeline, clips[:1], tmp_path / "out")
    with torch.no_grad():
        pipeline.model.fc2.weight.mul_(2)
    with pytest.raises(ValueError, match=r"weights_sha256: '.*', now 'in-memory:"):
        embed_to_folder(pipeline, clips, tmp_path / "out")
    with torch.no_grad():
        pipeline.model.fc2.weight.div_(2)
    assert embed_to_folder(pipeline, clips, tmp_path / "out").skipped == 1
