"""Embeddings as a CSV file: one row per example, one column per dimension."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.outputs.rows import collect_rows
from vggish_hf.outputs.schema import WriteClip, provenance_file


@contextmanager
def write_csv(path: Path, schema: pa.Schema) -> Iterator[WriteClip]:
    """Open a CSV file for clips, and FILE.json for their provenance.

    Text is quoted and otherwise unchanged, even if it begins with `=` or `@`. A float is the
    shortest text that gives the same float32 again.
    """
    *columns, embedding = schema
    size = embedding.type.list_size
    flat = pa.schema(
        [*columns, *(pa.field(f"e{i}", embedding.type.value_type) for i in range(size))]
    )
    with (
        provenance_file(path, schema),
        unfinished_file(path) as unfinished,
        pc.CSVWriter(unfinished, flat) as writer,
    ):

        def write_batch(batch: pa.RecordBatch) -> None:
            values = batch.column(len(columns)).flatten().to_numpy().reshape(-1, size)
            wide = [pa.array(values[:, i]) for i in range(size)]
            writer.write_batch(
                pa.RecordBatch.from_arrays([*batch.columns[: len(columns)], *wide], schema=flat)
            )

        with collect_rows(schema, write_batch) as write:
            yield write
