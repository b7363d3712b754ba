"""Embeddings as TFRecords: a `SequenceExample` per clip, as in AudioSet's release."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vggish_hf.outputs.schema import WriteClip, provenance_file
from vggish_hf.pipeline import VGGishOutput
from vggish_hf.tf_files.features import encode_sequence_example
from vggish_hf.tf_files.records import RecordWriter


@contextmanager
def write_tfrecord(path: Path, schema: pa.Schema) -> Iterator[WriteClip]:
    """Open a TFRecord file for clips, and FILE.json for their provenance."""
    with provenance_file(path, schema), RecordWriter(path) as writer:

        def write(clip: str, output: VGGishOutput) -> None:
            rows = [row.tobytes() for row in output.embeddings.numpy()]
            # The features of the released records; your own clips have no labels.
            context: dict[str, Any] = {
                "video_id": clip.encode(),
                "start_time_seconds": [0.0],
                "end_time_seconds": [output.end_seconds],
                "labels": np.empty(0, np.int64),
            }
            writer.write(encode_sequence_example(context, {"audio_embedding": rows}))

        yield write
