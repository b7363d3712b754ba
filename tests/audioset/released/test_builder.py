import os
import shutil
import subprocess
import sys
import tarfile

import pyarrow as pa
import pytest
from datasets import ClassLabel, List, Value
from datasets.exceptions import DatasetGenerationError
from folders import TESTS

from vggish_hf.audioset import (
    AudioSetEmbeddings,
    AudioSetLabels,
    RecordError,
    RecordReader,
    RecordWriter,
    encode_audioset,
    parse_audioset,
)
from vggish_hf.audioset.released.shards import ShardOpener, find_shards
from vggish_hf.audioset.released.tables import EmbeddingTables, embedding_features

RELEASED = TESTS / "data" / "audioset"


def as_row(record):
    return {
        "video_id": record.video_id,
        "start_time_seconds": record.start_time_seconds,
        "end_time_seconds": record.end_time_seconds,
        "labels": list(record.labels),
        "embedding": record.embedding.tolist(),
    }


def rows_of(split, folder=RELEASED):
    paths = sorted((folder / split).iterdir())
    return [as_row(parse_audioset(data)) for path in paths for data in RecordReader(path)]


@pytest.fixture
def source(tmp_path):
    """A copy of the released files of the tests, to be damaged."""
    return shutil.copytree(RELEASED, tmp_path / "data")


