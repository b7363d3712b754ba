"""The exported folder, opened by `datasets` in processes that have nothing of ours."""

import os
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from folders import TESTS

from vggish_hf.audioset import RecordError, RecordReader, export_embeddings, parse_audioset
from vggish_hf.audioset.released.export import ExportedSplit
from vggish_hf.cli import main

RELEASED = TESTS / "data" / "audioset"

# What somebody runs who has `datasets` alone. It hands over the rows as Arrow's stream.
READER = """
import importlib.util, os, sys
import pyarrow as pa
from datasets import ClassLabel, load_dataset

assert importlib.util.find_spec("vggish_hf") is importlib.util.find_spec("torch") is None
path, split, *streaming = sys.argv[1:]
dataset = load_dataset(path, "embeddings", split=split, streaming=bool(streaming))
labels = dataset.features["labels"].feature
assert isinstance(labels, ClassLabel) and labels.int2str(0) == "Speech", labels
embedding = next(iter(dataset))["embedding"]
assert {len(row) for row in embedding} == {128} and type(embedding[0][0]) is int, embedding
tables = list(dataset.with_format("arrow").iter(1000))
with pa.ipc.new_stream(sys.stdout.buffer, tables[0].schema) as stream:
    for table in tables:
        stream.write_table(table)
sys.stdout.flush()
os._exit(0)  # streaming leaves threads behind, which may abort a busy process at its exit
"""


