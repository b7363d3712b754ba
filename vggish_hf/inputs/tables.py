"""Clips in the rows of Parquet files, read row by row."""

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.inputs.addresses import is_url
from vggish_hf.inputs.parquet_pages import (
    MAX_RATIO,
    MAX_UNPACKED_BYTES,
    Pages,
    check_pages,
    measure_pages,
    read_batches,
)
from vggish_hf.inputs.stores import (
    Member,
    NoAudioError,
    StoredFile,
    check_size,
    file_version,
    open_store,
    storage_errors,
)

# A binary column with one of these names holds encoded audio.
_AUDIO_NAMES = frozenset({"audio", "bytes", *(ending[1:] for ending in AUDIO_EXTENSIONS)})
# The first of these with a unique name for every row gives the ids.
_ID_NAMES = ("id", "__key__", "key", "video_id", "file_name", "path")

# Bytes read at once: without it memory holds whole columns, and stores send five times as much.
_BUFFER_BYTES = 1 << 20
# Rows kept decoded before the newest row of a file, since threads do not read in order.
_RECENT_BYTES = 64 << 20
_OPEN_FILES = 8

_MAX_EMPTY_ROWS = 1000  # may be of no bytes
# A longer text is not a name.
_MAX_ID_BYTES = 4096
_SHOWN = 1000
# Besides a row's bytes: headers of pages, with the smallest and the largest value.
_PAGE_BYTES = 1 << 16


def list_members(file: StoredFile) -> Iterator[Member]:
    """List the rows of a table."""
    for row, row_id in enumerate(list_rows(file)):
        yield Member(row_id, row)


def read_member(file: StoredFile, member: Member, max_bytes: int) -> bytes:
    """Read the audio of a row; reading rows in order reads each page once."""
    return read_row(file, cast(int, member.offset), max_bytes)


def list_rows(file: StoredFile) -> list[str]:
    """List the ids of a table's rows: a column's values, else the rows' numbers.

    Raises:
        NoAudioError: It has no column of audio.
        OSError: It cannot be read.
    """
    with storage_errors(file.name), open_table(file.path) as (table, file_bytes):
        schema = table.schema_arrow
        if (audio := find_audio_column(schema)) is not None:
            _check_rows(table.metadata, audio, file_bytes)
            inside = [audio.removesuffix("bytes") + "path"] * audio.endswith(".bytes")
            complete = None
            for column in [*_ID_NAMES, *inside]:
                ids = _values(file.path, table, column, file_bytes)
                if ids is not None and len(set(ids)) == len(ids):
                    return ids
                complete = complete or ids
            return complete or [str(row) for row in range(table.metadata.num_rows)]
    columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
    if len(columns) > _SHOWN:
        columns = f"{columns[:_SHOWN]}..."
    raise NoAudioError(
        "Expected one column of audio: `audio` or another of structs with `bytes`, or a binary one "
        f"named as `audio`, `bytes`, `wav`, `flac`, `mp3` and so on; {file.name!r} has {columns}"
    )


def read_row(file: StoredFile, row: int, max_bytes: int) -> bytes:
    """Read the audio of a row; reading rows in order reads each page once.

    Raises:
        OSError: It cannot be read.
        ValueError: The row holds no audio, or more than `max_bytes`.
    """
    name = f"{file.name}, row {row}"
    with storage_errors(name):
        rows = _open_rows(file.path, file_version(file.path))
        rows.measure(row)
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
    """Find the column of encoded audio, by pyarrow's name for selecting it."""
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


