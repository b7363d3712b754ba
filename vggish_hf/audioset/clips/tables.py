"""The columns of AudioSet's clips, and tables of them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from vggish_hf.audioset._datasets import datasets
from vggish_hf.audioset.clips.cutting import Clip
from vggish_hf.audioset.clips.index import LeftOut
from vggish_hf.audioset.labels import AudioSetLabels

_TABLE_ROWS = 16
_TABLE_BYTES = 64 << 20


def clip_features() -> datasets.Features:
    """Describe the columns: those of `Segment`, and `audio`."""
    names = [known.name for known in AudioSetLabels().classes]
    return datasets.Features(
        {
            "video_id": datasets.Value("string"),
            "start_time_seconds": datasets.Value("float64"),
            "end_time_seconds": datasets.Value("float64"),
            "labels": datasets.List(datasets.ClassLabel(names=names)),
            "audio": datasets.Audio(),
        }
    )


def clip_tables(clips: Iterable[Clip | LeftOut], left_out: list[LeftOut]) -> Iterator[pa.Table]:
    """Collect clips in tables of a few megabytes, with the audio still encoded.

    `datasets.Audio` would do the same, but needs torchcodec.

    Args:
        clips: The clips; if one is a path, the path is stored.
        left_out: Receives the failed clips.
    """
    schema = clip_features().arrow_schema
    rows: list[dict[str, object]] = []
    size = 0
    for clip in clips:
        if isinstance(clip, LeftOut):
            left_out.append(clip)
            continue
        rows.append(_row(clip))
        size += len(clip.content) if isinstance(clip.content, bytes) else 0
        if len(rows) == _TABLE_ROWS or size >= _TABLE_BYTES:
            yield pa.Table.from_pylist(rows, schema)
            rows, size = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema)


def _row(clip: Clip) -> dict[str, object]:
    is_path = isinstance(clip.content, Path)
    return {
        "video_id": clip.segment.video_id,
        "start_time_seconds": clip.segment.start_time_seconds,
        "end_time_seconds": clip.segment.end_time_seconds,
        "labels": clip.segment.labels,
        "audio": {
            "bytes": None if is_path else clip.content,
            "path": str(clip.content) if is_path else clip.name,
        },
    }
