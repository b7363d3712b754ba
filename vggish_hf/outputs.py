"""Write embeddings to one file, clip by clip, with their provenance; whole or not at all.

- `.parquet`: a row an example, with `id`, `example` (its number in the clip), `start_seconds` and
  `embedding`; provenance as JSON in the file's metadata under `vggish_hf`.
- `.npz`: the same columns as arrays, and the JSON as the array `vggish_hf`.
- `.tfrecord`: a `SequenceExample` a clip as the released AudioSet embeddings are stored, with the
  id as `video_id` and no labels; `vggish_hf.audioset.parse_audioset` reads it. Provenance in
  FILE.json.
"""

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from vggish_hf._files import unfinished_file
from vggish_hf.audioset.sequence_example import encode_sequence_example
from vggish_hf.audioset.tfrecord import RecordWriter
from vggish_hf.pipeline import VGGishOutput

METADATA_KEY = "vggish_hf"

WriteClip: TypeAlias = Callable[[str, VGGishOutput], None]

# Rows that are collected before they are written: 8 MiB of float32, a group of the file.
_GROUP_ROWS = 16_384


def embedding_schema(embedding_size: int, dtype: torch.dtype, provenance: str) -> pa.Schema:
    """The columns of a Parquet file of embeddings.

    Args:
        embedding_size: Width of an embedding.
        dtype: `torch.float32` or `torch.uint8`.
        provenance: What is stored in the metadata under `vggish_hf`, JSON.
    """
    value = pa.uint8() if dtype == torch.uint8 else pa.float32()
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("example", pa.int32(), nullable=False),
            pa.field("start_seconds", pa.float64(), nullable=False),
            pa.field("embedding", pa.list_(value, embedding_size), nullable=False),
        ],
        metadata={METADATA_KEY: provenance},
    )


@contextmanager
def open_output(
    path: Path, embedding_size: int, dtype: torch.dtype, provenance: dict[str, Any]
) -> Iterator[WriteClip]:
    """Open a file of embeddings, of the format that its ending names.

    Args:
        path: The file, `.parquet`, `.npz` or `.tfrecord`.
        embedding_size: Width of an embedding.
        dtype: What will be written, `torch.float32` or `torch.uint8`.
        provenance: What the embeddings come from, see `VGGishPipeline.provenance`.

    Yields:
        A function that writes a clip's output under an id. The file is at its place once the
        context has ended without an exception, and not before; it replaces one that is there.

    Raises:
        ValueError: The ending is unknown, the format does not hold the dtype, or an output is not
            of the size or the dtype that was announced (float64 is stored as float32).
    """
    check_output(path, dtype)
    schema = embedding_schema(embedding_size, dtype, json.dumps(provenance))
    with _WRITERS[path.suffix](path, schema) as write_checked:

        def write(clip: str, output: VGGishOutput) -> None:
            embeddings = output.embeddings
            is_other_kind = (embeddings.dtype == torch.uint8) != (dtype == torch.uint8)
            if is_other_kind or embeddings.shape != (len(embeddings), embedding_size):
                raise ValueError(
                    f"Expected embeddings of {dtype} and shape (examples, {embedding_size}), got "
                    f"{embeddings.dtype} and {tuple(embeddings.shape)} of {clip!r}"
                )
            write_checked(clip, output)

        yield write


def check_output(path: Path, dtype: torch.dtype) -> None:
    """Raise ValueError unless `open_output` can write `dtype` to `path`."""
    if path.suffix not in _WRITERS:
        raise ValueError(
            f"Expected an output that ends in {', '.join(_WRITERS)}, or in a slash for a folder of "
            f"Parquet files, got {str(path)!r}"
        )
    if path.suffix == ".tfrecord" and dtype != torch.uint8:
        raise ValueError("Expected uint8 embeddings for .tfrecord; use the post-process `uint8`")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"Expected the name of a file in an existing folder, got {str(path)!r}")


@contextmanager
def _write_parquet(path: Path, schema: pa.Schema) -> Iterator[WriteClip]:
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
        self._numbers = np.empty(_GROUP_ROWS, np.int32)
        self._starts = np.empty(_GROUP_ROWS)
        self._embeddings = np.empty(
            (_GROUP_ROWS, kind.list_size), kind.value_type.to_pandas_dtype()
        )

    @property
    def is_empty(self) -> bool:
        return not self._ids

    @property
    def is_full(self) -> bool:
        return len(self._ids) == _GROUP_ROWS

    def add(self, clip: str, output: VGGishOutput, first: int) -> int:
        """Copy a clip's rows, from `first` on, as far as there is room; return how many."""
        start = len(self._ids)
        count = min(len(output.embeddings) - first, _GROUP_ROWS - start)
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


@contextmanager
def _write_npz(path: Path, schema: pa.Schema) -> Iterator[WriteClip]:
    # An array's header holds its length, known at the end: the rows wait in a Parquet file.
    with (
        unfinished_file(path) as unfinished,
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder,
    ):
        rows = Path(folder, "rows.parquet")
        with _write_parquet(rows, schema) as write:
            yield write
        with pq.ParquetFile(rows) as table, zipfile.ZipFile(unfinished, "w") as archive:
            for field in schema:
                _pack_column(table, field, archive)
            with archive.open(f"{METADATA_KEY}.npy", "w") as member:
                np.save(member, np.array(schema.metadata[METADATA_KEY.encode()].decode()))


def _pack_column(table: pq.ParquetFile, field: pa.Field, archive: zipfile.ZipFile) -> None:
    """Copy a column into an archive as an array, a group of rows at a time."""
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
    for batch in table.iter_batches(_GROUP_ROWS, columns=[name]):
        yield batch.column(0)


@contextmanager
def _write_tfrecord(path: Path, schema: pa.Schema) -> Iterator[WriteClip]:
    with (
        unfinished_file(path.with_name(f"{path.name}.json")) as beside,
        RecordWriter(path) as writer,
    ):

        def write(clip: str, output: VGGishOutput) -> None:
            rows = [row.tobytes() for row in output.embeddings.numpy()]
            # The features of the released records; a clip of one's own has no labels.
            context: dict[str, Any] = {
                "video_id": clip.encode(),
                "start_time_seconds": [0.0],
                "end_time_seconds": [output.end_seconds],
                "labels": np.empty(0, np.int64),
            }
            writer.write(encode_sequence_example(context, {"audio_embedding": rows}))

        yield write
        beside.write_bytes(schema.metadata[METADATA_KEY.encode()] + b"\n")


_WRITERS = {".parquet": _write_parquet, ".npz": _write_npz, ".tfrecord": _write_tfrecord}
