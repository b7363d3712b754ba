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

One row per clip: `video_id`, `start_time_seconds`, `end_time_seconds`, `labels` (indices into the
527 classes of AudioSet, whose names the features hold) and `audio`: the original
files, or clips cut out of their videos, as FLAC or WAV without loss.

AudioSet's segments and labels are licensed under CC BY 4.0:
https://research.google.com/audioset/download.html. The audio belongs to its uploaders.
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

    Each Parquet file appears only when it is complete; files of an earlier run are skipped. Splits
    and configurations of other exports in the folder stay.

    Args:
        segments: The CSV; see `AudioSetClips`.
        audio: The files; see `AudioSetClips`.
        folder: The folder to write to, created if needed.
        split: Name of the split; the default is from the CSV's name.
        file_clips: Clips per Parquet file.
        num_workers: Clips decoded at once.

    Raises:
        FileNotFoundError: The CSV, a file or a folder does not exist.
        ValueError: The CSV has another layout, or no file matches its clips; or the folder has
            files from another source or other options.

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
