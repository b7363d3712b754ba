"""What a set is stored as is told by its content; and that it is there, before anything is read."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from vggish_hf import VGGishPipeline
from vggish_hf.inputs import find_clips
from vggish_hf.jobs import embed_to_folder
from vggish_hf.metrics import ClipEmbedder, EmbeddingStatistics, embed_set, find_set
from vggish_hf.metrics import frechet_audio_distance as fad
from vggish_hf.outputs import open_output


@pytest.fixture(scope="module")
def pipe(lively_model_folder):
    return VGGishPipeline.from_pretrained(lively_model_folder)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Four clips of noise, and a file that holds none."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for number in range(4):
        noise = rng.normal(size=32_000) / 10
        soundfile.write(folder / f"{number}.wav", noise, 16_000, subtype="FLOAT")
    (folder / "broken.wav").write_bytes(b"noise")
    return folder


@pytest.fixture(scope="module")
def expected(audio, pipe):
    return embed_set(audio, ClipEmbedder(pipe))


@pytest.fixture(scope="module")
def stored(audio, pipe, tmp_path_factory):
    """The same clips' embeddings, in everything that `vggish-hf embed` writes."""
    folder = tmp_path_factory.mktemp("stored")
    paths = sorted(audio.glob("?.wav"))
    for name in ("clips.parquet", "clips.npz"):
        with open_output(folder / name, 128, torch.float32, pipe.provenance("none")) as write:
            for path, out in zip(paths, pipe([str(path) for path in paths]), strict=True):
                write(str(path), out)
    embed_to_folder(pipe, find_clips([str(audio)]), folder / "many", part_clips=2)
    shutil.copytree(folder / "many", folder / "copied", ignore=shutil.ignore_patterns(".*"))
    pd.read_parquet(folder / "clips.parquet").to_parquet(folder / "pandas.parquet")
    return folder


def assert_same(found, expected, clips=4):
    assert found.clips == clips
    assert found.statistics.count == expected.statistics.count
    assert np.allclose(found.statistics.mean, expected.statistics.mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["tar", "table", "list", "glob", "of clips"])
def test_audio_that_embed_takes(kind, audio, pipe, expected, tmp_path):
    if kind == "tar":
        source = tmp_path / "a.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(audio, "clips")
    elif kind == "table":
        source = tmp_path / "a.parquet"
        rows = [{"bytes": path.read_bytes(), "path": path.name} for path in audio.iterdir()]
        pd.DataFrame({"audio": rows}).to_parquet(source)
    elif kind == "list":
        source = tmp_path / "a.txt"
        source.write_text("".join(f"{path}\n" for path in audio.iterdir()))
    else:
        source = str(audio / "*.wav") if kind == "glob" else find_clips([str(audio)])
    found = find_set(source)
    assert found.kind == "audio"
    embedded = embed_set(found, ClipEmbedder(pipe), isolated=True)
    assert_same(embedded, expected)
    ((name, reason),) = embedded.failures
    assert "broken.wav" in name or kind == "table"
    assert "cannot open it" in reason


@pytest.mark.parametrize(
    "name", ["clips.parquet", "clips.npz", "many", "copied", "pandas.parquet", "*.parquet"]
)
def test_embeddings(name, stored, expected):
    if name == "*.parquet":
        found = embed_set([stored / "clips.parquet", stored / "clips.npz"])
        assert (found.clips, found.statistics.count) == (8, 2 * expected.statistics.count)
        return
    found = find_set(str(stored / name))
    assert found.kind == "embeddings"
    assert_same(embed_set(found), expected)
    names = [Path(clip).name for clip, _ in find_set(stored / name).clips]
    assert sorted(names) == ["0.wav", "1.wav", "2.wav", "3.wav"]
    if name == "many":
        assert [Path(clip).name for clip, _ in found.failures] == ["broken.wav"]
    if name == "pandas.parquet":
        (note,) = found.notes
        assert "pandas.parquet does not say how the embeddings were made" in note
    else:
        assert found.notes == ()
        assert found.statistics.differences(expected.statistics) == []


def test_a_clip_that_two_processes_have_written_counts_once(stored, expected, tmp_path):
    folder = tmp_path / "many"
    shutil.copytree(stored / "many", folder)
    first = next(folder.glob("part-*.parquet"))
    shutil.copy(first, folder / "part-ffff.parquet")
    assert_same(embed_set(folder), expected)


