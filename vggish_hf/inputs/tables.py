"""Clips in the rows of Parquet files, read a row at a time."""

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.inputs.addresses import is_url
from vggish_hf.inputs.stores import (
    NoAudioError,
    StoredFile,
    check_size,
    open_store,
    storage_errors,
)

# A binary column by one of these names holds encoded audio.
_AUDIO_NAMES = frozenset({"audio", "bytes", *(ending[1:] for ending in AUDIO_EXTENSIONS)})
# The first of these that names every row, each once, gives the ids.
_ID_NAMES = ("id", "__key__", "key", "file_name", "path")

# Read at once: without it whole columns are held, and stores send five times as much.
_BUFFER_BYTES = 1 << 20
# What stays decoded behind the newest row of a file, since threads do not ask in order.
_RECENT_BYTES = 64 << 20
_OPEN_FILES = 8

# Audio hardly shrinks: what unpacks to more than so many times its bytes was made to fill memory.
_MAX_RATIO = 100
_MAX_UNPACKED_BYTES = 64 << 20  # which may be of any ratio
_MAX_EMPTY_ROWS = 1000  # as may be of no bytes
# Beside a row's own bytes: headers of pages, with the least and the largest value.
_PAGE_BYTES = 1 << 16


def list_rows(file: StoredFile) -> list[str]:
    """List the ids of a table's rows: a column's values, or else the rows' numbers.

    Raises:
        NoAudioError: It has no column of audio.
        OSError: It cannot be read.
    """
    with storage_errors(file.name), _open_table(file.path) as table:
        schema = table.schema_arrow
        if (audio := find_audio_column(schema)) is not None:
            _check_rows(table.metadata, audio)
            inside = [audio.removesuffix("bytes") + "path"] * audio.endswith(".bytes")
            for column in [*_ID_NAMES, *inside]:
                ids = _unique_values(table, column)
                if ids is not None:
                    return ids
            return [str(row) for row in range(table.metadata.num_rows)]
    columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
    raise NoAudioError(
        "Expected one column of audio: `audio` or another of structs with `bytes`, or a binary one "
        f"named as `audio`, `bytes`, `wav`, `flac`, `mp3` and so on; {file.name!r} has {columns}"
    )


def read_row(file: StoredFile, row: int, max_bytes: int) -> bytes:
    """Read the audio of a row; reading rows in their order reads each page of the file once.

    Raises:
        OSError: It cannot be read.
        ValueError: The row holds no audio, or more than `max_bytes`.
    """
    name = f"{file.name}, row {row}"
    with storage_errors(name):
        version = os.stat(file.path) if not is_url(file.path) else None
        rows = _open_rows(file.path, version and (version.st_mtime_ns, version.st_size))
    rows.check(name, row, max_bytes)
    with storage_errors(name):
        cell = rows.read(row)
    content = cell["bytes"] if cell.is_valid and pa.types.is_struct(cell.type) else cell
    if not content.is_valid:
        raise ValueError(f"{name!r} holds no bytes, and a path in a table is not followed")
    check_size(name, content.as_buffer().size, max_bytes)
    value: bytes = content.as_py()
    return value


def find_audio_column(schema: pa.Schema) -> str | None:
    """Find the column that holds encoded audio, as pyarrow names it where it selects columns."""
    found = {}
    for field in schema:
        if pa.types.is_struct(field.type):
            inner = {part.name: part.type for part in field.type}
            if "bytes" in inner and _is_binary(inner["bytes"]):
                found[field.name] = f"{field.name}.bytes"
        elif field.name in _AUDIO_NAMES and _is_binary(field.type):
            found[field.name] = field.name
    if "audio" in found:
        return found["audio"]
    return next(iter(found.values())) if len(found) == 1 else None


def _audio_chunk(metadata: pq.FileMetaData, group: int, column: str) -> pq.ColumnChunkMetaData:
    rows = metadata.row_group(group)
    chunks = map(rows.column, range(rows.num_columns))
    return next(chunk for chunk in chunks if chunk.path_in_schema == column)


