"""Measure the pages of a Parquet file before unpacking any of them.

The footer of a malicious file may lie about sizes. What counts is in the header of each page, by
which pyarrow allocates:
https://parquet.apache.org/docs/file-format/data-pages/.
"""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vggish_hf.inputs.stores import open_binary

#: Pages may always unpack to this, whatever their size on disk.
MAX_UNPACKED_BYTES = 64 << 20
#: Audio and names hardly shrink: a larger ratio is malicious.
MAX_RATIO = 100

_MAX_BATCH_ROWS = 1 << 14
_VALUE_BYTES = 8
_READAHEAD = 1 << 12  # a page's header, with the smallest and the largest value
_MAX_DEPTH = 8
_MAX_HEADER_READS = 1 << 12
_MAX_VARINT_BYTES = 10

# Fields of a page's header.
_UNPACKED, _PACKED = 2, 3
_DATA, _DATA_V2 = 5, 8
_NUM_VALUES = 1


class Pages(NamedTuple):
    """The pages of a column in a row group.

    Args:
        packed: Their bytes in the file.
        unpacked: Their bytes when unpacked.
        largest: The most bytes of one when unpacked.
        values: The number of their values.
    """

    packed: int
    unpacked: int
    largest: int
    values: int


def measure_pages(path: str, chunk: pq.ColumnChunkMetaData, file_bytes: int) -> Pages:
    """Read the headers of a column's pages.

    Args:
        path: A local path or a URL.
        chunk: The column in a row group, from the footer.
        file_bytes: Size of the file.

    Raises:
        ValueError: The pages are not where the footer says, or a header is invalid.
    """
    position = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < position:
        position = chunk.dictionary_page_offset
    end = position + chunk.total_compressed_size
    if not 0 < position <= end <= file_bytes:
        raise ValueError(f"the pages of `{chunk.path_in_schema}` lie outside the file")
    packed = unpacked = largest = values = 0
    with open_binary(path, readahead=_READAHEAD) as source:
        while position < end and values < chunk.num_values:
            source.seek(position)
            header = _Thrift(source)
            fields = header.read_struct()
            size, unpacked_size = fields.get(_PACKED), fields.get(_UNPACKED)
            if not (isinstance(size, int) and isinstance(unpacked_size, int)) or (
                min(size, unpacked_size) < 0
            ):
                raise ValueError(f"a page of `{chunk.path_in_schema}` has no size")
            packed += size
            unpacked += unpacked_size
            largest = max(largest, unpacked_size)
            for kind in (_DATA, _DATA_V2):
                held = fields.get(kind)
                values += max(held.get(_NUM_VALUES) or 0, 0) if isinstance(held, dict) else 0
            position += header.num_bytes + size
    if position > end:
        raise ValueError(f"a page of `{chunk.path_in_schema}` leads out of its column")
    return Pages(packed, unpacked, largest, values)


def check_pages(name: str, pages: Pages) -> None:
    """Raise ValueError if pages unpack to so much that they must be malicious."""
    unpacked = max(pages.unpacked, pages.values * _VALUE_BYTES)
    if unpacked > max(MAX_RATIO * pages.packed, MAX_UNPACKED_BYTES):
        raise ValueError(
            f"Expected at most {MAX_RATIO} times the compressed bytes, or {MAX_UNPACKED_BYTES}, "
            f"{name} has {unpacked} in {pages.packed}; write the table without compression, or in "
            "smaller row groups"
        )


def read_batches(
    path: str, table: pq.ParquetFile, columns: Sequence[str], file_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Read columns of numbers, names and the like, at most 64 MiB at a time.

    Args:
        path: The table's path.
        table: The table, open.
        columns: By pyarrow's names for selecting columns.
        file_bytes: How long the file is.

    Raises:
        ValueError: A page of these has more than 64 MiB, or the pages unpack to too much.
    """
    wanted = [*columns, *(f"{column}." for column in columns)]
    for group in range(table.num_row_groups):
        metadata = table.metadata.row_group(group)
        largest = 1
        for number in range(metadata.num_columns):
            chunk = metadata.column(number)
            column = chunk.path_in_schema
            if column not in wanted and not column.startswith(tuple(wanted[len(columns) :])):
                continue
            pages = measure_pages(path, chunk, file_bytes)
            check_pages(f"`{column}`", pages)
            # With a dictionary each row may have the largest value.
            repeats = chunk.physical_type == "BYTE_ARRAY" and ".list." in column
            if pages.largest > MAX_UNPACKED_BYTES or repeats:
                raise ValueError(
                    f"Expected pages of at most {MAX_UNPACKED_BYTES} bytes in `{column}`, and no "
                    f"lists of texts, got {pages.largest}"
                )
            largest += pages.largest
        rows = min(max(MAX_UNPACKED_BYTES // largest, 1), _MAX_BATCH_ROWS)
        yield from table.iter_batches(
            rows, row_groups=[group], columns=list(columns), use_threads=False
        )


class _Thrift:
    """Reads a struct in Thrift's compact protocol, but only numbers and structs in it.

    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._read = 0
        self.num_bytes = 0

    def read_struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("a page's header is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            # The type of a boolean is its value; nothing follows.
            fields[number] = self._value(head & 15, depth) if head & 15 > 2 else None
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2 | 3:  # booleans in lists, bytes
                self._byte()
            case 4 | 5 | 6:  # integers of 16, 32 and 64 bits
                return self._integer()
            case 7:  # floats of 64 bits
                self._skip(8)
            case 8:  # bytes
                self._skip(self._varint())
            case 9 | 10:  # lists, sets
                head = self._byte()
                length = head >> 4 if head >> 4 < 15 else self._varint()
                for _ in range(length):
                    self._value(head & 15, depth + 1)
            case 12:  # structs
                return self.read_struct(depth + 1)
            case _:
                raise ValueError("a page's header is damaged")
        return None

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for place in range(_MAX_VARINT_BYTES):
            byte = self._byte()
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise ValueError("a page's header is damaged")

    def _byte(self) -> int:
        read = self._source.read(1)
        self._read += 1
        if not read or self._read > _MAX_HEADER_READS:
            raise ValueError("a page's header is cut short, or damaged")
        self.num_bytes += 1
        return read[0]

    def _skip(self, size: int) -> None:
        self._source.seek(size, 1)
        self.num_bytes += size
