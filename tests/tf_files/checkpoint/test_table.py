from pathlib import Path

import numpy as np
import pytest
from checkpoint_writer import (
    encode_block,
    encode_handle,
    seal,
    write_blocks,
    write_sealed,
    write_table,
)

from vggish_hf.tf_files.checkpoint.table import (
    METADATA_LIMIT,
    CheckpointError,
    SortedTable,
    is_sorted_table,
)
from vggish_hf.tf_files.protobuf import encode_varint

ENTRIES = {b"": b"header"} | {b"key/%03d" % n: b"value %d" % n for n in range(100)}


def block(*entries: tuple[int, bytes, bytes], restarts: tuple[int, ...] = (0,)) -> bytes:
    """A block of entries given as (bytes shared with the key before, bytes added, value)."""
    packed = b"".join(
        encode_varint(shared)
        + encode_varint(len(added))
        + encode_varint(len(value))
        + added
        + value
        for shared, added, value in entries
    )
    return packed + np.array([*restarts, len(restarts)], "<u4").tobytes()


@pytest.mark.parametrize("block_size", [1, 50, 1000, 1 << 18])
def test_all_entries_are_found(tmp_path: Path, block_size: int) -> None:
    path = tmp_path / "table"
    write_table(path, ENTRIES, block_size)
    assert is_sorted_table(path)
    table = SortedTable(path)
    assert {key: bytes(value) for key, value in table} == ENTRIES
    for key, value in ENTRIES.items():
        assert table.get(key) == value
    for absent in (b"\0", b"key", b"key/050x", b"zzz"):
        assert table.get(absent) is None


def test_a_table_without_entries(tmp_path: Path) -> None:
    write_table(tmp_path / "table", {})
    assert list(SortedTable(tmp_path / "table")) == []


def test_a_small_value_does_not_keep_a_big_block(tmp_path: Path) -> None:
    write_table(tmp_path / "table", {b"big": bytes(1 << 20), b"small": b"value"})
    value = SortedTable(tmp_path / "table").get(b"small")
    assert value is not None
    assert len(value.obj) == len(b"value")


@pytest.mark.parametrize("size", [0, 1, 47, 48, 1000])
def test_what_lacks_the_footer_is_no_table(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    assert not is_sorted_table(path)
    with pytest.raises(CheckpointError, match="not a TensorFlow checkpoint"):
        SortedTable(path)


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "table"
    write_table(path, {b"": b"header", b"key": b"value", b"second": b"other"}, block_size=20)
    content = path.read_bytes()
    expected = list(SortedTable(path))
    unused = 0
    for position in range(len(content)):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]
        )
        try:
            # The block that the first of the footer's handles names is of no use to TensorFlow
            # either, nor are the zeros between the handles and the magic number.
            assert list(SortedTable(path)) == expected
            unused += 1
        except CheckpointError:
            pass
    assert unused == len(encode_block([])) + 5 + 2 + 36


def test_a_cut_out_middle_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "table"
    write_table(path, ENTRIES, block_size=100)
    content = path.read_bytes()
    path.write_bytes(content[:1000] + content[-48:])
    with pytest.raises(CheckpointError, match=r"expected .* bytes at byte .* the file has 1048"):
        SortedTable(path)


def test_compressed_blocks_are_refused_by_name(tmp_path: Path) -> None:
    content = encode_block([(b"key", b"value")])
    index = [(b"key", encode_handle(0, content))]
    write_sealed(tmp_path / "table", seal(content, compression=1), index)
    with pytest.raises(CheckpointError, match=r"block at byte 0 is compressed \(type 1\)"):
        SortedTable(tmp_path / "table").get(b"key")


@pytest.mark.parametrize(
    "handles",
    [
        [(0, 20), (0, 20)],  # twice the same
        [(25, 20), (0, 20)],
        [(0, 40), (30, 20)],
        [(0, 59)],  # its checksum would lie in the index
        [(1 << 63, 20)],
        [(0, 1 << 63)],
    ],
)
def test_blocks_that_are_not_consecutive(tmp_path: Path, handles: list[tuple[int, int]]) -> None:
    index = [
        (bytes([n]), encode_varint(at) + encode_varint(size))
        for n, (at, size) in enumerate(handles)
    ]
    write_sealed(tmp_path / "table", bytes(50), index)
    with pytest.raises(CheckpointError, match=r"the index places a block of .* bytes at byte"):
        SortedTable(tmp_path / "table")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "0 restarts do not fit into its 0 bytes"),
        (block((0, b"a", b""), restarts=(0,) * 9)[-8:], "9 restarts do not fit into its 8 bytes"),
        (
            block((0, b"a", b"1"), (0, b"b", b"2"), restarts=(0, 3)),
            "restart 1 is not the start of an",
        ),
        (block((0, b"a", b"1"), restarts=(0, 100)), "restart 1 is not the start of an entry"),
        (block((0, b"a", b"1"), (1, b"b", b"2"), restarts=(0, 5)), "entry 5 repeats 1 bytes"),
        (block((1, b"a", b"1")), "entry 0 repeats 1 bytes of a shorter key"),
        (block((0, b"a", b"1"), (2, b"b", b"2")), "entry 5 repeats 2 bytes of a shorter key"),
        (block((0, b"b", b"1"), (0, b"a", b"2")), "entry 5 is out of order"),
        (block((0, b"a", b"1"), (0, b"a", b"2")), "entry 5 is out of order"),
        (b"\0\x7f\0" + block((0, b"a", b"1")), "claims 127 and 0 bytes, only 5 remain"),
        (b"\0\0\x7f" + block((0, b"a", b"1")), "claims 0 and 127 bytes, only 5 remain"),
        (b"\x80" * 11 + block(), "more than ten bytes"),
        (b"\0" + block(), "ends inside a number"),
        (
            block((0, b"k" * 1000, b""), *((1000, b"%03d" % n, b"") for n in range(100))),
            "expand more than 16-fold",
        ),
    ],
)
def test_a_block_that_breaks_a_rule(tmp_path: Path, content: bytes, match: str) -> None:
    write_blocks(tmp_path / "table", [(b"z", content)])
    with pytest.raises(CheckpointError, match=rf"table: the block at byte 0: .*({match})"):
        list(SortedTable(tmp_path / "table"))


def test_blocks_out_of_order(tmp_path: Path) -> None:
    blocks = [(b"b", encode_block([(b"b", b"")])), (b"c", encode_block([(b"a", b"")]))]
    write_blocks(tmp_path / "table", blocks)
    with pytest.raises(CheckpointError, match="the keys are not in order"):
        list(SortedTable(tmp_path / "table"))


def test_an_index_over_the_limit(tmp_path: Path) -> None:
    write_blocks(tmp_path / "table", [(bytes(METADATA_LIMIT), encode_block([]))])
    with pytest.raises(CheckpointError, match=r"the index claims .* at most 1048576 are read"):
        SortedTable(tmp_path / "table")
