"""Embeddings as a Parquet file: one row per example."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.outputs.rows import collect_rows
from vggish_hf.outputs.schema import WriteClip


@contextmanager
def write_parquet(path: Path, schema: pa.Schema) -> Iterator[WriteClip]:
    """Open a Parquet file for clips."""
    # Floats of embeddings hardly repeat: a dictionary would only cost memory.
    repeated = ["id"] if pa.types.is_floating(schema.field("embedding").type.value_type) else True
    with (
        unfinished_file(path) as unfinished,
        pq.ParquetWriter(unfinished, schema, use_dictionary=repeated) as writer,
        collect_rows(schema, writer.write_batch) as write,
    ):
        yield write
