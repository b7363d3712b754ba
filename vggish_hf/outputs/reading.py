"""Read embeddings of clips from Parquet files, in bounded memory."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from vggish_hf.inputs.addresses import is_url, without_secrets
from vggish_hf.inputs.stores import open_binary, storage_errors
from vggish_hf.modeling import VGGishPostprocessor
from vggish_hf.outputs.schema import METADATA_KEY

#: A clip's id and its embeddings (examples, size), of a float type.
NamedEmbeddings: TypeAlias = tuple[str, NDArray[Any]]

# 2,097,152 values, 8 MiB of float32: in VGGish's files 16,384 rows.
BATCH_VALUES = 1 << 21
_BATCH_CLIPS = 4096
_READ_BYTES = 1 << 20  # of a column at once
# The widest layer of a network here has 12,288 values.
MAX_EMBEDDING_SIZE = 1 << 16
_MAX_DEPTH = 32


class EmbeddingFile:
    """A Parquet file of embeddings, in either layout of this package.

    - `vggish-hf embed`: one row per example, with `id` and `embedding`; the rows of a clip are
      adjacent.
    - the AudioSet exports: one row per clip, with `video_id` and a list of embeddings.

    Pandas or `datasets` may have rewritten it, which makes embeddings lists of variable length, and
    drops their provenance.

    Values of eight bits are dequantized as in `VGGishPostprocessor.dequantize`. Another constant
    would give the same distances: it moves both means alike.

    Args:
        path: The file, local or a URL.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a Parquet file, has other columns, or integers other than uint8.

    Attributes:
        provenance: Its metadata's provenance, `{}` if unknown.
        has_metadata: Whether it has this package's metadata.
        size: Length of an embedding; 0 if there are no embeddings and their type does not give it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: str | Path = str(path)
        self._shown = without_secrets(str(path))
        with self._open() as file:
            schema = file.schema_arrow
            names = _find_columns(schema)
            if names is None:
                columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
                raise ValueError(
                    "Expected a Parquet file of embeddings, with columns `id` and `embedding`, "
                    f"{self._shown!r} has {columns}"
                )
            self._names = names
            self._is_nested = names[0] == "video_id"
            # A long, repeated id would fill the memory.
            self._repeated = [names[0]] if pa.types.is_string(schema.field(names[0]).type) else []
            kind: Any = _embedding_type(schema, names)
            check_value_type(kind.value_type.to_pandas_dtype(), self._shown)
            self.has_metadata = METADATA_KEY.encode() in (schema.metadata or {})
            self.provenance = _read_provenance(schema, self._shown)
            self.size = kind.list_size if pa.types.is_fixed_size_list(kind) else self._find_size()
        if self.size > MAX_EMBEDDING_SIZE:
            raise ValueError(
                f"Expected embeddings of at most {MAX_EMBEDDING_SIZE} values, {self._shown!r} has "
                f"{self.size}"
            )

    def clips(self) -> Iterator[NamedEmbeddings]:
        """Read the clips in order.

        Yields:
            A clip's id, and its embeddings (examples, size), of a float type.

        Raises:
            ValueError: The file is damaged, a value is missing, or embeddings have unequal lengths.
        """
        return join_rows(self._parts())

    @contextmanager
    def _open(self, dictionary: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
        options = {"read_dictionary": dictionary, "buffer_size": _READ_BYTES, "pre_buffer": False}
        try:
            if not is_url(str(self.path)):
                with pq.ParquetFile(self.path, **options) as file:
                    yield file
                return
            with (
                storage_errors(self._shown),
                open_binary(str(self.path), readahead=_READ_BYTES) as content,
                pq.ParquetFile(content, **options) as file,
            ):
                yield file
        except pa.ArrowException as error:
            raise ValueError(f"Not a Parquet file, or damaged: {self._shown!r}: {error}") from error

    def _find_size(self) -> int:
        for _, rows in self._parts():
            return int(rows.shape[1])
        return 0

    def _batch_rows(self, metadata: pq.FileMetaData) -> int:
        values = 0
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            chunks = map(group.column, range(group.num_columns))
            of_embeddings = [c for c in chunks if c.path_in_schema.split(".")[0] == "embedding"]
            values = max(values, sum(c.num_values for c in of_embeddings) // max(group.num_rows, 1))
        most = _BATCH_CLIPS if self._is_nested else BATCH_VALUES
        return max(1, min(most, BATCH_VALUES // max(values, 1)))

    def _parts(self) -> Iterator[NamedEmbeddings]:
        with self._open(self._repeated) as file:
            rows = self._batch_rows(file.metadata)
            size: int | None = getattr(self, "size", None)
            for batch in file.iter_batches(rows, columns=list(self._names)):
                names, column = (batch.column(name) for name in self._names)
                counts = np.ones(len(batch), np.int64)
                columns = [names, column]
                if self._is_nested:
                    counts = column.value_lengths().to_numpy(zero_copy_only=False)
                    column = column.flatten()
                    columns.append(column)
                values = column.flatten()
                if any(part.null_count for part in (*columns, values)):
                    raise ValueError(f"Expected no missing values, {self._shown!r} has some")
                if not len(column):
                    continue
                lengths = column.value_lengths().to_numpy(zero_copy_only=False)
                size = size or int(lengths[0])
                if size == 0 or (lengths != size).any():
                    raise ValueError(
                        f"Expected embeddings of one length, {self._shown!r} has some of "
                        f"{lengths.min()} and {max(lengths.max(), size)} values"
                    )
                embeddings = to_floats(values.to_numpy().reshape(-1, size))
                ends = np.cumsum(counts)
                for name, start, end in zip(_texts(names), ends - counts, ends, strict=True):
                    yield name, embeddings[start:end]


def find_embeddings(path: str | Path) -> EmbeddingFile | None:
    """Open a Parquet file if it holds embeddings, else return None."""
    try:
        return EmbeddingFile(path)
    except ValueError:
        return None


def join_rows(parts: Iterable[NamedEmbeddings]) -> Iterator[NamedEmbeddings]:
    """Join consecutive rows of the same clip."""
    for clip, of_clip in groupby(parts, key=lambda part: part[0]):
        yield clip, np.concatenate([rows for _, rows in of_clip])


def to_floats(rows: NDArray[Any]) -> NDArray[Any]:
    """Dequantize embeddings of eight bits; floats stay as they are."""
    if rows.dtype != np.uint8:
        return rows
    dequantized: NDArray[Any] = VGGishPostprocessor.dequantize(torch.tensor(rows)).numpy()
    return dequantized


def check_value_type(dtype: Any, name: str) -> None:
    """Raise ValueError unless a file's embeddings are floats or uint8."""
    if not np.issubdtype(dtype, np.floating) and dtype != np.uint8:
        raise ValueError(
            f"Expected embeddings of a float type or uint8, {name!r} has {np.dtype(dtype)}; cast "
            "embeddings of eight bits back to uint8"
        )


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that is not nested deeply.

    Raises:
        ValueError: It is not such JSON.
    """

    def is_deep(value: Any, left: int) -> bool:
        inner = value.values() if isinstance(value, dict) else value
        return isinstance(value, (dict, list)) and (
            not left or any(is_deep(part, left - 1) for part in inner)
        )

    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"JSON is nested more than {_MAX_DEPTH} deep") from None
    if is_deep(value, _MAX_DEPTH):
        raise ValueError(f"JSON is nested more than {_MAX_DEPTH} deep")
    return value


def _find_columns(schema: pa.Schema) -> tuple[str, str] | None:
    for names in (("video_id", "embedding"), ("id", "embedding")):
        if not set(names) - set(schema.names) and _embedding_type(schema, names) is not None:
            return names
    return None


def _embedding_type(schema: pa.Schema, names: tuple[str, str]) -> pa.DataType | None:
    kind = schema.field(names[1]).type
    if names[0] == "video_id":
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            return None
        kind = kind.value_type
    is_list = (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )
    is_number = is_list and (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    )
    return kind if is_number else None


def _texts(names: pa.Array) -> list[str]:
    if pa.types.is_dictionary(names.type):
        texts = [str(text) for text in names.dictionary.to_pylist()]
        return [texts[index] for index in names.indices.to_numpy()]
    return [str(name) for name in names.to_pylist()]


def _read_provenance(schema: pa.Schema, shown: str) -> dict[str, Any]:
    text = (schema.metadata or {}).get(METADATA_KEY.encode(), b"{}")
    try:
        provenance = parse_json(text)
    except ValueError as error:
        raise ValueError(f"Expected JSON in the metadata of {shown!r}: {error}") from error
    return provenance if isinstance(provenance, dict) else {}
