import numpy as np
import pyarrow.parquet as pq
import pytest
from folders import TESTS

from vggish_hf.audioset import AudioSetRecord, RecordReader, parse_audioset
from vggish_hf.audioset.released import files
from vggish_hf.audioset.released.files import write_release
from vggish_hf.audioset.released.tables import embedding_features, record_table

RELEASED = TESTS / "data" / "audioset"


def record(video_id, seconds=10):
    rng = np.random.default_rng(list(video_id.encode()))
    rows = rng.integers(0, 256, (seconds, 128), np.uint8)
    return AudioSetRecord(video_id, 1.5, 1.5 + seconds, (0, 526), rows)


@pytest.fixture
def tables(tmp_path):
    """Write records as tables of so many rows."""

    def write(records, rows=3):
        paths = []
        for start in range(0, len(records), rows):
            paths.append(tmp_path / f"{start}.parquet")
            pq.write_table(record_table(records[start : start + rows]), paths[-1])
        return paths

    return write


def read(folder):
    """The records of each file, by its name."""
    return {
        path.name: [comparable(parse_audioset(data)) for data in RecordReader(path)]
        for path in folder.iterdir()
    }


def comparable(record):
    context = (record.video_id, record.start_time_seconds, record.end_time_seconds, record.labels)
    return (*context, record.embedding.tolist())


@pytest.mark.parametrize("split", ["bal_train", "eval"])
@pytest.mark.parametrize("group", [1, 50_000])
def test_the_release_comes_out_as_it_is(tables, tmp_path, monkeypatch, split, group):
    monkeypatch.setattr(files, "_GROUP_RECORDS", group)
    paths = sorted((RELEASED / split).iterdir())
    records = [parse_audioset(data) for path in paths for data in RecordReader(path)]
    written = write_release(tables(records), tmp_path / split)
    assert sorted(path.name for path in written) == [path.name for path in paths]
    assert read(tmp_path / split) == read(RELEASED / split)


def test_files_are_named_for_the_first_two_characters(tables, tmp_path):
    records = [record(i) for i in ("--bbbbbbbbb", "_-aaaaaaaaa", "--aaaaaaaaa", "-_aaaaaaaaa")]
    write_release(tables(records), tmp_path / "eval")
    assert read(tmp_path / "eval") == {
        "--.tfrecord": [comparable(records[0]), comparable(records[2])],
        "_-.tfrecord": [comparable(records[1])],
        "-_.tfrecord": [comparable(records[3])],
    }


def test_names_that_differ_in_case_alone(tables, tmp_path):
    records = [record(i) for i in ("5vaaaaaaaaa", "5Vbbbbbbbbb", "5vccccccccc")]
    upper, lower = comparable(records[1]), [comparable(records[0]), comparable(records[2])]
    write_release(tables(records), tmp_path / "one", ignores_case=True)
    assert read(tmp_path / "one") == {"5V.tfrecord": [upper, *lower]}
    write_release(tables(records), tmp_path / "this")
    found = [row for rows in read(tmp_path / "this").values() for row in rows]
    assert sorted(found) == sorted([upper, *lower])  # whatever this disk does
    assert {path.suffix for path in (tmp_path / "this").iterdir()} == {".tfrecord"}


def test_clips_of_any_length(tables, tmp_path):
    records = [record("aaaaaaaaaaa", 1), record("aabbbbbbbbb", 10), record("aaccccccccc", 3)]
    write_release(tables(records), tmp_path / "eval")
    assert read(tmp_path / "eval") == {"aa.tfrecord": [comparable(r) for r in records]}


def test_an_empty_table(tmp_path):
    schema = embedding_features().arrow_schema
    pq.write_table(schema.empty_table(), tmp_path / "x.parquet")
    assert write_release([tmp_path / "x.parquet"], tmp_path / "eval") == []
    assert list((tmp_path / "eval").iterdir()) == []
