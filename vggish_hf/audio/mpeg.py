"""MPEG audio (MP3, MP2): find runs of frames of one format.

libsndfile stops after the number of samples that it expects from the first frames: the number in
an Info frame, or the file's size divided by the first frame's. It would lose the rest of two
joined files, and of variable bit rates without an Info frame.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from vggish_hf.audio.parts import CHUNK_BYTES, FilePart

#: How a frame begins.
SYNC = re.compile(rb"\xff[\xe2-\xff][^\xf0-\xff]", re.DOTALL)

# By version (MPEG 1, or 2 and 2.5) and layer: kbit/s of the indices 1 to 14.
_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
_MAX_FRAME_BYTES = 1 << 12

# Encoders differ by a few frames in what they announce.
_MAX_UNANNOUNCED_FRAMES = 8
# mpg123 gives up after so many bytes without a frame.
_MAX_GAP_BYTES = 1024
# Where to search for frames at the end of a file, before tags, and how many rule out chance.
_TAIL_BYTES = 1 << 16
_MIN_TAIL_FRAMES = 4


class MpegRun(NamedTuple):
    """Consecutive frames of one format."""

    start: int
    end: int
    has_info: bool
    """Whether the first frame announces their number."""


class _Frame(NamedTuple):
    num_bytes: int
    format: tuple[int, int, int, bool]
    """Version, layer, rate, whether it is mono."""
    info_offset: int
    """Offset of an Info frame's name."""


def find_runs(content: FilePart, start: int) -> Iterator[MpegRun]:
    """Find the runs of frames from `start` on."""
    frames = _Frames(content)
    first = frames.find(start)
    while first is not None:
        run, first = _follow(frames, first)
        yield from run


def ends_with_frames(content: FilePart, start: int, end: int) -> bool:
    """Tell whether a file of another kind, from `start` to `end`, ends with MPEG audio."""
    frames = _Frames(content)
    first = max(start, end - _TAIL_BYTES)
    tail = content.read_at(first, end - first)
    for match in SYNC.finditer(tail):
        position = first + match.start()
        count = 0
        while count < _MIN_TAIL_FRAMES and (frame := frames.at(position)) is not None:
            if not frames.has_successor(position, frame):
                break
            position += frame.num_bytes
            count += 1
        if count == _MIN_TAIL_FRAMES:
            return True
    return False


def _follow(frames: "_Frames", start: int) -> tuple[list[MpegRun], int | None]:
    """Follow a run; split it in two if the first frame announces too few frames.

    Returns:
        The run or both, and the start of the next.
    """
    frame = frames.at(start)
    assert frame is not None
    kind = frame.format
    has_info, announced = frames.info(start, frame)
    split = None
    count = 0
    position = end = start
    following: int | None = None
    while True:
        if frame is not None and (
            frame.format == kind or not frames.has_successor(position, frame)
        ):
            if count and frames.info(position, frame)[0]:
                following = position
                break
            if count == announced + 1:
                split = position
            count += 1
            position = end = position + frame.num_bytes
        elif frame is not None:
            following = position
            break
        else:
            following = frames.find(position)
            if following is None or following - position > _MAX_GAP_BYTES:
                break
            position = following
        frame = frames.at(position)
    if has_info and split is not None and count - 1 - announced > _MAX_UNANNOUNCED_FRAMES:
        return [MpegRun(start, split, True), MpegRun(split, end, False)], following
    return [MpegRun(start, end, has_info)], following


class _Frames:
    """The headers of frames, read through a window on the file."""

    def __init__(self, content: FilePart) -> None:
        self._content = content
        self._first = 0
        self._chunk = b""

    def _bytes(self, position: int, size: int) -> bytes:
        offset = position - self._first
        if offset < 0 or offset + size > len(self._chunk):
            self._chunk = self._content.read_at(position, CHUNK_BYTES)
            self._first, offset = position, 0
        return self._chunk[offset : offset + size]

    def at(self, position: int) -> _Frame | None:
        """Return the frame at a position; None if it is missing or incomplete."""
        head = self._bytes(position, 4)
        frame = _parse(head[1:]) if len(head) == 4 and head[0] == 0xFF else None
        return None if frame is None or position + frame.num_bytes > self._content.size else frame

    def has_successor(self, position: int, frame: _Frame) -> bool:
        """Tell whether a frame of the same format, or the file's end, follows a frame."""
        position += frame.num_bytes
        following = self.at(position)
        if following is None:
            return position >= self._content.size
        return following.format == frame.format

    def info(self, position: int, frame: _Frame) -> tuple[bool, int]:
        """Tell whether a frame is an Info frame, and how many frames it announces."""
        if frame.format[1] != 3:
            return False, 0
        tag = self._bytes(position + frame.info_offset, 12)
        if tag[:4] not in (b"Xing", b"Info") or not tag[7] & 1:
            return False, 0
        return True, int.from_bytes(tag[8:])

    def find(self, position: int) -> int | None:
        """Return the position of the next frame with a successor, or None."""
        while chunk := self._content.read_at(position, CHUNK_BYTES + 2):
            for match in SYNC.finditer(chunk):
                place = position + match.start()
                frame = _parse(match.group()[1:] + chunk[match.end() : match.end() + 1])
                if frame is None or place + frame.num_bytes > self._content.size:
                    continue
                if self.has_successor(place, frame):
                    return place
            position += CHUNK_BYTES
        return None


@lru_cache(1 << 12)
def _parse(head: bytes) -> _Frame | None:
    """Parse the three bytes after the first of a frame's header."""
    if len(head) < 3:
        return None
    version, layer = (head[0] >> 3) & 3, 4 - ((head[0] >> 1) & 3)
    kbit_index, rate_index = head[1] >> 4, (head[1] >> 2) & 3
    if head[0] < 0xE0 or version == 1 or layer == 4 or kbit_index in (0, 15) or rate_index == 3:
        return None
    is_first = version == 3
    rate = _RATES[rate_index] >> (3 - version if version else 2)
    bits = 1000 * _KBITS[1 if is_first else 2, layer][kbit_index - 1]
    padding = (head[1] >> 1) & 1
    if layer == 1:
        num_bytes = (12 * bits // rate + padding) * 4
    else:
        num_bytes = (144 if is_first or layer == 2 else 72) * bits // rate + padding
    is_mono = head[2] >> 6 == 3
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    return _Frame(num_bytes, (version, layer, rate, is_mono), 4 + side)
