"""AudioSet's clips, exported to a folder that `datasets.load_dataset` opens."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from vggish_hf.audioset.clips.cutting import read_clips
from vggish_hf.audioset.clips.index import AudioInputs, ClipFile, LeftOut, index_clips
from vggish_hf.audioset.clips.splits import ClipSplit, write_split
from vggish_hf.audioset.clips.tables import clip_features, clip_tables
from vggish_hf.audioset.segments import read_segments, split_of

CONFIG = "clips"

_ABOUT = """\
## Clips

A row a clip: `video_id`, `start_time_seconds`, `end_time_seconds`, `labels` (indices into the 527
classes of AudioSet, whose names the features hold) and `audio`: files as they were, or, where the
clip had to be cut out of its video, FLAC or WAV without loss.

AudioSet's segments and labels are licensed under CC BY 4.0:
https://research.google.com/audioset/download.html. The audio belongs to those who uploaded it.
"""


def export_clips(
    segments: str | os.PathLike[str],
    audio: AudioInputs,
    folder: str | os.PathLike[str],
    *,
    split: str | None = None,
    file_clips: int = 512,
    num_workers: int = 2,
) -> ClipSplit:
    """Write clips as Parquet, with a card that lists them as configuration `clips`.

    Each Parquet file appears when it is whole; what an earlier run has written is not made again.
    Splits and configurations that other exports wrote into the folder stay.

    Args:
        segments: The CSV; see `AudioSetClips`.
        audio: The files; see `AudioSetClips`.
        folder: The folder to write to, made if need be.
        split: Name of the split; without it, what the CSV's name says.
        file_clips: How many clips make up one Parquet file.
        num_workers: How many clips are decoded at once.

    Raises:
        FileNotFoundError: There is no such CSV, file or folder.
        ValueError: The CSV is laid out otherwise, or none of its clips is there; or the folder has
            files that were made from something else.

    Example:
        >>> export_clips("eval_segments.csv", "audio/", "audioset/")  # doctest: +SKIP
        >>> datasets.load_dataset("audioset/", "clips", split="eval")  # doctest: +SKIP
    """
    split = split or split_of(segments)

    def make_tables(files: Iterator[ClipFile], left_out: list[LeftOut]) -> Iterator[pa.Table]:
        clips = read_clips(files, in_memory=True, num_workers=num_workers)
        return clip_tables(clips, left_out)

    return write_split(
        index_clips(read_segments(segments), audio),
        make_tables,
        Path(folder),
        CONFIG,
        split,
        schema=clip_features().arrow_schema,
        made_from={},
        file_clips=file_clips,
        about=_ABOUT,
    )
