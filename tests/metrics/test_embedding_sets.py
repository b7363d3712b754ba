import json
import shutil
import weakref

import numpy as np
import pytest
import torch
from folders import TESTS

from vggish_hf import VGGishPipeline
from vggish_hf.audio import AudioLimits, IsolatedDecoders
from vggish_hf.metrics import ClipEmbedder, EmbeddingStatistics, embed_set
from vggish_hf.outputs import open_output


@pytest.fixture
def pipe(lively_model_folder):
    return VGGishPipeline.from_pretrained(lively_model_folder)


@pytest.fixture
def embedder(pipe):
    return ClipEmbedder(pipe)


@pytest.fixture
def folder(tmp_path):
    """Real files, three of which hold no audio, in a tree of folders."""
    cases = TESTS / "data" / "audio_cases"
    target = tmp_path / "clips"
    (target / "more").mkdir(parents=True)
    for path in sorted(cases.iterdir()):
        shutil.copy(path, target / "more" if path.suffix == ".ogg" else target)
    (target / "broken.wav").write_bytes(b"noise")
    return target


def assert_same(statistics, expected):
    assert statistics.count == expected.count
    assert np.allclose(statistics.mean, expected.mean, rtol=1e-5, atol=1e-5)
    scale = np.abs(expected.scatter).max()
    assert np.allclose(statistics.scatter, expected.scatter, rtol=0, atol=1e-4 * scale)


def expected_of(pipe, folder):
    """The statistics of a folder, the plain way; and the files that cannot be read."""
    rows, bad = [], []
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".wav", ".ogg", ".mp3"):
            try:
                rows.append(pipe(path).embeddings.numpy())
            except ValueError:
                bad.append(path)
    return EmbeddingStatistics.from_embeddings(np.concatenate(rows)), len(rows), bad


def test_a_folder(pipe, embedder, folder):
    statistics, good, bad = expected_of(pipe, folder)
    assert len(bad) >= 3
    found = embed_set(folder, embedder)
    assert_same(found.statistics, statistics)
    assert found.clips == good
    assert sorted(clip for clip, _ in found.failures) == sorted(map(str, bad))
    reasons = {clip.rpartition("/")[2]: reason for clip, reason in found.failures}
    assert "libsndfile cannot open it" in reasons["broken.wav"]
    assert reasons["marl__empty.wav"] == "it holds no samples"
    assert found.statistics.provenance == embedder.provenance


@pytest.mark.parametrize("kind", ["list of paths", "glob", "text", "one"])
def test_other_ways_to_name_files(kind, embedder, folder, tmp_path):
    paths = sorted((folder / "more").iterdir())
    text = tmp_path / "list.txt"
    text.write_text("".join(f"{path}\n" for path in paths))
    source = {
        "list of paths": paths,
        "glob": str(folder / "**" / "*.ogg"),
        "text": text,
        "one": paths[-1],
    }[kind]
    found = embed_set(source, embedder)
    expected = embed_set(paths[-1:] if kind == "one" else folder / "more", embedder)
    assert found.clips == expected.clips > 0
    assert_same(found.statistics, expected.statistics)


def test_arrays(pipe, embedder, generator):
    clips = [(torch.randn(20_000 * n, generator=generator) / 9, 16_000) for n in (1, 2, 3)]
    bad = {"array": np.full(16_000, np.nan, np.float32), "sampling_rate": 16_000}
    found = embed_set([*clips, bad], embedder, batch_size=3, num_workers=1)
    assert found.clips == 3
    (failure,) = found.failures
    assert failure.clip == "clip 3"
    assert "finite" in failure.reason
    rows = [out.embeddings.numpy() for out in pipe(clips)]
    assert_same(found.statistics, EmbeddingStatistics.from_embeddings(np.concatenate(rows)))


def test_a_clip_shorter_than_an_example_fails(pipe):
    clips = [(torch.rand(15_000), 16_000), (torch.rand(16_000), 16_000)]
    assert embed_set(clips, ClipEmbedder(pipe)).clips == 2
    for preset in ("google", "gudgud"):
        found = embed_set(clips, ClipEmbedder(pipe, preset))
        assert (found.clips, found.statistics.count) == (1, 1)
        assert found.failures == (("clip 0", "shorter than one example"),)


def write(path, pipe, clips, provenance=None):
    provenance = provenance or pipe.provenance("none")
    with open_output(path, 128, torch.float32, provenance) as write_clip:
        for number, output in enumerate(pipe(clips)):
            write_clip(f"clip {number}", output)


@pytest.fixture
def clips(generator):
    return [(torch.randn(40_000, generator=generator) / 9, 16_000) for _ in range(4)]


def test_parquet(pipe, embedder, clips, tmp_path):
    expected = embed_set(clips, embedder)
    path = tmp_path / "a.parquet"
    write(path, pipe, clips)
    for source in (path, str(path), [path]):
        found = embed_set(source)
        assert found.clips == 4
        assert_same(found.statistics, expected.statistics)
        assert found.statistics.provenance == json.loads(json.dumps(pipe.provenance("none")))
    write(tmp_path / "b.parquet", pipe, clips)
    found = embed_set(str(tmp_path / "*.parquet"))
    assert (found.clips, found.statistics.count) == (8, 2 * expected.statistics.count)