def _check_rows(metadata: pq.FileMetaData, column: str, file_bytes: int) -> None:
    groups = range(metadata.num_row_groups)
    size = sum(_audio_chunk(metadata, group, column).total_compressed_size for group in groups)
    if metadata.num_rows > max(min(size, file_bytes), _MAX_EMPTY_ROWS):
        raise ValueError(
            f"Expected at most as many rows as `{column}` has bytes, or {_MAX_EMPTY_ROWS}, got "
            f"{metadata.num_rows} rows in {min(size, file_bytes)} bytes; remove those without "
            "audio"
        )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _values(path: str, table: pq.ParquetFile, column: str, file_bytes: int) -> list[str] | None:
    """Read a column with a name for every row; None for any other."""
    name, _, inner = column.partition(".")
    index = table.schema_arrow.get_field_index(name)
    if index < 0:
        return None
    kind = table.schema_arrow.field(index).type
    if inner:
        kind = next((part.type for part in kind if part.name == inner), pa.null())
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_integer(kind)):
        return None
    values: list[str] = []
    size = 0
    try:
        for batch in read_batches(path, table, [column], file_bytes):
            cells = pc.struct_field(batch.column(0), inner) if inner else batch.column(0)
            if cells.null_count:
                return None
            if is_text:
                lengths = pc.binary_length(cells)
                size += pc.sum(lengths).as_py() or 0
                if size > max(MAX_RATIO * file_bytes, MAX_UNPACKED_BYTES) or (
                    (pc.max(lengths).as_py() or 0) > _MAX_ID_BYTES
                ):
                    return None
            values += map(str, cells.to_pylist())
    except UnicodeDecodeError:  # Parquet's strings may hold any bytes
        return None
    return values


@contextmanager
def open_table(path: str) -> Iterator[tuple[pq.ParquetFile, int]]:
    """Open a Parquet file, local or at a URL, and return its size too."""
    with _source(path) as source, _table(source) as table:
        yield table, _size(source)


def _size(source: Any) -> int:
    size = source.size
    return int(size() if callable(size) else size)


def _table(source: Any) -> pq.ParquetFile:
    # With its own buffer pyarrow reads all following row groups at once.
    return pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def _source(path: str) -> Any:
    if is_url(path):
        store, inner = open_store(path)
        return store.open(inner, "rb", cache_type="readahead", block_size=_BUFFER_BYTES)
    # pyarrow accepts names that are not UTF-8 only as bytes.
    return pa.OSFile(os.fsencode(path) if os.name == "posix" else path)


class _Rows:
    """The audio of a file's rows, decoded row by row."""

    def __init__(self, path: str) -> None:
        source = _source(path)
        self._path = path
        self._file_bytes = _size(source)
        self._table = _table(source)
        groups = range(self._table.num_row_groups)
        sizes = (self._table.metadata.row_group(group).num_rows for group in groups)
        self._starts = list(accumulate(sizes, initial=0))  # and the end of the last
        self._column = find_audio_column(self._table.schema_arrow)
        self._pages: dict[int, Pages] = {}  # by row group
        self._lock = threading.Lock()
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._next = 0  # row of the next batch
        self._recent: dict[int, pa.Array] = {}  # by row, the oldest first
        self._recent_bytes = 0

    def check(self, name: str, row: int, max_bytes: int) -> None:
        """Raise ValueError if reading a row would fill the memory."""
        pages = self.measure(row)
        if pages is None:
            return
        if pages.values == 1:
            check_size(name, pages.unpacked - _PAGE_BYTES, max_bytes, or_more=True)
        check_pages(f"the row group of {name!r}", pages)

    def measure(self, row: int) -> Pages | None:
        """Read the sizes of the pages in a row's group, once; None if the row does not exist."""
        if self._column is None or not 0 <= row < self._starts[-1]:
            return None  # `read` says so
        group = self._group(row)
        if group not in self._pages:
            chunk = _audio_chunk(self._table.metadata, group, self._column)
            self._pages[group] = measure_pages(self._path, chunk, self._file_bytes)
        return self._pages[group]

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
        # Skipping to the next row group would read every page of this one.
        if self._next > row or self._next < self._starts[group] or self._next == 0:
            groups = range(group, self._table.num_row_groups)
            self._batches = self._table.iter_batches(
                1, row_groups=list(groups), columns=[self._column], use_threads=False
            )
            self._next = self._starts[group]

    def _step(self) -> None:
        row, self._next = self._next, self._starts[-1]  # it stays there after damage
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