@pytest.fixture
def damaged(source):
    """The same, with one byte changed in the third of six records."""
    path = source / "bal_train" / "b9.tfrecord"
    data = bytearray(path.read_bytes())
    data[2 * len(data) // 6 + 700] ^= 1
    path.write_bytes(data)
    return source


@pytest.fixture(params=["folder", "tar", "tar.gz"])
def any_source(request, tmp_path):
    if request.param == "folder":
        return RELEASED
    path = tmp_path / f"features.{request.param}"
    with tarfile.open(path, "w:gz" if request.param == "tar.gz" else "w") as archive:
        for file in sorted(RELEASED.rglob("*.tfrecord")):
            archive.add(file, f"audioset_v1_embeddings/{file.relative_to(RELEASED)}")
    return path


@pytest.mark.parametrize("num_proc", [None, 2])
def test_prepared(any_source, tmp_path, num_proc):
    builder = AudioSetEmbeddings(any_source, cache_dir=tmp_path / "cache")
    builder.download_and_prepare(num_proc=num_proc)
    splits = builder.as_dataset()
    assert list(splits) == ["bal_train", "eval"]
    for name, dataset in splits.items():
        assert dataset[:] == {k: [row[k] for row in rows_of(name)] for k in dataset.column_names}


def test_streamed(any_source, tmp_path):
    builder = AudioSetEmbeddings(any_source, cache_dir=tmp_path)
    stream = builder.as_streaming_dataset(split="bal_train")
    assert list(stream) == rows_of("bal_train")
    assert stream.features == embedding_features()
    # A gzipped archive is read from its start, so it is not divided.
    assert stream.num_shards == (1 if any_source.name.endswith(".gz") else 3)
    shuffled = [row["video_id"] for row in stream.shuffle(seed=0, buffer_size=4)]
    assert sorted(shuffled) == sorted(row["video_id"] for row in rows_of("bal_train"))


def test_features():
    features = embedding_features()
    assert features["labels"] == List(
        ClassLabel(names=[known.name for known in AudioSetLabels().classes])
    )
    assert features["embedding"] == List(List(Value("uint8"), length=128))
    labels = features["labels"].feature
    assert (labels.num_classes, labels.int2str(0), labels.str2int("Speech")) == (527, "Speech", 0)


def test_tables_hold_what_records_hold():
    with ShardOpener() as opener:
        tables = EmbeddingTables(find_shards(RELEASED)["bal_train"], opener)
        (table,) = tables
    assert table.to_pylist() == rows_of("bal_train")
    assert table.schema.field("embedding").type.value_type == pa.list_(pa.uint8(), 128)
    assert tables.skipped == {}


def test_tables_are_bounded(source):
    (path,) = (source / "eval").iterdir()
    path.write_bytes(path.read_bytes() * 2500)
    with ShardOpener() as opener:
        sizes = [len(table) for table in EmbeddingTables(find_shards(source)["eval"], opener)]
    assert sizes == [4096, 904]


def test_a_changed_source_is_prepared_anew(source, tmp_path):
    def ids():
        builder = AudioSetEmbeddings(source, cache_dir=tmp_path / "cache")
        builder.download_and_prepare()
        return builder.cache_dir, builder.as_dataset(split="eval")["video_id"][:]

    before = ids()
    assert ids() == before
    (path,) = (source / "eval").iterdir()
    path.write_bytes(b"".join(reversed([path.read_bytes(), path.read_bytes()])))
    after = ids()
    assert after[0] != before[0]
    assert after[1] == before[1] * 2


def test_a_damaged_record_is_named(damaged, tmp_path):
    builder = AudioSetEmbeddings(damaged, cache_dir=tmp_path / "cache")
    with pytest.raises(DatasetGenerationError) as caught:
        builder.download_and_prepare()
    path = damaged / "bal_train" / "b9.tfrecord"
    assert isinstance(caught.value.__cause__, RecordError)
    assert f"{path}, byte " in str(caught.value.__cause__)
    with pytest.raises(RecordError, match="data do not match their checksum"):
        list(builder.as_streaming_dataset(split="bal_train"))


def test_a_damaged_record_is_skipped_with_a_warning(damaged, tmp_path):
    builder = AudioSetEmbeddings(damaged, errors="skip", cache_dir=tmp_path / "cache")
    expected = rows_of("bal_train")
    del expected[4 + 2]
    with pytest.warns(UserWarning, match=r"b9\.tfrecord: skipped 1 damaged record"):
        builder.download_and_prepare()
    assert list(builder.as_dataset(split="bal_train")) == expected
    with pytest.warns(UserWarning, match=r"b9\.tfrecord: skipped 1 damaged record"):
        assert list(builder.as_streaming_dataset(split="bal_train")) == expected


@pytest.mark.parametrize("bad", [b"no protocol buffer", "label"])
def test_a_record_of_something_else(source, tmp_path, bad):
    path = source / "eval" / "8_.tfrecord"
    good = list(RecordReader(path))
    record = parse_audioset(good[0])
    if bad == "label":
        bad = encode_audioset(
            type(record)(record.video_id, 0.0, 1.0, (3, 527), record.embedding),
        )
    with RecordWriter(path) as writer:
        for data in (good[0], bad, good[1]):
            writer.write(data)
    shards = find_shards(source)["eval"]
    offset = 16 + len(good[0])
    with ShardOpener() as opener:
        with pytest.raises(RecordError, match=rf"8_\.tfrecord, byte {offset}: .*errors=\"skip\""):
            list(EmbeddingTables(shards, opener))
        tables = EmbeddingTables(shards, opener, "skip")
        for _ in range(2):  # counts anew
            (table,) = tables
            assert table.to_pylist() == rows_of("eval")
            assert tables.skipped == {str(path): 1}


def test_a_file_cut_short(source):
    path = source / "eval" / "8_.tfrecord"
    os.truncate(path, path.stat().st_size - 1)
    with ShardOpener() as opener:
        tables = EmbeddingTables(find_shards(source)["eval"], opener, "skip")
        assert [len(table) for table in tables] == [1]
        assert tables.skipped == {str(path): 1}


def test_errors_is_one_of_two(tmp_path):
    with pytest.raises(ValueError, match="'raise', 'skip'"):
        AudioSetEmbeddings(RELEASED, errors="ignore", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_shards(tmp_path):
    with pytest.raises(ValueError, match="in folders named bal_train"):
        AudioSetEmbeddings(tmp_path)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_importing_the_subpackage_imports_no_datasets():
    done = run("import sys, vggish_hf.audioset as a; a.AudioSetLabels(); print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert "datasets" not in done.stdout.split()


@pytest.mark.slow
def test_without_datasets_the_error_names_the_extra():
    statements = [
        "from vggish_hf.audioset import AudioSetEmbeddings",
        "from vggish_hf.audioset import AudioSetEmbeddingsDataset",
        "import vggish_hf.audioset as a; a.export_embeddings",
        "import vggish_hf.audioset.released.builder",
    ]
    done = run(
        "import sys; sys.modules['datasets'] = None\n"
        f"for statement in {statements}:\n"
        "    try: exec(statement)\n"
        "    except ImportError as error: print(error)"
    )
    message = "AudioSet as a data set needs `datasets`: pip install 'vggish-hf[audioset]'\n"
    assert done.stdout == message * len(statements), done.stderr


def test_what_is_not_there():
    with pytest.raises(ImportError, match="cannot import name 'AudioSetVideos'"):
        from vggish_hf.audioset import AudioSetVideos  # noqa: F401
