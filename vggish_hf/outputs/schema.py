"""The columns of embeddings in files."""

from collections.abc import Callable
from typing import TypeAlias

import pyarrow as pa
import torch

from vggish_hf.pipeline import VGGishOutput

METADATA_KEY = "vggish_hf"


WriteClip: TypeAlias = Callable[[str, VGGishOutput], None]


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
