"""The file that TensorFlow keeps checkpoints in: a table of keys and values, sorted by key.

The file has blocks of entries, then an index block (for each block a key not below its last one,
and its place), then a footer of 48 bytes. After each block follow a byte for its compression and a
CRC-32C of both. Inside a block, a key is stored as its difference from the key before it; the
block's end lists the entries whose key is complete.

Source: https://github.com/google/leveldb/blob/main/doc/table_format.md; TensorFlow uses the same
layout and magic number.
"""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vggish_hf.tf_files.crc32c import masked_crc32c
from vggish_hf.tf_files.protobuf import WireFormatError, read_varint

METADATA_LIMIT = 1 << 20
"""Most bytes of an index or a list of variables. Those of VGGish have about a thousand; the limit
bounds the cost of a malicious file to seconds and to some 100 megabytes."""

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER_SIZE = 48
_TRAILER_SIZE = 5
_RESTART_INTERVAL = 16


class CheckpointError(ValueError):
    """A file that is not a TensorFlow checkpoint, or is damaged."""


@contextmanager
def checkpoint_errors(path: Path, part: str) -> Iterator[None]:
    """Report malformed bytes as a `CheckpointError` that names the file and its part."""
    try:
        yield
    except (WireFormatError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {part}: {error}") from error


def read_range(path: Path, offset: int, size: int) -> memoryview:
    """Read bytes of a file into writable memory.

    Args:
        path: The file.
        offset: Where they begin.
        size: How many.

    Raises:
        CheckpointError: They lead past the end of the file; nothing was allocated.
    """
    available = path.stat().st_size
    if offset + size > available:
        raise CheckpointError(
            f"{path}: expected {size} bytes at byte {offset}, but the file has {available}; it may "
            "be cut off: fetch it again"
        )
    return np.fromfile(path, np.uint8, size, offset=offset).data


def is_sorted_table(path: Path) -> bool:
    """Whether a file ends like a sorted table."""
    if not path.is_file() or (size := path.stat().st_size) < _FOOTER_SIZE:
        return False
    return read_range(path, size - len(_MAGIC), len(_MAGIC)) == _MAGIC


class SortedTable:
    """A sorted table on disk; only its index stays in memory.

    Iterating yields every key with its value, in order. Each lookup reads its block again; values
    are views of it.

    Args:
        path: The file.

    Attributes:
        path: The file.
        size: Its length in bytes.

    Raises:
        CheckpointError: The file does not end like a table, or its index is damaged.
        FileNotFoundError: The file does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        if not is_sorted_table(path):
            raise CheckpointError(
                f"{path}: not a TensorFlow checkpoint: a checkpoint (V1) or its index (V2) ends "
                "with the magic number of a sorted table, this file does not"
            )
        self._last_keys: list[bytes] = []
        self._handles: list[tuple[int, int]] = []
        footer = read_range(path, self.size - _FOOTER_SIZE, _FOOTER_SIZE)
        with checkpoint_errors(path, "the footer"):
            _, _, position = _read_handle(footer, 0)  # of an index that TensorFlow leaves empty
            index_offset, index_size, _ = _read_handle(footer, position)
        if index_size > METADATA_LIMIT:
            raise CheckpointError(
                f"{path}: the index claims {index_size} bytes; at most {METADATA_LIMIT} are read"
            )
        end = 0
        for key, value in self._entries(index_offset, index_size):
            with checkpoint_errors(path, "the index"):
                offset, size, _ = _read_handle(value, 0)
            # In order and without overlap, so that no byte is read twice.
            if offset < end or offset + size + _TRAILER_SIZE > index_offset:
                raise CheckpointError(
                    f"{path}: the index places a block of {size} bytes at byte {offset}, where "
                    f"only bytes {end} to {index_offset} are left"
                )
            end = offset + size + _TRAILER_SIZE
            self._last_keys.append(key)
            self._handles.append((offset, size))

    def __iter__(self) -> Iterator[tuple[bytes, memoryview]]:
        previous: bytes | None = None
        for handle in self._handles:
            for key, value in self._entries(*handle):
                if previous is not None and key <= previous:
                    raise CheckpointError(f"{self.path}: the keys are not in order")
                yield key, value
                previous = key

    def get(self, key: bytes) -> memoryview | None:
        """Look a key up.

        Returns:
            Its value, or None if the table lacks it.

        Raises:
            CheckpointError: The block where the key belongs is damaged.
        """
        nth = bisect_left(self._last_keys, key)
        if nth == len(self._handles):
            return None
        offset, size = self._handles[nth]
        for stored, value in self._entries(offset, size):
            if stored == key:
                # A view keeps its whole block in memory, so copy it unless it is most of the block.
                return value if 2 * len(value) > size else memoryview(bytearray(value))
        return None

    def _entries(self, offset: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
        data = read_range(self.path, offset, size + _TRAILER_SIZE)
        block, compression = data[:size], data[size]
        if masked_crc32c(data[: size + 1]) != int.from_bytes(data[size + 1 :], "little"):
            raise CheckpointError(
                f"{self.path}: the block at byte {offset} does not match its checksum; the file "
                "is damaged: fetch it again"
            )
        if compression != 0:
            raise CheckpointError(
                f"{self.path}: the block at byte {offset} is compressed (type {compression}); "
                "only uncompressed checkpoints, as TensorFlow writes them, are read"
            )
        with checkpoint_errors(self.path, f"the block at byte {offset}"):
            yield from _walk_block(block)


def _read_handle(buffer: memoryview, position: int) -> tuple[int, int, int]:
    """Read a block's offset and size; also return the position after them."""
    offset, position = read_varint(buffer, position)
    size, position = read_varint(buffer, position)
    return offset, size, position


def _walk_block(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the keys and values of a block, or raise `WireFormatError` if it is malformed."""
    restart_count = int.from_bytes(block[-4:], "little")
    entries_size = len(block) - 4 * (restart_count + 1)
    if entries_size < 0:
        raise WireFormatError(f"{restart_count} restarts do not fit into its {len(block)} bytes")
    restarts = np.frombuffer(block, "<u4", restart_count, entries_size)
    entries = block[:entries_size]
    # At least one key in 16 is complete, which bounds the keys' expansion: without a bound, three
    # bytes could repeat a key of megabytes.
    budget = _RESTART_INTERVAL * len(block)
    key: bytes | None = None
    position = nth_restart = 0
    while position < entries_size:
        start = position
        is_whole = nth_restart < restart_count and int(restarts[nth_restart]) == start
        nth_restart += is_whole
        shared, position = read_varint(entries, position)
        added, position = read_varint(entries, position)
        value_size, position = read_varint(entries, position)
        if shared > (0 if is_whole or key is None else len(key)):
            raise WireFormatError(f"its entry {start} repeats {shared} bytes of a shorter key")
        if added + value_size > entries_size - position:
            raise WireFormatError(
                f"its entry {start} claims {added} and {value_size} bytes, only "
                f"{entries_size - position} remain"
            )
        budget -= shared + added
        if budget < 0:
            raise WireFormatError("its keys expand more than 16-fold")
        previous, key = key, (key or b"")[:shared] + bytes(entries[position : position + added])
        if previous is not None and key <= previous:
            raise WireFormatError(f"its entry {start} is out of order")
        position += added
        yield key, entries[position : position + value_size]
        position += value_size
    # A block without entries has a restart too.
    if entries_size and nth_restart < restart_count:
        raise WireFormatError(f"its restart {nth_restart} is not the start of an entry")