def test_parquet_files_of_different_provenance(pipe, clips, tmp_path):
    write(tmp_path / "a.parquet", pipe, clips)
    write(tmp_path / "b.parquet", pipe, clips, {**pipe.provenance("none"), "dtype": "bfloat16"})
    with pytest.raises(ValueError, match="dtype: 'float32' and 'bfloat16'"):
        embed_set([tmp_path / "a.parquet", tmp_path / "b.parquet"])


def test_a_row_that_is_not_finite_is_a_failure(pipe, clips, tmp_path):
    outputs = pipe(clips)
    outputs[1].embeddings[0, 0] = torch.inf
    with open_output(tmp_path / "a.parquet", 128, torch.float32, {}) as write_clip:
        for number, output in enumerate(outputs):
            write_clip(f"clip {number}", output)
    found = embed_set(tmp_path / "a.parquet")
    assert found.clips == 3
    assert found.failures == (("clip 1", "Expected finite embeddings, got NaN or infinity"),)


def test_statistics(embedder, clips, tmp_path):
    statistics = embed_set(clips, embedder).statistics
    statistics.save(tmp_path / "real.npz")
    for source in (statistics, tmp_path / "real.npz", [str(tmp_path / "real.npz")]):
        found = embed_set(source)
        assert_same(found.statistics, statistics)
        assert found.statistics.provenance["preset"]["name"] == "default"
        assert (found.clips, found.failures) == (4, ())
        with pytest.raises(ValueError, match="separate clips, got statistics"):
            embed_set(source, on_clip=lambda *_: None)


def test_each_clip(embedder, clips):
    seen = []
    embed_set(clips, embedder, on_clip=lambda name, rows: seen.append((name, len(rows))))
    assert seen == [(f"clip {number}", 2) for number in range(4)]


def test_what_it_is_compared_with_is_checked_first(embedder, clips):
    other = EmbeddingStatistics.empty(128, {**embedder.provenance, "dtype": "bfloat16"})
    seen = []
    with pytest.raises(ValueError, match="dtype: 'bfloat16' and 'float32'"):
        embed_set(clips, embedder, compared_with=other, on_clip=lambda *_: seen.append(1))
    assert seen == []
    assert embed_set(clips, embedder, compared_with=other, force=True).clips == 4
    with pytest.raises(ValueError, match="one size, got 5 and 128"):
        embed_set(clips, embedder, compared_with=EmbeddingStatistics.empty(5), force=True)


def test_errors(embedder, tmp_path, clips):
    with pytest.raises(ValueError, match="a `model` to embed audio with"):
        embed_set(clips)
    with pytest.raises(ValueError, match="`num_workers` of at least 1, got 0"):
        embed_set(clips, embedder, num_workers=0)
    for missing in ("none.npz", "none.parquet", "none.wav", "none"):
        with pytest.raises(FileNotFoundError, match=missing):
            embed_set(tmp_path / missing, embedder)


def test_rows_that_were_cast_are_no_fault_of_a_clip(embedder):
    rows = np.random.default_rng(0).integers(256, size=(4, 9, 128)).astype(np.float32)
    with pytest.raises(ValueError, match="whole numbers from 0 to 255"):
        embed_set(list(rows))


@pytest.mark.parametrize("isolated", [False, True])
def test_a_file_is_decoded_here_or_in_a_process_of_its_own(isolated, embedder, folder, monkeypatch):
    started = []
    open_isolated = IsolatedDecoders.open

    def note(*arguments):
        started.append(1)
        return open_isolated(*arguments)

    monkeypatch.setattr(IsolatedDecoders, "open", note)
    found = embed_set(folder, embedder, isolated=isolated)
    assert found.clips > 5
    assert bool(started) == isolated


def test_limits(embedder, folder):
    found = embed_set(folder, embedder, limits=AudioLimits(max_seconds=0.001))
    assert found.clips == 0
    assert sum("at most 0.001 seconds" in reason for _, reason in found.failures) > 5


def test_the_network_s_own_errors_are_nobody_s_clip(pipe, clips):
    pipe.model.fc1_1 = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError):
        embed_set(clips, ClipEmbedder(pipe))


def test_progress_is_quiet_where_nobody_watches(embedder, clips, capfd):
    embed_set(clips, embedder, progress=True)
    assert capfd.readouterr() == ("", "")


def test_embeddings_are_not_kept(embedder):
    clips = [(torch.zeros(8000), 16_000)] * 200
    seen, alive = [], []

    def note(_name, rows):
        seen.append(weakref.ref(rows))
        alive.append(sum(ref() is not None for ref in seen))

    embed_set(clips, embedder, on_clip=note)
    # Those of a batch come at once.
    assert len(seen) == 200
    assert max(alive) <= 33