def test_unfinished_and_damaged_folders(stored, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    shutil.copy(stored / "many" / ".embeddings.json", folder)
    with pytest.raises(ValueError, match=r"No embeddings in '.*many' yet"):
        find_set(folder)
    (folder / "part-0.parquet").write_bytes(b"noise" * 9)
    with pytest.raises(ValueError, match=r"Not a Parquet file, or damaged: '.*part-0.parquet'"):
        find_set(folder)


def test_a_note_where_the_metadata_are_lost(audio, stored, pipe):
    result = fad(stored / "pandas.parquet", audio, model=pipe)
    assert result.score == pytest.approx(0, abs=1e-6)
    assert [note for note in result.notes if "comparable" in note] == [result.notes[0]]
    rows = np.concatenate([rows for _, rows in find_set(stored / "clips.npz").clips])
    result = fad(stored / "clips.parquet", rows)
    assert result.score == 0
    assert result.notes[0].startswith("fake: nothing is known of how the embeddings were made")
    result = fad(rows, rows)
    assert result.notes[0].startswith("real and fake: nothing is known of how the embeddings")


def test_iterators_are_read_once(audio, pipe, expected, generator):
    embedder = ClipEmbedder(pipe)
    assert_same(embed_set(audio.glob("*.wav"), embedder), expected)
    assert_same(embed_set(map(str, audio.glob("?.wav")), embedder), expected)
    assert_same(embed_set(np.array(sorted(map(str, audio.glob("?.wav")))), embedder), expected)
    assert_same(embed_set(dict.fromkeys(audio.glob("?.wav"), 0).keys(), embedder), expected)
    waveforms = ((torch.randn(20_000, generator=generator), 16_000) for _ in range(5))
    assert embed_set(waveforms, embedder).clips == 5
    mixed = iter([audio / "0.wav", (torch.zeros(20_000), 16_000), str(audio / "1.wav")])
    assert embed_set(mixed, embedder).clips == 3
    result = fad(audio.glob("*.wav"), audio.glob("*.wav"), model=pipe)
    assert (result.score, result.real.clips, result.fake.clips) == (0, 4, 4)
    both = audio.glob("*.wav")
    with pytest.raises(ValueError, match="got one iterator twice"):
        fad(both, both, model=pipe)


def test_audio_of_an_iterator_is_not_held(pipe):
    read = 0

    def clips():
        nonlocal read
        for _ in range(1000):
            read += 1
            yield torch.zeros(20_000), 16_000

    find_set(clips())
    assert read == 1
    seen = []
    with pytest.raises(KeyboardInterrupt):
        embed_set(clips(), ClipEmbedder(pipe), batch_size=4, on_clip=lambda *_: interrupt(seen))
    assert read < 100


def interrupt(seen):
    seen.append(1)
    raise KeyboardInterrupt


def test_a_file_that_is_given_twice_counts_twice(audio, pipe):
    path = audio / "0.wav"
    assert embed_set([path, str(path)], ClipEmbedder(pipe)).clips == 2


def test_one_clip_is_a_set(audio, pipe):
    path = audio / "0.wav"
    embedder = ClipEmbedder(pipe)
    waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    with path.open("rb") as file:
        for source in (
            path,
            path.read_bytes(),
            file,
            (waveform, 16_000),
            {"array": waveform, "sampling_rate": 16_000},
        ):
            found = embed_set(source, embedder)
            assert (found.clips, found.failures) == (1, ())


@pytest.mark.parametrize("kind", ["array", "tensor", "bfloat16", "uint8", "list", "generator"])
def test_arrays_of_embeddings(kind):
    rows = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
    source = {
        "array": rows,
        "tensor": torch.from_numpy(rows).requires_grad_(),
        "bfloat16": torch.from_numpy(rows).bfloat16(),
        "uint8": (rows * 9 + 99).astype(np.uint8),
        "list": [rows[:10], torch.from_numpy(rows[10:])],
        "generator": iter(rows.reshape(5, 6, 16)),
    }[kind]
    found = embed_set(source)
    assert found.statistics.count == 30
    assert found.clips == {"list": 2, "generator": 5}.get(kind)
    if kind == "uint8":
        assert np.abs(found.statistics.mean).max() < 2.01
    else:
        tolerance = 1e-2 if kind == "bfloat16" else 1e-6
        assert np.allclose(found.statistics.mean, rows.mean(0), atol=tolerance)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "at least one clip, got none"),
        (iter(()), "at least one clip, got none"),
        (7, "a set of clips, got int"),
        (np.zeros(9), r"shape \(examples, size\), got \(9,\)"),
        (torch.zeros(2, 3, 4), r"shape \(examples, size\), got \(2, 3, 4\)"),
        (np.zeros((3, 4), np.int64), "a float type or uint8, 'ndarray' has int64"),
        ([torch.zeros(3, 4).long()], "a float type or uint8, 'Tensor' has int64"),
        (np.arange(12.0).reshape(3, 4) * 20, "floats that are whole numbers from 0 to 220"),
    ],
)
def test_what_is_no_set(source, message):
    with pytest.raises(ValueError, match=message):
        find_set(source)


