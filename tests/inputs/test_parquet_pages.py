"""Parquet files that were made to fill the memory, and what their pages' headers tell."""

import os
import random
import struct
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vggish_hf.inputs import find_clips
from vggish_hf.inputs.parquet_pages import measure_pages, read_batches

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
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


def cells(rows, **values):
    return pa.array([{"bytes": b"1", "path": None} | values] * rows, AUDIO)


BOMBS = {
    "id": {"id": [LARGE] * 300, "wav": [b"1"] * 300},
    "key": {"id": [None] * 300, "key": [LARGE] * 300, "wav": [b"1"] * 300},
    "large": {"id": pa.array([LARGE] * 300, pa.large_string()), "wav": [b"1"] * 300},
    "path": {"path": [LARGE] * 300, "wav": [b"1"] * 300},
    "audio.path": {"audio": cells(300, path=LARGE)},
    "video_id": {"video_id": [LARGE] * 300, "audio": cells(300)},
}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
@pytest.mark.parametrize("encoding", ["dictionary", "plain", "delta"])
@pytest.mark.parametrize("column", BOMBS)
def test_columns_of_names(tmp_path, column, encoding):
    if encoding != "dictionary" and column not in ("id", "audio.path"):
        pytest.skip("the encoding is that of any column")
    options = {"use_dictionary": encoding == "dictionary"}
    if encoding == "delta":
        options["column_encoding"] = {column: "DELTA_BYTE_ARRAY"}
    table = pa.table(BOMBS[column])
    if encoding == "plain":
        table = table.slice(0, 30)
    pq.write_table(table, tmp_path / "s.parquet", compression="zstd", **options)
    assert os.path.getsize(tmp_path / "s.parquet") < 1 << 20
    count, grown, _ = cost_of(tmp_path / "s.parquet")
    assert count in (1, len(table))
    assert grown < 300, f"{grown} MiB"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
def test_rows_that_unpack_to_a_lot(tmp_path):
    """Whatever the footer says of them: it says that all is small."""
    path = tmp_path / "s.parquet"
    rows = [bytes(400 << 20), bytes(400 << 20)]
    pq.write_table(pa.table({"wav": rows}), path, compression="zstd", use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    assert chunk.total_uncompressed_size > 800 << 20
    data = path.read_bytes()
    true, forged = (varint(size * 2) for size in (chunk.total_uncompressed_size, 1000))
    footer = data.rindex(true)
    data = data[:footer] + forged + b"\x80" * 0 + data[footer + len(true) :]
    length = struct.unpack("<I", data[-8:-4])[0] - len(true) + len(forged)
    path.write_bytes(data[:-8] + struct.pack("<I", length) + data[-4:])
    assert pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 1000
    count, grown, error = cost_of(path)
    assert count == 2
    assert "Expected at most 100 times the compressed bytes" in error
    assert grown < 100, f"{grown} MiB"


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
            assert 0 < headers < 5000
            assert pages.unpacked + headers == chunk.total_uncompressed_size
            assert pages.largest <= pages.unpacked
    with pq.ParquetFile(path) as table:
        names = ["id", "labels", "score"]
        batches = list(read_batches(path, table, names, os.path.getsize(path)))
    assert pa.Table.from_batches(batches).equals(pa.table(columns).select(names))


def test_damaged_headers_raise_what_is_announced(tmp_path):
    path = tmp_path / "s.parquet"
    columns = {"id": [f"{i}" for i in range(40)], "wav": [bytes([i]) * 50 for i in range(40)]}
    pq.write_table(pa.table(columns), path, row_group_size=10)
    whole = path.read_bytes()
    rng = random.Random(0)
    read = refused = 0
    for _ in range(300):
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
    assert read > 300
    assert refused > 100