@pytest.fixture(scope="session")
def bare_packages(tmp_path_factory):
    """A folder of packages that lacks torch, what builds on it, and all that is ours."""
    folder = tmp_path_factory.mktemp("packages")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.lower().startswith(("torch", "pytorch", "lightning", "_", "vggish")):
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture
def load_elsewhere(bare_packages, tmp_path):
    """The rows that plain `load_dataset` gives in a Python with those packages alone."""
    home = tmp_path / "home"
    home.mkdir()

    def load(path, split, *, streaming=False):
        done = subprocess.run(
            [sys.executable, "-S", "-c", READER, str(path), split, *["streaming"] * streaming],
            env={**os.environ, "HF_HOME": str(home), "PYTHONPATH": str(bare_packages)},
            cwd=home,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return pa.ipc.open_stream(done.stdout).read_all()

    return load


def read_records(source, split):
    """The records of a split: of a folder in the order of names, of an archive in its order."""
    if source.is_dir():
        paths = sorted((source / split).iterdir())
        return [parse_audioset(data) for path in paths for data in RecordReader(path)]
    with tarfile.open(source) as archive:
        files = [archive.extractfile(m) for m in archive if m.isfile() and split in m.name]
        return [parse_audioset(data) for file in files for data in RecordReader(file)]


def assert_equal(table, records):
    """Every value is the record's."""
    assert table["video_id"].to_pylist() == [record.video_id for record in records]
    for name in ("start_time_seconds", "end_time_seconds"):
        assert table[name].to_pylist() == [getattr(record, name) for record in records]
    assert table["labels"].to_pylist() == [list(record.labels) for record in records]
    embedding = table["embedding"].combine_chunks()
    assert embedding.value_lengths().to_pylist() == [len(record.embedding) for record in records]
    values = embedding.flatten().flatten().to_numpy()
    assert values.dtype == np.uint8
    assert np.array_equal(
        values.reshape(-1, 128), np.concatenate([record.embedding for record in records])
    )


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("streaming", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_plain_datasets_opens_it(tmp_path, load_elsewhere, streaming):
    exported = export_embeddings(RELEASED, tmp_path / "audioset")
    assert exported == {"bal_train": ExportedSplit(15, 1, {}), "eval": ExportedSplit(2, 1, {})}
    table = load_elsewhere(tmp_path / "audioset", "bal_train", streaming=streaming)
    assert_equal(table, read_records(RELEASED, "bal_train"))


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_all_of_bal_train(shared, tmp_path, load_elsewhere, streaming):
    source = shared / "data" / "audioset" / "bal_train.tar"
    export_embeddings(source, tmp_path / "audioset", file_bytes=8 << 20)
    assert len(list((tmp_path / "audioset" / "embeddings").iterdir())) == 5
    table = load_elsewhere(tmp_path / "audioset", "bal_train", streaming=streaming)
    assert len(table) == 22_160
    assert_equal(table, read_records(source, "bal_train"))


def test_an_archive_gives_what_its_folder_gives(tmp_path):
    source = tmp_path / "features.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        for file in sorted(RELEASED.rglob("*.tfrecord")):
            archive.add(file, f"audioset_v1_embeddings/{file.relative_to(RELEASED)}")
    export_embeddings(source, tmp_path / "a")
    export_embeddings(RELEASED, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_splits_of_two_sources_stand_side_by_side(tmp_path):
    export_embeddings(RELEASED / "bal_train", tmp_path / "a")
    export_embeddings(RELEASED / "eval", tmp_path / "a")
    export_embeddings(RELEASED, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.fixture
def damaged(tmp_path):
    """Three files of bal_train, of which the second has a damaged record."""
    folder = tmp_path / "damaged" / "bal_train"
    folder.mkdir(parents=True)
    for path in (RELEASED / "bal_train").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
        os.utime(folder / path.name, (0, 0))
    flip(folder)
    return folder


def flip(folder):
    """Damage one byte, or mend it, in secret: size and time stay."""
    path = folder / "b9.tfrecord"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    os.utime(path, (0, 0))


def test_a_later_run_resumes(damaged, tmp_path):
    folder = tmp_path / "audioset"
    with pytest.raises(RecordError, match=r"b9\.tfrecord, byte 0: "):
        export_embeddings(damaged, folder, file_bytes=0)
    (first,) = content(folder)
    assert first == "embeddings/bal_train-00000-of-00003.parquet"
    flip(damaged)
    made = (folder / first).stat().st_ino
    assert export_embeddings(damaged, folder, file_bytes=0)["bal_train"].records == 15
    assert (folder / first).stat().st_ino == made
    export_embeddings(damaged, tmp_path / "at once", file_bytes=0)
    assert content(folder) == content(tmp_path / "at once")


def test_skipped_records_are_remembered(damaged, tmp_path):
    folder = tmp_path / "audioset"
    expected = {"bal_train": ExportedSplit(14, 3, {str(damaged / "b9.tfrecord"): 1})}
    assert export_embeddings(damaged, folder, errors="skip", file_bytes=0) == expected
    before = {path: path.stat().st_ino for path in (folder / "embeddings").iterdir()}
    assert export_embeddings(damaged, folder, errors="skip", file_bytes=0) == expected
    assert before == {path: path.stat().st_ino for path in (folder / "embeddings").iterdir()}


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (RELEASED / "bal_train", {"errors": "skip"}),
        (RELEASED / "bal_train", {"file_bytes": 1 << 40}),
        ("b", {}),
    ],
)
def test_other_sources_and_options_do_not_mix(damaged, tmp_path, source, options):
    folder = tmp_path / "audioset"
    export_embeddings(RELEASED / "bal_train", folder)
    before = content(folder)
    with pytest.raises(ValueError, match="another source or other options"):
        export_embeddings(damaged if source == "b" else source, folder, **options)
    assert content(folder) == before


@pytest.mark.slow
def test_killed_and_run_again(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "audioset"
    (source / "eval").mkdir(parents=True)
    for number in range(400):
        (source / "eval" / f"{number:03}.tfrecord").symlink_to(RELEASED / "eval" / "8_.tfrecord")
    command = ["audioset", "export-embeddings", str(source), "-o", str(folder), "--file-size", "0"]
    process = subprocess.Popen([sys.executable, "-m", "vggish_hf.cli", *command])
    while not list(folder.glob("embeddings/*.parquet")):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    finished = {path: path.stat().st_ino for path in folder.glob("embeddings/*.parquet")}
    assert 0 < len(finished) < 400
    assert main(command) == 0
    assert finished.items() <= {p: p.stat().st_ino for p in folder.rglob("*")}.items()
    export_embeddings(source, tmp_path / "at once", file_bytes=0)
    assert content(folder) == content(tmp_path / "at once")


class TestCommand:
    def test_export(self, tmp_path, capsys):
        folder = tmp_path / "audioset"
        assert main(["audioset", "export-embeddings", str(RELEASED), "-o", str(folder)]) == 0
        assert capsys.readouterr().out == (
            f"bal_train: 15 records in {folder}/embeddings/bal_train-*.parquet\n"
            f"eval: 2 records in {folder}/embeddings/eval-*.parquet\n"
        )

    def test_damage(self, damaged, tmp_path, capsys):
        command = ["audioset", "export-embeddings", str(damaged), "-o", str(tmp_path / "audioset")]
        assert main(command) == 2
        path = damaged / "b9.tfrecord"
        assert capsys.readouterr().err.startswith(f"vggish-hf: error: {path}, byte 0: ")
        assert main([*command, "--errors", "skip"]) == 1
        captured = capsys.readouterr()
        assert captured.err == f"skipped: 1 damaged in {path}\n"
        assert captured.out.startswith("bal_train: 14 records in ")

    # The client's own upload by LFS passes its file to httpx in a deprecated way.
    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
    def test_push(self, hub, tmp_path, load_elsewhere, monkeypatch, capsys):
        monkeypatch.setattr(hub, "lfs", (".parquet",))
        monkeypatch.setenv("HF_TOKEN", hub.token)
        folder = tmp_path / "audioset"
        command = ["audioset", "export-embeddings", str(RELEASED), "-o", str(folder)]
        assert main([*command, "--push", "org/pushed-embeddings"]) == 0
        url = f"{hub.url}/datasets/org/pushed-embeddings/commit/"
        assert capsys.readouterr().out.splitlines()[-1].startswith(url)
        assert hub.files("org/pushed-embeddings", repo_type="dataset") == content(folder)
        table = load_elsewhere("org/pushed-embeddings", "eval", streaming=True)
        assert_equal(table, read_records(RELEASED, "eval"))

    @pytest.mark.parametrize("source", ["missing.tar", "."])
    def test_mistakes(self, tmp_path, monkeypatch, capsys, source):
        monkeypatch.chdir(tmp_path)
        assert main(["audioset", "export-embeddings", source, "-o", "audioset"]) == 2
        assert capsys.readouterr().err.startswith("vggish-hf: error: ")
        assert list(tmp_path.iterdir()) == []
