"""Decide which files FFmpeg may open: playlists would make it read other files."""

import re

from vggish_hf.audio.parts import FilePart

# How the containers begin that FFmpeg may open. Playlists would make it read other files and
# listen on the network.
_CONTAINER = re.compile(
    rb"....(?:ftyp|moov|mdat|free|wide|skip)"  # MP4, MOV
    rb"|\x1aE\xdf\xa3"  # Matroska, WebM
    rb"|OggS\0|fLaC|caff|\.snd|FLV\x01|FORM....AIF[FC]"
    rb"|(?:RIFF|RIFX|RF64)....(?:AVI |AVIX|WAVE)"
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11"  # ASF: WMA, WMV
    rb"|\xff[\xe0-\xff]"  # MPEG audio, AAC
    rb"|\x00\x00\x01\xba"  # MPEG program stream
    rb"|G.{187}G|.{4}G.{191}G",  # MPEG transport stream, also with a time before each packet
    re.DOTALL,
)

# FFmpeg reads a file as a network session description if the bytes that it probes contain such a
# line.
_SESSION = re.compile(rb"(?:\A|\n\r?)c=IN IP")
_PROBED_BYTES = 1 << 20
_MAX_TAGS = 100


def skip_id3(content: FilePart, start: int) -> int:
    """Return the end of the ID3 tags at a position, or the position itself."""
    for _ in range(_MAX_TAGS):
        if (end := _find_id3_end(content, start)) is None:
            break
        start = end
    return start


def _find_id3_end(content: FilePart, start: int) -> int | None:
    """Return the end of the ID3v2 tag at a position, or None."""
    tag = content.read_at(start, 10)
    if len(tag) < 10 or not tag.startswith(b"ID3"):
        return None
    if 0xFF in tag[3:5] or any(byte > 0x7F for byte in tag[6:]):
        return None
    size = sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    return start + 10 + size + (10 if tag[5] & 0x10 else 0)


def is_media_container(content: FilePart) -> bool:
    """Tell whether FFmpeg reads it as a media container only, after any ID3 tags."""
    start = 0
    for _ in range(_MAX_TAGS):
        head = content.read_at(start, _PROBED_BYTES)
        if _SESSION.search(head):
            return False
        end = _find_id3_end(content, start)
        if end is None:
            return _CONTAINER.match(head) is not None
        start = end
    return False
