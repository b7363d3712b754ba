"""Embeddings as a Parquet file: one row per example."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.outputs.schema import WriteClip
from vggish_hf.pipeline import VGGishOutput

# Rows that are collected before they are written: 8 MiB of float32, a group of the file.
GROUP_ROWS = 16_384


@contextmanager
def write_parquet(path: Path, schema: pa.Schema) -> Iterator[WriteClip]:
    """Open a Parquet file for clips."""
    group = _RowGroup(schema)
    # No float of an embedding is there twice: a dictionary of them would take memory alone.
    repeated = ["id"] if pa.types.is_floating(schema.field("embedding").type.value_type) else True
    with (
        unfinished_file(path) as unfinished,
        pq.ParquetWriter(unfinished, schema, use_dictionary=repeated) as writer,
    ):

        def write(clip: str, output: VGGishOutput) -> None:
            written = 0
            while written < len(output.embeddings):
                written += group.add(clip, output, written)
                if group.is_full:
                    writer.write_batch(group.take())

        yield write
        if not group.is_empty:
            writer.write_batch(group.take())


class _RowGroup:
    """Rows that wait to be written, copied to one place.

    Kept where they are, in thousands of small pieces between the large ones of the network, they
    would keep the allocator from using those again.
    """

    def __init__(self, schema: pa.Schema) -> None:
        kind = schema.field("embedding").type
        self._schema = schema
        self._ids: list[str] = []
        self._numbers = np.empty(GROUP_ROWS, np.int32)
        self._starts = np.empty(GROUP_ROWS)
        self._embeddings = np.empty((GROUP_ROWS, kind.list_size), kind.value_type.to_pandas_dtype())

    @property
    def is_empty(self) -> bool:
        return not self._ids

    @property
    def is_full(self) -> bool:
        return len(self._ids) == GROUP_ROWS

    def add(self, clip: str, output: VGGishOutput, first: int) -> int:
        """Copy a clip's rows, from `first` on, as far as there is room; return how many."""
        start = len(self._ids)
        count = min(len(output.embeddings) - first, GROUP_ROWS - start)
        there, here = slice(first, first + count), slice(start, start + count)
        self._ids += [clip] * count
        self._numbers[here] = np.arange(first, first + count)
        self._starts[here] = output.start_seconds[there].numpy()
        self._embeddings[here] = output.embeddings[there].numpy()
        return count

    def take(self) -> pa.RecordBatch:
        """Return the rows, valid until the next are added, and begin anew."""
        count = len(self._ids)
        values = pa.array(self._embeddings[:count].reshape(-1))
        columns = [
            pa.array(self._ids, pa.string()),
            pa.array(self._numbers[:count]),
            pa.array(self._starts[:count]),
            pa.FixedSizeListArray.from_arrays(values, type=self._schema.field("embedding").type),
        ]
        self._ids = []
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)
