import gzip
import io
import os
import struct
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from folders import TESTS
from hypothesis import given
from hypothesis import strategies as st

from vggish_hf.tf_files.records import (
    RecordError,
    RecordReader,
    RecordWriter,
    frame_record,
    masked_crc32c,
)

RELEASED = sorted((TESTS / "data" / "audioset").glob("*/*.tfrecord"))

# The records "one" and "", as TensorFlow 2.21 writes them.
TENSORFLOW = (
    b"\x03\x00\x00\x00\x00\x00\x00\x00\xb0\x99I\x0eone\x01@U\x08"
    b"\x00\x00\x00\x00\x00\x00\x00\x00)\x03\x98\x07\xd8\xea\x82\xa2"
)
# Bytes; far below any length that the tests forge, far above what a reader needs. Since Python 3.12
# gzip reads 128 KiB at a time.
SMALL = 250_000


def header(length: int) -> bytes:
    """The header of a record that claims `length`, with a valid checksum."""
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", masked_crc32c(packed))


def read(data: bytes, **options) -> list[bytes]:
    return list(RecordReader(io.BytesIO(data), **options))


def test_reads_what_tensorflow_writes():
    assert read(TENSORFLOW) == [b"one", b""]


def test_writes_what_tensorflow_writes(tmp_path):
    with RecordWriter(tmp_path / "a.tfrecord") as writer:
        writer.write(b"one")
        writer.write(b"")
    assert (tmp_path / "a.tfrecord").read_bytes() == TENSORFLOW


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_released_file_rewritten_is_the_same(path, tmp_path):
    with RecordWriter(tmp_path / path.name) as writer:
        for record in RecordReader(path):
            writer.write(record)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_round_trip(records):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records")
        with RecordWriter(path) as writer:
            for record in records:
                writer.write(record)
        reader = RecordReader(path)
        assert list(reader) == records
        assert list(reader) == records, "a path is read anew"


# Sources.


def test_file_object_is_read_from_where_it_stands_and_left_open():
    file = io.BytesIO(b"preface" + TENSORFLOW)
    file.seek(7)
    assert list(RecordReader(file)) == [b"one", b""]
    assert not file.closed


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_pipe_which_cannot_seek(compress):
    receiver, sender = os.pipe()
    with open(receiver, "rb") as file:
        with open(sender, "wb") as pipe:
            pipe.write(compress(TENSORFLOW))
        assert list(RecordReader(file)) == [b"one", b""]


def test_gzip_is_detected_by_content(tmp_path):
    path = tmp_path / "no_gz_in_the_name.tfrecord"
    path.write_bytes(gzip.compress(RELEASED[0].read_bytes()))
    assert list(RecordReader(path)) == list(RecordReader(RELEASED[0]))


def test_gzip_of_several_members():
    assert read(gzip.compress(TENSORFLOW) + gzip.compress(TENSORFLOW)) == [b"one", b""] * 2


def test_length_that_looks_like_gzip():
    record = bytes(0x8B1F)
    assert frame_record(record)[:2] == b"\x1f\x8b"
    assert read(frame_record(record)) == [record]


def test_empty_file_has_no_records():
    assert read(b"") == []
    assert read(gzip.compress(b"")) == []


def test_missing_file_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(RecordReader(tmp_path / "absent", errors="skip"))


# Damage.

THREE = [b"first", b"second", b"third"]
FRAMES = [frame_record(record) for record in THREE]
BOUNDARIES = {0: 0, len(FRAMES[0]): 1, len(FRAMES[0] + FRAMES[1]): 2}


@pytest.mark.parametrize("size", range(len(b"".join(FRAMES))))
def test_truncation(size):
    data = b"".join(FRAMES)[:size]
    whole = sum(size >= boundary for boundary in BOUNDARIES) - 1
    reader = RecordReader(io.BytesIO(data), errors="skip")
    assert list(reader) == THREE[:whole]
    assert reader.skipped == (size not in BOUNDARIES)
    for wrap in (bytes, gzip.compress):  # which hides the size of the file
        if size not in BOUNDARIES:
            with pytest.raises(RecordError, match=f"byte {list(BOUNDARIES)[whole]}: "):
                read(wrap(data))


