"""Write embeddings to one file, clip by clip, with provenance; it appears only when complete.

- `.parquet`: one row per example, with `id`, `example` (its number in the clip), `start_seconds`
  and `embedding`; provenance as JSON in the file's metadata under `vggish_hf`.
- `.npz`: the same columns as arrays, and the JSON as the array `vggish_hf`.
- `.csv`: the same columns as text, the embedding as `e0`, `e1` and so on; provenance in FILE.json.
- `.tfrecord`: a `SequenceExample` per clip like the released AudioSet embeddings, with the id as
  `video_id` and no labels; `vggish_hf.audioset.parse_audioset` reads it. Provenance in FILE.json.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vggish_hf.outputs.csv_table import write_csv
from vggish_hf.outputs.npz import write_npz
from vggish_hf.outputs.parquet import write_parquet
from vggish_hf.outputs.schema import SOURCES_KEY, OutputFormat, WriteClip, embedding_schema
from vggish_hf.outputs.tfrecord import write_tfrecord
from vggish_hf.pipeline import VGGishOutput

#: The formats by ending. To add one, write a module like these and add it here.
FORMATS: dict[str, OutputFormat] = {
    ".parquet": OutputFormat(write_parquet),
    ".npz": OutputFormat(write_npz),
    ".csv": OutputFormat(write_csv),
    ".tfrecord": OutputFormat(write_tfrecord, only_uint8=True),
}


@contextmanager
def open_output(
    path: Path,
    embedding_size: int,
    dtype: torch.dtype,
    provenance: dict[str, Any],
    *,
    sources: str | None = None,
) -> Iterator[WriteClip]:
    """Open a file of embeddings; its ending gives the format.

    Args:
        path: The file; its ending is one of `FORMATS`.
        embedding_size: Width of an embedding.
        dtype: Type to write, `torch.float32` or `torch.uint8`.
        provenance: How the embeddings are made, see `VGGishPipeline.provenance`.
        sources: Further metadata of a part of an `EmbeddingFolder`.

    Yields:
        A function that writes a clip's output under an id. The file appears when the context ends
        without an exception; it replaces an existing one.

    Raises:
        ValueError: The ending is unknown, the format does not hold the dtype, or an output has
            another size or dtype than announced (float64 is stored as float32).
    """
    check_output(path, dtype)
    schema = embedding_schema(embedding_size, dtype, json.dumps(provenance))
    if sources is not None:
        schema = schema.with_metadata({**schema.metadata, SOURCES_KEY: sources})
    with FORMATS[path.suffix.lower()].open(path, schema) as write_checked:

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
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise ValueError(
            f"Expected an output that ends in {', '.join(FORMATS)}, or in a slash for a folder of "
            f"Parquet files, got {str(path)!r}"
        )
    if file_format.only_uint8 and dtype != torch.uint8:
        raise ValueError(
            f"Expected uint8 embeddings for {path.suffix}; use the post-process `uint8`"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"Expected the name of a file in an existing folder, got {str(path)!r}")
