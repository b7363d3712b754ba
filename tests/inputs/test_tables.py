"""Clips in Parquet files, written by pyarrow and by `datasets`."""

import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_server import FileServer

from vggish_hf.inputs import tables
from vggish_hf.inputs.stores import NoAudioError, StoredFile
from vggish_hf.inputs.tables import find_audio_column, list_members, list_rows, read_row

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LIMIT = 1 << 20


def content(row, size=3000):
    return random.Random(row).randbytes(size)


def file_at(path):
    return StoredFile(os.fspath(path), "table.parquet")


def opened(file):
    """The rows of a file, as they are held between two reads."""
    version = os.stat(file.path)
    return tables._open_rows(file.path, (version.st_mtime_ns, version.st_size))


@pytest.fixture
def write(tmp_path):
    def write(columns, name="table.parquet", **options):
        pq.write_table(pa.table(columns), tmp_path / name, **options)
        return file_at(tmp_path / name)

    return write


@pytest.fixture
def many(write):
    """A hundred rows in ten groups."""
    return write({"wav": [content(row) for row in range(100)]}, row_group_size=10)


class TestAudioColumn:
    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            ({"audio": AUDIO, "label": pa.int64()}, "audio.bytes"),
            ({"speech": AUDIO, "text": pa.string()}, "speech.bytes"),
            ({"audio": pa.binary()}, "audio"),
            ({"image": AUDIO, "audio": AUDIO}, "audio.bytes"),
            ({"audio": pa.large_binary(), "bytes": pa.binary()}, "audio"),
            ({"key": pa.binary(), "flac": pa.binary()}, "flac"),
            ({"mp3": pa.binary(), "wav": pa.binary()}, None),
            ({"image": AUDIO, "wav": pa.binary()}, None),
            ({"audio": pa.string()}, None),
            ({"audio": pa.struct([("path", pa.string())])}, None),
            ({"embedding": pa.list_(pa.float32()), "data": pa.binary()}, None),
        ],
    )
    def test_which_it_is(self, columns, expected):
        assert find_audio_column(pa.schema(columns.items())) == expected

    def test_the_error_lists_the_columns(self, write):
        file = write({"id": ["a"], "embedding": [[0.5]]})
        columns = r"'table\.parquet' has id: string, embedding: list<.*: double>$"
        with pytest.raises(NoAudioError, match=f"Expected one column of audio: .* {columns}"):
            list_rows(file)


class TestIds:
    def test_the_first_column_that_names_each_row_once(self, write):
        columns = {
            "wav": [b"1", b"2", b"3"],
            "path": ["p", "q", "r"],
            "id": ["a", "b", "a"],
            "key": ["x", None, "z"],
            "__key__": [0.5, 1.5, 2.5],
            "file_name": ["f", "g", "h"],
        }
        assert list_rows(write(columns)) == ["f", "g", "h"]
        assert list_rows(write({**columns, "id": [7, 8, 9]})) == ["7", "8", "9"]

    def test_a_column_that_names_rows_more_than_once(self, write):
        """As in tars, the second and later ones of a name get a number."""
        columns = {"wav": [b"1", b"2"], "key": ["k", "k"], "id": ["a", None], "path": ["p", "p"]}
        assert list_rows(write(columns)) == ["k", "k"]
        assert [m.name for m in list_members(write({**columns, "video_id": ["v", "w"]}))] == list(
            "vw"
        )

    def test_the_path_beside_the_bytes(self, write):
        cells = [{"bytes": b"1", "path": "a.wav"}, {"bytes": b"2", "path": "b.wav"}]
        assert list_rows(write({"audio": pa.array(cells, AUDIO)})) == ["a.wav", "b.wav"]
        assert list_rows(write({"audio": pa.array([*cells, None], AUDIO)})) == ["0", "1", "2"]
        assert list_rows(write({"audio": pa.array(cells * 2, AUDIO)})) == ["a.wav", "b.wav"] * 2

    def test_values_that_are_no_utf_8(self, write):
        values = pa.array([b"caf\xe9.wav", b"b.wav"], pa.binary())
        names = pa.Array.from_buffers(pa.string(), 2, values.buffers())
        columns = {"audio": [b"1", b"2"], "file_name": names}
        assert list_rows(write(columns)) == ["0", "1"]
        assert list_rows(write({**columns, "path": ["a", "b"]})) == ["a", "b"]

    def test_texts_that_are_no_names(self, write):
        columns = {"wav": [b"1", b"2"], "id": ["a" * 4097, "b"], "path": ["p", "q"]}
        assert list_rows(write(columns)) == ["p", "q"]

    def test_many_rows_of_nothing(self, write):
        nothing = {"audio": pa.nulls(1001, pa.binary())}
        with pytest.raises(OSError, match=r"as `audio` has bytes, or 1000, got 1001 rows in \d+ "):
            list_rows(write(nothing))
        assert len(list_rows(write({"audio": pa.nulls(1000, pa.binary())}))) == 1000
        cells = [{"bytes": content(row, 2), "path": None} for row in range(2000)]
        assert len(list_rows(write({"audio": pa.array(cells, AUDIO)}))) == 2000

    def test_numbers_without_any(self, write):
        assert list_rows(write({"audio": [b"1", b"2"]})) == ["0", "1"]
        assert list_rows(write({"audio": pa.array([], pa.binary())})) == []


