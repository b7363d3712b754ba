"""Parts of whole clips: which are repeated, what is dropped, and merging in several passes."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vggish_hf.outputs import parts
from vggish_hf.outputs.parts import drop_clips, find_repeated, merge_parts, read_ids

SCHEMA = pa.schema(
    [pa.field("id", pa.string(), nullable=False), pa.field("x", pa.int64(), nullable=False)],
    metadata={"made": "by hand"},
)


@pytest.fixture
def part(tmp_path):
    """Write a file of clips, each with as many rows as its id has letters, or three."""

    def write(number, clips):
        ids = [clip for clip in clips for _ in range(len(clip) or 3)]
        rows = [row for clip in clips for row in range(len(clip) or 3)]
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table([ids, rows], schema=SCHEMA), path, row_group_size=4)
        return path

    return write


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(parts, "_BLOCK_ROWS", 3)
    monkeypatch.setattr(parts, "_GROUP_ROWS", 3)


def test_ids(part):
    clips = ["", "a", "bbbbbbbbb", "cc", "d"]
    assert list(read_ids(part(0, clips))) == clips
    assert list(read_ids(part(1, []))) == []


@pytest.mark.parametrize("hash_of", [hash, len, lambda clip: 0])
def test_repeated(part, monkeypatch, hash_of):
    # With a hash that most clips share, they still are no others than they are.
    monkeypatch.setattr(parts, "hash", hash_of, raising=False)
    paths = [part(0, ["a", "bb", "cc"]), part(1, ["bb", "dd"]), part(2, ["a", "bb", "e"])]
    assert find_repeated(paths) == (5, {paths[1]: {"bb"}, paths[2]: {"a", "bb"}})
    assert find_repeated(paths[:1]) == (3, {})
    assert find_repeated([]) == (0, {})


def test_drop(part, tmp_path):
    path = part(0, ["a", "bbbbbbb", "cc", "dddd"])
    drop_clips(path, {"bbbbbbb", "dddd", "not there"})
    assert pq.read_table(path).to_pydict() == {"id": ["a", "cc", "cc"], "x": [0, 0, 1]}
    assert pq.read_schema(path).metadata == SCHEMA.metadata
    drop_clips(path, {"a", "cc"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("open_files", [2, 3, 16])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_merge(part, tmp_path, monkeypatch, open_files, count):
    monkeypatch.setattr(parts, "_OPEN_FILES", open_files)
    clips = sorted({"x" * (number % 5) + str(number) for number in range(40)})
    paths = [part(number, clips[number::count]) for number in range(count)]
    target = tmp_path / "merged.parquet"
    merge_parts(paths, target)
    merged = pq.read_table(target)
    assert merged.equals(pq.read_table(part("expected", clips)))
    assert merged.schema.equals(SCHEMA, check_metadata=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "merged.parquet",
        "expected.parquet",
        *(path.name for path in paths),
    }


def test_a_merge_that_fails_leaves_nothing(part, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_OPEN_FILES", 2)
    paths = [part(number, [str(number)]) for number in range(5)]
    paths[4].write_bytes(b"PAR1")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"4\.parquet'; delete it"):
        merge_parts(paths, tmp_path / "merged.parquet")
    assert sorted(tmp_path.iterdir()) == before