@pytest.mark.parametrize("position", range(len(FRAMES[0])))
@pytest.mark.parametrize("bit", [0, 7])
def test_flipped_bit(position, bit):
    data = bytearray(b"".join(FRAMES))
    data[len(FRAMES[0]) + position] ^= 1 << bit  # in the second record, or behind
    with pytest.raises(RecordError, match=f"byte {len(FRAMES[0])}: .*checksum"):
        read(bytes(data))
    reader = RecordReader(io.BytesIO(bytes(data)), errors="skip")
    assert list(reader) == (THREE[:1] if position < 12 else [THREE[0], THREE[2]])
    assert reader.skipped == 1


def test_skipped_counts_the_latest_iteration(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(TENSORFLOW[:15] + bytes(4) + TENSORFLOW[19:-1])  # two kinds of damage
    reader = RecordReader(path, errors="skip")
    for _ in range(2):
        list(reader)
        assert reader.skipped == 2


def test_error_names_the_file(tmp_path):
    path = tmp_path / "cut.tfrecord"
    path.write_bytes(TENSORFLOW[:-1])
    with pytest.raises(RecordError, match=r"cut\.tfrecord, byte 19: .*ends at byte 35.* byte 34"):
        list(RecordReader(path))


@pytest.mark.parametrize(
    "damage",
    [lambda packed: packed[:-9], lambda packed: packed[:-8] + bytes(8)],
    ids=["cut", "crc"],
)
def test_damaged_gzip(damage):
    data = damage(gzip.compress(TENSORFLOW))
    with pytest.raises(RecordError, match="byte 35: "):
        read(data)
    reader = RecordReader(io.BytesIO(data), errors="skip")
    assert list(reader) == [b"one", b""]
    assert reader.skipped == 1


@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("length", [65 << 20, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_forged_length_allocates_nothing(length, wrap):
    file = io.BytesIO(wrap(header(length)))
    list(RecordReader(io.BytesIO(wrap(TENSORFLOW))))  # allocates what is allocated once
    tracemalloc.start()
    try:
        with pytest.raises(RecordError, match=f"claims {length} bytes; .* pass `max_record_bytes`"):
            list(RecordReader(file))
        assert tracemalloc.get_traced_memory()[1] < SMALL
    finally:
        tracemalloc.stop()


def test_forged_length_below_the_limit_is_held_against_the_file_size():
    tracemalloc.start()
    try:
        with pytest.raises(RecordError, match=f"the record ends at byte {(10 << 20) + 16}"):
            read(header(10 << 20) + bytes(100))
        assert tracemalloc.get_traced_memory()[1] < SMALL
    finally:
        tracemalloc.stop()


def test_max_record_bytes():
    assert read(TENSORFLOW, max_record_bytes=3) == [b"one", b""]
    with pytest.raises(RecordError, match=r"claims 3 bytes; .* pass `max_record_bytes` above 2"):
        read(TENSORFLOW, max_record_bytes=2)


def test_unknown_errors_argument():
    with pytest.raises(ValueError, match="`errors` to be one of 'raise', 'skip', got 'ignore'"):
        RecordReader("a.tfrecord", errors="ignore")


# Writing.


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a.tfrecord"
    with RecordWriter(path) as writer:
        writer.write(b"one")
        assert not path.exists()
    assert list(tmp_path.iterdir()) == [path]


def test_exception_leaves_the_older_file(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(TENSORFLOW)
    with pytest.raises(TypeError), RecordWriter(path) as writer:
        list(map(writer.write, [b"half of it", "no bytes"]))
    assert path.read_bytes() == TENSORFLOW
    assert list(tmp_path.iterdir()) == [path]


def test_failed_rename_leaves_nothing(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.mkdir()
    with pytest.raises(OSError, match="directory"), RecordWriter(path) as writer:
        writer.write(b"one")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="files have no permission bits there")
def test_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").touch()
    with RecordWriter(tmp_path / "a.tfrecord"):
        pass
    assert (tmp_path / "a.tfrecord").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_write_outside_the_block(tmp_path):
    writer = RecordWriter(tmp_path / "a.tfrecord")
    with pytest.raises(ValueError, match="inside the `with` block"):
        writer.write(b"one")
    with writer:
        writer.write(b"one")
    with pytest.raises(ValueError, match="inside the `with` block"):
        writer.write(b"two")
