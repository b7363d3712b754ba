"""AudioSet's segments CSVs: each clip's video, seconds and labels.

After comment lines, which start with `#`, each line is `YTID, start, end, "mid,mid"`.
Source: https://research.google.com/audioset/download.html.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vggish_hf.audioset.labels import AudioSetLabels

#: The splits of the release, by the names of their CSVs.
SPLITS = {
    "balanced_train_segments": "bal_train",
    "eval_segments": "eval",
    "unbalanced_train_segments": "unbal_train",
}

#: A YouTube id, as a regular expression; it may start with a dash or an underscore.
VIDEO_ID = r"[A-Za-z0-9_-]{11}"

_VIDEO_ID = re.compile(VIDEO_ID)
_SECONDS = r"([0-9]+(?:\.[0-9]*)?)"
_LINE = re.compile(rf'\s*({VIDEO_ID})\s*,\s*{_SECONDS}\s*,\s*{_SECONDS}\s*,\s*"([^"]*)"\s*')


@dataclass(frozen=True, slots=True)
class Segment:
    """A line of a segments CSV.

    Args:
        video_id: YouTube's id of the video.
        start_time_seconds: Start of the clip in the video.
        end_time_seconds: End of the clip.
        labels: Indices of the clip's classes; see `AudioSetLabels`.

    Raises:
        ValueError: The id is not a YouTube id, or the clip does not end after its start.
    """

    video_id: str
    start_time_seconds: float
    end_time_seconds: float
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if _VIDEO_ID.fullmatch(self.video_id) is None:
            raise ValueError(f"Expected a YouTube id of 11 characters, got {self.video_id!r}")
        if not 0 <= self.start_time_seconds < self.end_time_seconds < math.inf:
            raise ValueError(
                "Expected a clip that ends after its start, got "
                f"{self.start_time_seconds} to {self.end_time_seconds} s"
            )

    @property
    def duration(self) -> float:
        """Length of the clip, seconds."""
        return self.end_time_seconds - self.start_time_seconds


def read_segments(path: str | os.PathLike[str]) -> dict[str, Segment]:
    """Read a segments CSV.

    Args:
        path: One of AudioSet's three files, or one with the same layout.

    Returns:
        The segments by video id, in the order of the file.

    Raises:
        ValueError: A line has another layout, an unknown class or a video of an earlier line; or
            there is no line. The error gives file and line.
    """
    table = AudioSetLabels()
    segments: dict[str, Segment] = {}
    # Two million lines share a few hundred thousand sets of labels.
    labels_of: dict[str, tuple[int, ...]] = {}
    with open(path, encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                video_id, start, end, mids = _parse(line)
                if mids not in labels_of:
                    names = filter(None, map(str.strip, mids.split(",")))
                    labels_of[mids] = tuple(table.find(mid).index for mid in names)
                if video_id in segments:
                    raise ValueError(f"Expected each video once, got {video_id!r} again")
                segments[video_id] = Segment(video_id, start, end, labels_of[mids])
            except ValueError as error:
                raise ValueError(f"{Path(path)}, line {number}: {error}") from None
    if not segments:
        raise ValueError(f"No clips found in the segments CSV {str(path)!r}")
    return segments


def split_of(path: str | os.PathLike[str]) -> str:
    """Return the split of one of AudioSet's CSVs, by its name.

    Raises:
        ValueError: It has another name.

    Example:
        >>> split_of("balanced_train_segments.csv")
        'bal_train'
    """
    stem = Path(path).stem
    if stem not in SPLITS:
        raise ValueError(
            f"Expected a CSV named {', '.join(f'{name}.csv' for name in SPLITS)}, got "
            f"{Path(path).name!r}; say which split it is: pass `split`"
        )
    return SPLITS[stem]


def _parse(line: str) -> tuple[str, float, float, str]:
    match = _LINE.fullmatch(line)
    if match is None:
        shown = line.strip()
        if len(shown) > 100:
            shown = f"{shown[:100]}..."
        raise ValueError(f'Expected YTID, start, end, "mid,mid", got {shown!r}')
    video_id, start, end, mids = match.groups()
    return video_id, float(start), float(end), mids
