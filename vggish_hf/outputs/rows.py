"""Rows of embeddings, collected into record batches for the formats of one row per example."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import torch

from vggish_hf._runtime.row_buffer import RowBuffer
from vggish_hf.outputs.schema import WriteClip
from vggish_hf.pipeline import VGGishOutput

#: Rows collected before writing: 8 MiB of float32, a row group of a Parquet file.
GROUP_ROWS = 16_384


@contextmanager
def collect_rows(
    schema: pa.Schema, write_batch: Callable[[pa.RecordBatch], None]
) -> Iterator[WriteClip]:
    """Cut clips into batches of `GROUP_ROWS` rows; the last may be smaller.

    Args:
        schema: The columns, see `embedding_schema`.
        write_batch: Writes a batch, which is valid until it returns.
    """
    group = _RowGroup(schema)

    def write(clip: str, output: VGGishOutput) -> None:
        written = 0
        while written < len(output.embeddings):
            written += group.add(clip, output, written)
            if group.room == 0:
                write_batch(group.take())

    yield write
    if group.room < GROUP_ROWS:
        write_batch(group.take())


class _RowGroup:
    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        is_bytes = schema.field("embedding").type.value_type == pa.uint8()
        self._dtype = torch.uint8 if is_bytes else torch.float32
        self._ids: list[str] = []
        self._buffers = [RowBuffer(GROUP_ROWS) for _ in range(3)]

    @property
    def room(self) -> int:
        """The number of rows that still fit."""
        return GROUP_ROWS - len(self._ids)

    def add(self, clip: str, output: VGGishOutput, first: int) -> int:
        """Copy a clip's rows from `first` on, as many as fit; return their number."""
        count = min(len(output.embeddings) - first, self.room)
        there = slice(first, first + count)
        self._ids += [clip] * count
        columns = (
            torch.arange(first, first + count, dtype=torch.int32),
            output.start_seconds[there],
            output.embeddings[there].to(self._dtype),
        )
        for buffer, rows in zip(self._buffers, columns, strict=True):
            buffer.append(rows)
        return count

    def take(self) -> pa.RecordBatch:
        """Return the rows, valid until the next `add`, and start again."""
        numbers, starts, embeddings = (
            pa.array(buffer.rows.numpy().reshape(-1))
            for buffer in self._buffers
            if buffer.rows is not None
        )
        columns = [
            pa.array(self._ids, pa.string()),
            numbers,
            starts,
            pa.FixedSizeListArray.from_arrays(
                embeddings, type=self._schema.field("embedding").type
            ),
        ]
        self._ids = []
        for buffer in self._buffers:
            buffer.cut(0)
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)
