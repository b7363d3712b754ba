"""That a job on one machine does each clip once, whatever happens, and a repeated one the rest."""

import signal

import embedding_faults as faults
import numpy as np
import pytest
import soundfile
import torch
from folders import TESTS
from limits import files_of_at_most

from vggish_hf import VGGishPipeline
from vggish_hf.audio import AudioLimits
from vggish_hf.inputs import Clip
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
            failed[clip.id] = str(error)
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
    with pytest.raises(ValueError, match=r"of different ids, '00\.wav' is there twice"):
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


def test_files_that_cannot_grow(pipeline, clips, tmp_path):
    out = tmp_path / "out"
    embed_to_folder(pipeline, clips[:2], out, part_clips=2)
    size = max(map(len, faults.parts(out).values()))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with files_of_at_most(size), pytest.raises(OSError, match="Fix the cause and run the command again") as raised:
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