class TestRead:
    def test_rows_in_any_order(self, many):
        rows = [*range(100), *reversed(range(100)), 55, 3, 98, 0, 99, 54]
        for row in rows:
            assert read_row(many, row, LIMIT) == content(row)

    def test_rows_that_are_no_longer_held(self, write, monkeypatch):
        monkeypatch.setattr(tables, "_RECENT_BYTES", 7000)
        file = write({"wav": [content(row) for row in range(40)]}, row_group_size=20)
        for row in [*range(40), *random.Random(0).sample(range(40), 40)]:
            assert read_row(file, row, LIMIT) == content(row)
            assert sum(cells.nbytes for cells in opened(file)._recent.values()) <= 7000

    def test_from_threads(self, many):
        rows = random.Random(0).choices(range(100), k=300)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda row: read_row(many, row, LIMIT), rows))
        assert found == [content(row) for row in rows]

    def test_structs_and_large_binaries(self, write):
        cells = [{"bytes": b"one", "path": "a"}, {"bytes": b"two", "path": None}]
        file = write({"label": [0, 1], "audio": pa.array(cells, AUDIO)})
        assert [read_row(file, row, LIMIT) for row in (1, 0)] == [b"two", b"one"]
        file = write({"audio": pa.array([b"three"], pa.large_binary())}, "large.parquet")
        assert read_row(file, 0, LIMIT) == b"three"

    def test_a_dataset_of_the_hub(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"audio": datasets.Audio(), "label": datasets.Value("string")})
        cells = [{"bytes": content(row), "path": f"{row}.wav"} for row in range(5)]
        table = pa.table({"audio": pa.array(cells, AUDIO), "label": list("abcde")})
        table = table.cast(features.arrow_schema)
        datasets.Dataset(table).to_parquet(tmp_path / "a.parquet", batch_size=2)
        schema = pq.read_schema(tmp_path / "a.parquet")
        assert datasets.Features.from_arrow_schema(schema) == features
        file = file_at(tmp_path / "a.parquet")
        assert list_rows(file) == [f"{row}.wav" for row in range(5)]
        assert [read_row(file, row, LIMIT) for row in range(5)] == [
            content(row) for row in range(5)
        ]

    @pytest.mark.parametrize("cell", [None, {"bytes": None, "path": "/etc/hostname"}])
    def test_rows_without_bytes(self, write, cell):
        file = write({"audio": pa.array([cell, {"bytes": b"1", "path": ""}], AUDIO)})
        with pytest.raises(ValueError, match="row 0' holds no bytes, and a path in a table is not"):
            read_row(file, 0, LIMIT)
        assert read_row(file, 1, LIMIT) == b"1"

    def test_rows_that_are_too_large(self, many):
        with pytest.raises(
            ValueError, match=r"at most 2999 bytes, 'table.parquet, row 4' has 3000"
        ):
            read_row(many, 4, 2999)
        assert len(read_row(many, 4, 3000)) == 3000

    @pytest.mark.parametrize("kind", [pa.binary(), AUDIO])
    def test_a_row_that_unpacks_to_too_much(self, write, kind):
        cell = bytes(3 << 20)
        cells = pa.array([cell if kind == pa.binary() else {"bytes": cell, "path": ""}], kind)
        file = write({"audio": cells}, compression="zstd", use_dictionary=False)
        assert os.path.getsize(file.path) < 10_000
        before = pa.total_allocated_bytes()
        with pytest.raises(ValueError, match=r"at most 1048576 bytes, .* row 0' has \d+ or more"):
            read_row(file, 0, LIMIT)
        assert not opened(file)._recent
        assert pa.total_allocated_bytes() - before < 1 << 20
        assert read_row(file, 0, 3 << 20) == cell

    def test_a_group_that_unpacks_to_too_much(self, write):
        cells = [b"first", bytes(65 << 20), *(content(row) for row in range(8))]
        file = write({"audio": cells}, compression="zstd", use_dictionary=False, row_group_size=2)
        with pytest.raises(ValueError, match=r"at most 100 times .*row 0' has \d+ in \d+; write"):
            read_row(file, 0, LIMIT)
        assert not opened(file)._recent
        assert read_row(file, 2, LIMIT) == content(0)
        file = write({"audio": cells[:2]}, compression=None, use_dictionary=False)
        assert read_row(file, 0, LIMIT) == b"first"

    def test_rows_that_are_not_there(self, many):
        for row in (100, -1):
            with pytest.raises(OSError, match=f"row {row}' cannot be read: .* it has 100 rows"):
                read_row(many, row, LIMIT)

    def test_a_file_that_is_replaced(self, write):
        assert read_row(write({"audio": [b"old"]}), 0, LIMIT) == b"old"
        assert read_row(write({"audio": [b"newer"]}), 0, LIMIT) == b"newer"

    def test_damage_in_one_group(self, write, tmp_path):
        file = write({"wav": [content(row) for row in range(30)]}, row_group_size=10)
        column = pq.read_metadata(file.path).row_group(1).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
        data = bytearray((tmp_path / "table.parquet").read_bytes())
        data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
        (tmp_path / "table.parquet").write_bytes(data)
        for row in (9, 20, 29, 0):
            assert read_row(file, row, LIMIT) == content(row)
            with pytest.raises(OSError, match=r"row 15' cannot be read: "):
                read_row(file, 15, LIMIT)

    def test_no_parquet_file(self, tmp_path):
        (tmp_path / "table.parquet").write_bytes(b"no table" * 100)
        for read in (list_rows, lambda file: read_row(file, 0, LIMIT)):
            with pytest.raises(OSError, match=r"table\.parquet.*' cannot be read: ArrowInvalid"):
                read(file_at(tmp_path / "table.parquet"))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_after_a_fork_under_a_lock(self, many):
        read_row(many, 0, LIMIT)
        with opened(many)._lock:  # as if another thread were reading
            child = os.fork()
            if child == 0:
                os._exit(0 if read_row(many, 1, LIMIT) == content(1) else 1)
            assert os.waitpid(child, 0)[1] == 0

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
    def test_names_that_are_no_utf_8(self, write, tmp_path):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.parquet")
        os.rename(write({"audio": [b"1"]}).path, path)
        assert list_rows(file_at(path)) == ["0"]
        assert read_row(file_at(path), 0, LIMIT) == b"1"