def _check_rows(metadata: pq.FileMetaData, column: str) -> None:
    groups = range(metadata.num_row_groups)
    size = sum(_audio_chunk(metadata, group, column).total_compressed_size for group in groups)
    if metadata.num_rows > max(size, _MAX_EMPTY_ROWS):
        raise ValueError(
            f"Expected at most as many rows as `{column}` has bytes, or {_MAX_EMPTY_ROWS}, got "
            f"{metadata.num_rows} rows in {size} bytes; leave out those without audio"
        )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _unique_values(table: pq.ParquetFile, column: str) -> list[str] | None:
    name, _, inner = column.partition(".")
    index = table.schema_arrow.get_field_index(name)
    if index < 0:
        return None
    kind = table.schema_arrow.field(index).type
    if inner:
        kind = next((part.type for part in kind if part.name == inner), pa.null())
    if not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)
    ):
        return None
    values: list[Any] = []
    try:
        for batch in table.iter_batches(columns=[column]):
            values += batch.column(0).to_pylist()
    except UnicodeDecodeError:  # Parquet's strings may hold any bytes
        return None
    if inner:
        values = [value and value[inner] for value in values]
    if None in values or len(set(values)) < len(values):
        return None
    return [str(value) for value in values]


@contextmanager
def _open_table(path: str) -> Iterator[pq.ParquetFile]:
    with _source(path) as source, _table(source) as table:
        yield table


def _table(source: Any) -> pq.ParquetFile:
    # With its own buffer pyarrow reads all row groups that are to come at once.
    return pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def _source(path: str) -> Any:
    if is_url(path):
        store, inner = open_store(path)
        return store.open(inner, "rb", cache_type="readahead", block_size=_BUFFER_BYTES)
    # pyarrow takes names that are no UTF-8 as bytes alone.
    return pa.OSFile(os.fsencode(path) if os.name == "posix" else path)


class _Rows:
    """The audio of a file's rows, decoded a row at a time."""

    def __init__(self, path: str) -> None:
        self._table = _table(_source(path))
        groups = range(self._table.num_row_groups)
        sizes = (self._table.metadata.row_group(group).num_rows for group in groups)
        self._starts = list(accumulate(sizes, initial=0))  # and the end of the last
        self._column = find_audio_column(self._table.schema_arrow)
        self._lock = threading.Lock()
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._next = 0  # row of the next batch
        self._recent: dict[int, pa.Array] = {}  # by row, the oldest first
        self._recent_bytes = 0

    def check(self, name: str, row: int, max_bytes: int) -> None:
        """Raise ValueError where the footer tells that reading a row would fill the memory."""
        if self._column is None or not 0 <= row < self._starts[-1]:
            return  # `read` says so
        group = self._group(row)
        chunk = _audio_chunk(self._table.metadata, group, self._column)
        size, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
        if chunk.num_values == 1:
            check_size(name, size - _PAGE_BYTES, max_bytes, or_more=True)
        if size > max(_MAX_RATIO * packed, _MAX_UNPACKED_BYTES):
            raise ValueError(
                f"Expected audio of at most {_MAX_RATIO} times its compressed bytes, or "
                f"{_MAX_UNPACKED_BYTES}, the row group of {name!r} has {size} in {packed}; write "
                "the table without compression, or in smaller row groups"
            )

    def read(self, row: int) -> pa.Scalar:
        if self._column is None or not 0 <= row < self._starts[-1]:
            raise ValueError(f"the file has changed, it has {self._starts[-1]} rows")
        with self._lock:
            if row not in self._recent:
                self._seek(row)
                while self._next <= row:
                    self._step()
            return self._recent[row][0]

    def _group(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _seek(self, row: int) -> None:
        group = self._group(row)
        # On the way to the next row group every page of this one would be read.
        if self._next > row or self._next < self._starts[group] or self._next == 0:
            groups = range(group, self._table.num_row_groups)
            self._batches = self._table.iter_batches(
                1, row_groups=list(groups), columns=[self._column], use_threads=False
            )
            self._next = self._starts[group]

    def _step(self) -> None:
        row, self._next = self._next, self._starts[-1]  # where it stays after damage
        batch = next(self._batches, None)
        if batch is None:
            raise ValueError("its columns are of unequal lengths")
        cells = batch.column(0)
        if row in self._recent:
            self._recent_bytes -= self._recent.pop(row).nbytes
        self._recent[row] = cells
        self._recent_bytes += cells.nbytes
        while self._recent_bytes > _RECENT_BYTES and len(self._recent) > 1:
            oldest = self._recent.pop(next(iter(self._recent)))
            self._recent_bytes -= oldest.nbytes
        self._next = row + 1


@lru_cache(maxsize=_OPEN_FILES)
def _open_rows(path: str, _version: tuple[int, int] | None) -> _Rows:
    return _Rows(path)


if hasattr(os, "register_at_fork"):
    # A lock that another thread held, and the position in a file, do not survive a fork.
    os.register_at_fork(after_in_child=_open_rows.cache_clear)
