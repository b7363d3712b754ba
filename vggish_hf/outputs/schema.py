"""What all formats of embeddings have in common: columns, metadata, how they are written."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pyarrow as pa
import torch

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.pipeline import VGGishOutput

METADATA_KEY = "vggish_hf"

#: Under this key of a part's metadata stands what its clips' files were, see `EmbeddingFolder`.
SOURCES_KEY = "vggish_hf_sources"

WriteClip: TypeAlias = Callable[[str, VGGishOutput], None]


class OutputFormat(NamedTuple):
    """A format of embeddings in files."""

    open: Callable[[Path, pa.Schema], AbstractContextManager[WriteClip]]
    """Opens a file for clips, given columns as of `embedding_schema`; it appears whole."""
    only_uint8: bool = False
    """Whether it holds nothing but uint8."""


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
def provenance_beside(path: Path, schema: pa.Schema) -> Iterator[None]:
    """Write FILE.json, for a format without room for metadata, when the block has ended well."""
    with unfinished_file(path.with_name(f"{path.name}.json")) as beside:
        yield
        beside.write_bytes(schema.metadata[METADATA_KEY.encode()] + b"\n")
