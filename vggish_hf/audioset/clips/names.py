"""Match files to clips by name.

A clip's file is named `ID` or `YID`, by the video's id, or by a title with the id, as yt-dlp writes
it (`Title [ID]`, `Title-ID`). The clip's times may follow, in seconds or milliseconds: `ID_START`,
`ID_START_END`, `ID_START-END`, `ID_START,END`. Then comes the ending of an audio file.
"""

import os
import re
from collections.abc import Container
from typing import NamedTuple

from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.audioset.segments import VIDEO_ID, Segment

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_TIMES = rf"[_ .-]{{1,2}}(?P<start>{_NUMBER})(?:m?s)?(?:[_, -]{{1,3}}(?P<end>{_NUMBER})(?:m?s)?)?"
# Ids may contain separators: the first reading that gives a known video counts.
_NAMES = [
    re.compile(rf"{before}(?P<id>{VIDEO_ID}){after}", re.DOTALL)
    for before, ends in (("", ("",)), ("Y", ("",)), (r".*\[", (r"\]",)), (r".*[_ .-]", ("",)))
    for end in ends
    for after in (end, end + _TIMES)
]
# Allowed difference from the CSV's times: names round them, and some ends of the release are a
# second earlier.
_TIME_TOLERANCE = 1.0


class ClipError(ValueError):
    """A file that failed; the message says why."""


class ClipName(NamedTuple):
    """The content of a clip's file name."""

    video_id: str
    times: tuple[float, float | None] | None
    """Start of the clip, and its end if the name has it; seconds or milliseconds."""

    def fits(self, segment: Segment) -> bool:
        """Tell whether the times, if any, are those of the segment."""
        if self.times is None:
            return True
        expected = (segment.start_time_seconds, segment.end_time_seconds)
        return any(
            all(
                time is None or abs(time / unit - known) <= _TIME_TOLERANCE
                for time, known in zip(self.times, expected, strict=True)
            )
            for unit in (1, 1000)
        )


def parse_name(name: str, video_ids: Container[str]) -> ClipName | None:
    """Read the name of a clip's file.

    Ids may contain underscores and start with `Y`, so the reading that gives a known video counts.

    Args:
        name: Name of the file, with or without ending, without its folder.
        video_ids: The videos to look for.

    Returns:
        Its content; None for any other file.

    Example:
        >>> parse_name("Y_-aE2O5G_E1_30.000_40.000.wav", {"_-aE2O5G_E1"})
        ClipName(video_id='_-aE2O5G_E1', times=(30.0, 40.0))
        >>> parse_name("Sea, day 2 [_-aE2O5G_E1].opus", {"_-aE2O5G_E1"})
        ClipName(video_id='_-aE2O5G_E1', times=None)
    """
    stem, ending = os.path.splitext(name)
    if ending.lower() not in AUDIO_EXTENSIONS:
        stem = name
    for pattern in _NAMES:
        match = pattern.fullmatch(stem)
        if match is not None and match["id"] in video_ids:
            found = match.groupdict()
            if found.get("start") is None:
                return ClipName(match["id"], None)
            end = found["end"]
            return ClipName(match["id"], (float(found["start"]), float(end) if end else None))
    return None
