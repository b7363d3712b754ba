"""Common parts of all formats of embeddings: columns, metadata, writing."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pyarrow as pa
import torch

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.pipeline import VGGishOutput

METADATA_KEY = "vggish_hf"

#: Key of a part's metadata for the sources of its clips, see `EmbeddingFolder`.
SOURCES_KEY = "vggish_hf_sources"

WriteClip: TypeAlias = Callable[[str, VGGishOutput], None]


class OutputFormat(NamedTuple):
    """A format of embeddings in files."""

    open: Callable[[Path, pa.Schema], AbstractContextManager[WriteClip]]
    """Opens a file for clips, given columns of `embedding_schema`; it appears only when
    complete."""
    only_uint8: bool = False
    """Whether it only holds uint8."""


def embedding_schema(embedding_size: int, dtype: torch.dtype, provenance: str) -> pa.Schema:
    """The columns of a Parquet file of embeddings.

    Args:
        embedding_size: Width of an embedding.
        dtype: `torch.float32` or `torch.uint8`.
        provenance: JSON for the metadata, under `vggish_hf`.
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
def provenance_file(path: Path, schema: pa.Schema) -> Iterator[None]:
    """Write FILE.json after the block succeeds, for a format without metadata."""
    with unfinished_file(path.with_name(f"{path.name}.json")) as unfinished:
        yield
        unfinished.write_bytes(schema.metadata[METADATA_KEY.encode()] + b"\n")