def test_several_kinds_in_one_set(audio, stored, expected, pipe, tmp_path):
    expected.statistics.save(tmp_path / "real.npz")
    real, rows = tmp_path / "real.npz", stored / "clips.parquet"
    clip = (torch.zeros(20_000), 16_000)
    for mixed in ([audio, rows], [real, rows], [real, real], [stored / "many", audio / "0.wav"]):
        with pytest.raises(ValueError, match="got several of these in one set"):
            find_set(mixed)
    for mixed in ([rows, clip], [clip, np.zeros((3, 128))], [clip, rows]):
        with pytest.raises(ValueError, match="got several of these in one set"):
            embed_set(mixed, ClipEmbedder(pipe))
    with pytest.raises(ValueError, match="got several of these in one set"):
        embed_set([np.zeros((3, 128)), clip])


def test_both_sets_are_checked_before_either_is_embedded(audio, stored, pipe, tmp_path):
    read = []

    def real():
        for number in range(3):
            read.append(number)
            yield torch.zeros(20_000), 16_000

    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    EmbeddingStatistics.from_embeddings(np.eye(5)).save(tmp_path / "small.npz")
    (tmp_path / "noise.parquet").write_bytes(b"noise" * 9)
    for fake, options, message in (
        (tmp_path / "none", {}, "No such file or folder"),
        ([tmp_path / "a.wav", tmp_path / "b.wav"], {}, "nor any of 1 more"),
        (tmp_path / "empty", {}, "empty"),
        ([], {}, "got none"),
        (tmp_path / "other.npz", {}, "no item named"),
        (tmp_path / "noise.parquet", {}, "noise.parquet"),
        (tmp_path / "small.npz", {}, "one size, got 128 and 5"),
        (stored / "clips.npz", {"preset": "google"}, "preset.peak_floor"),
        (audio, {"batch_size": 0}, "`batch_size` of at least 1"),
        (audio, {"confidence": 2}, "`confidence` between 0 and 1"),
        (np.zeros((9, 128)), {"per_clip": True}, "separate clips, got statistics"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            fad(real(), fake, model=pipe, **options)
        assert read in ([], [0])  # the first, to see what it is
        read.clear()


def test_links_are_skipped_and_reported(audio, tmp_path):
    shutil.copy(audio / "0.wav", tmp_path)
    (tmp_path / "out.wav").symlink_to(audio / "1.wav")
    skipped = []
    found = find_set(tmp_path, on_skip=lambda path, reason: skipped.append((path, reason)))
    assert [clip.id for clip in found.clips] == [str(tmp_path / "0.wav")]
    assert skipped == [(str(tmp_path / "out.wav"), "a link that leads out of its folder")]
    assert len(find_set(tmp_path, follow_symlinks=True).clips) == 2


def test_another_network_in_memory_is_refused(audio):
    pipe = VGGishPipeline.from_pretrained("demo")
    real = embed_set(audio, ClipEmbedder(pipe)).statistics
    with torch.no_grad():
        pipe.model.fc2.weight.mul_(2)
    with pytest.raises(ValueError, match="weights_sha256"):
        fad(real, audio, model=pipe)
    assert any("weights_sha256" in note for note in fad(real, audio, model=pipe, force=True).notes)
