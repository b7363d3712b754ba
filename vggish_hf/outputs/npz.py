"""Embeddings as an `.npz` file: the columns of the Parquet file as arrays."""

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.outputs.parquet import write_parquet
from vggish_hf.outputs.rows import GROUP_ROWS
from vggish_hf.outputs.schema import METADATA_KEY, WriteClip


@contextmanager
def write_npz(path: Path, schema: pa.Schema) -> Iterator[WriteClip]:
    """Open an `.npz` file for clips."""
    # An array's header holds its length, known only at the end: the rows wait in a Parquet file.
    with (
        unfinished_file(path) as unfinished,
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder,
    ):
        rows = Path(folder, "rows.parquet")
        with write_parquet(rows, schema) as write:
            yield write
        with pq.ParquetFile(rows) as table, zipfile.ZipFile(unfinished, "w") as archive:
            for field in schema:
                _pack_column(table, field, archive)
            with archive.open(f"{METADATA_KEY}.npy", "w") as member:
                np.save(member, np.array(schema.metadata[METADATA_KEY.encode()].decode()))


def _pack_column(table: pq.ParquetFile, field: pa.Field, archive: zipfile.ZipFile) -> None:
    """Copy a column into an archive as an array, one row group at a time."""
    shape: tuple[int, ...] = (table.metadata.num_rows,)
    if pa.types.is_fixed_size_list(field.type):
        shape = (*shape, field.type.list_size)
        dtype = np.dtype(field.type.value_type.to_pandas_dtype())
    elif pa.types.is_string(field.type):
        lengths = (pc.max(pc.utf8_length(part)).as_py() for part in _column(table, field.name))
        dtype = np.dtype(f"<U{max(lengths, default=1)}")
    else:
        dtype = np.dtype(field.type.to_pandas_dtype())
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with archive.open(f"{field.name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in _column(table, field.name):
            values = part.flatten() if len(shape) == 2 else part
            member.write(values.to_numpy(zero_copy_only=False).astype(dtype).tobytes())


def _column(table: pq.ParquetFile, name: str) -> Iterator[pa.Array]:
    for batch in table.iter_batches(GROUP_ROWS, columns=[name]):
        yield batch.column(0)
