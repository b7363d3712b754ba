"""Read the embeddings of clips back from Parquet files, in bounded memory."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vggish_hf.modeling import VGGishPostprocessor
from vggish_hf.outputs.schema import METADATA_KEY

# 8 MiB of float32, or clips of ten rows in 5 MB of uint8.
_BATCH_ROWS = 16_384
_BATCH_CLIPS = 4096


class EmbeddingFile:
    """A Parquet file of embeddings, of either of the layouts that this package writes.

    - `vggish-hf embed`: one row per example, with `id` and `embedding`; the rows of a clip are
      adjacent.
    - the AudioSet exports: one row per clip, with `video_id` and a list of embeddings.

    Values of eight bits are dequantized as `VGGishPostprocessor.dequantize` does. With
    another constant the distances are the same: an offset that both sets share moves both means
    alike.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no Parquet file, or has other columns.

    Attributes:
        provenance: What its metadata say, `{}` if they say nothing.
        size: Length of an embedding.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
        except pa.ArrowInvalid as error:
            raise ValueError(f"Expected a Parquet file, got {str(path)!r}: {error}") from error
        self._is_nested = "video_id" in schema.names
        self._names = ["video_id" if self._is_nested else "id", "embedding"]
        kinds = [schema.field(name).type for name in self._names if name in schema.names]
        kind = kinds[-1] if len(kinds) == 2 else pa.null()
        if self._is_nested and pa.types.is_list(kind):
            kind = kind.value_type
        if not pa.types.is_fixed_size_list(kind) or not (
            pa.types.is_floating(kind.value_type) or kind.value_type == pa.uint8()
        ):
            raise ValueError(
                "Expected a Parquet file of embeddings, with columns `id` and `embedding`, "
                f"{str(path)!r} has {', '.join(f'{field.name}: {field.type}' for field in schema)}"
            )
        self.size = int(kind.list_size)
        self.provenance = _read_provenance(schema, path)

    def clips(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Read the clips in order.

        Yields:
            A clip's id, and its embeddings (examples, size), of a float type.

        Raises:
            ValueError: The file is damaged, or a value is missing.
        """
        parts = self._parts()
        for clip, of_clip in groupby(parts, key=lambda part: part[0]):
            yield clip, np.concatenate([rows for _, rows in of_clip])

    def _parts(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        batch_rows = _BATCH_CLIPS if self._is_nested else _BATCH_ROWS
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_rows, columns=self._names):
                columns = [batch.column(name) for name in self._names]
                counts = np.ones(len(batch), np.int64)
                if self._is_nested:
                    counts = columns[1].value_lengths().to_numpy(zero_copy_only=False)
                    columns.append(columns[1].flatten())
                values = columns[-1].flatten()
                if any(column.null_count for column in (*columns, values)):
                    raise ValueError(f"Expected no missing values, {str(self.path)!r} has some")
                rows = values.to_numpy().reshape(-1, self.size)
                if rows.dtype == np.uint8:
                    rows = VGGishPostprocessor.dequantize(torch.tensor(rows)).numpy()
                ends = np.cumsum(counts)
                names = columns[0].to_pylist()
                for name, start, end in zip(names, ends - counts, ends, strict=True):
                    yield str(name), rows[start:end]


def _read_provenance(schema: pa.Schema, path: str | Path) -> dict[str, Any]:
    text = (schema.metadata or {}).get(METADATA_KEY.encode(), b"{}")
    try:
        provenance = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in the metadata of {str(path)!r}: {error}") from error
    return provenance if isinstance(provenance, dict) else {}