class TestRemote:
    @pytest.fixture
    def rows(self):
        return [content(row, 100_000) for row in range(400)]

    @pytest.fixture
    def server(self, tmp_path, rows):
        """Forty groups of a megabyte."""
        pq.write_table(pa.table({"audio": rows}), tmp_path / "a.parquet", row_group_size=10)
        with FileServer({"a.parquet": (tmp_path / "a.parquet").read_bytes()}) as server:
            yield server

    def test_a_row_takes_its_group_and_no_more(self, server, rows):
        file = StoredFile(f"{server.url}/a.parquet", "a.parquet")
        assert len(list_rows(file)) == 400
        for row in (3, 200, 201):
            assert read_row(file, row, LIMIT) == rows[row]
        assert server.sent < 6 << 20

    def test_what_fails_may_be_tried_again(self, server, rows):
        file = StoredFile(f"{server.url}/a.parquet", "a.parquet")
        assert read_row(file, 198, LIMIT) == rows[198]
        server.lost = 1000
        for _ in range(2):
            with pytest.raises(OSError, match=r"a\.parquet, row 250' cannot be read: "):
                read_row(file, 250, LIMIT)
        server.lost = 0
        for row in (250, 251, 199):
            assert read_row(file, row, LIMIT) == rows[row]

    def test_from_memory(self):
        store = fsspec.filesystem("memory")
        with store.open("/a.parquet", "wb") as file:
            pq.write_table(pa.table({"id": ["x"], "audio": [b"1"]}), file)
        file = StoredFile("memory:///a.parquet", "memory:///a.parquet")
        assert list_rows(file) == ["x"]
        assert read_row(file, 0, LIMIT) == b"1"
        store.store.clear()
