"""Parquet files that were made to fill the memory, and what their pages' headers tell."""

import os
import random
import struct
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import cases

from vggish_hf.inputs import find_clips
from vggish_hf.inputs.parquet_pages import measure_pages, read_batches

LARGE = "x" * (8 << 20)

# Lists the clips, loads the first, and says by how much that made the process larger.
CHILD = """
import resource, sys
import pyarrow.compute, pyarrow.parquet
from vggish_hf.inputs import find_clips
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clips = find_clips(sys.argv[1])
try:
    clips[0].load()
except (OSError, ValueError) as error:
    print(error, file=sys.stderr)
print(len(clips), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def cost_of(path):
    """How many clips there are, MiB that listing and reading them takes, and the error."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    count, grown = map(int, done.stdout.split())
    return count, grown, done.stderr


def names(rows):
    """A text of 8 MiB for each row, held once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [LARGE])


def make(column, rows):
    audio = [b"1"] * rows
    if column == "audio.path":
        cells = pa.StructArray.from_arrays([pa.array(audio), names(rows)], ["bytes", "path"])
        return pa.table({"audio": cells})
    missing = {"id": pa.nulls(rows, pa.string())} if column != "id" else {}
    return pa.table({**missing, column: names(rows), "wav": audio})


BOMBS = [
    *((column, {}) for column in ("id", "key", "path", "video_id", "audio.path")),
    ("id", {"use_dictionary": False}),
    ("id", {"use_dictionary": False, "column_encoding": {"id": "DELTA_BYTE_ARRAY"}}),
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
def test_columns_of_names(tmp_path):
    for number, (column, options) in enumerate(BOMBS):
        path = tmp_path / f"{number}.parquet"
        table = make(column, 20 if options else 300)
        pq.write_table(table, path, compression="zstd", store_schema=False, **options)
        assert os.path.getsize(path) < 1 << 20
    count, grown, _ = cost_of(tmp_path)
    # Named by the numbers of their rows; the plain pages are refused.
    assert count == 5 * 300 + 1 + 20
    assert grown < 150, f"{grown} MiB"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
def test_rows_that_unpack_to_a_lot(tmp_path):
    """Whatever the footer says of them: it says that all is small."""
    path = tmp_path / "s.parquet"
    rows = [bytes(50 << 20), bytes(50 << 20)]
    pq.write_table(pa.table({"wav": rows}), path, compression="zstd", use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    assert chunk.total_uncompressed_size > 100 << 20
    data = path.read_bytes()
    true, forged = (varint(size * 2) for size in (chunk.total_uncompressed_size, 1000))
    start = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    footer = data[start:-8].replace(true, forged)
    path.write_bytes(data[:start] + footer + struct.pack("<I", len(footer)) + data[-4:])
    assert pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 1000
    count, grown, error = cost_of(path)
    assert count == 2
    assert "Expected at most 100 times the compressed bytes" in error
    assert grown < 60, f"{grown} MiB"


def varint(value):
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", [None, "snappy", "zstd"])
def test_what_headers_tell_is_what_footers_of_real_files_say(tmp_path, version, compression):
    rows = [random.Random(row).randbytes(3000) for row in range(500)]
    columns = {
        "wav": rows,
        "id": [f"clip-{row}" for row in range(500)],
        "labels": [[row % 7, 3] for row in range(500)],
        "score": [row / 3 for row in range(500)],
    }
    path = str(tmp_path / "s.parquet")
    pq.write_table(
        *(pa.table(columns), path),
        compression=compression,
        data_page_version=version,
        row_group_size=200,
        data_page_size=10_000,
        write_page_checksum=True,
    )
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        for number in range(metadata.row_group(group).num_columns):
            chunk = metadata.row_group(group).column(number)
            pages = measure_pages(path, chunk, os.path.getsize(path))
            assert pages.values == chunk.num_values
            # The footer counts the headers too.
            headers = chunk.total_compressed_size - pages.packed
            assert 0 < headers < 20_000
            assert pages.unpacked + headers == chunk.total_uncompressed_size
            assert pages.largest <= pages.unpacked
    with pq.ParquetFile(path) as table:
        names = ["id", "labels", "score"]
        batches = list(read_batches(path, table, names, os.path.getsize(path)))
    assert pa.Table.from_batches(batches).equals(pa.table(columns).select(names))


@pytest.mark.fuzz
def test_damaged_headers_raise_what_is_announced(tmp_path):
    path = tmp_path / "s.parquet"
    columns = {"id": [f"{i}" for i in range(40)], "wav": [bytes([i]) * 50 for i in range(40)]}
    pq.write_table(pa.table(columns), path, row_group_size=10)
    whole = path.read_bytes()
    rng = random.Random(0)
    read = refused = 0
    num_cases = cases(300, quick=60)
    for _ in range(num_cases):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3])):
            at = rng.randrange(len(data))
            data[at : at + 4] = rng.choice([rng.randbytes(4), b"\xff" * 4, bytes(4), b"\x1c" * 4])
        path.write_bytes(data)
        for clip in find_clips(path):
            try:
                clip.load(1 << 20)
                read += 1
            except (OSError, ValueError):
                refused += 1
    assert read > num_cases
    assert refused > num_cases // 3
