"""Which files FFmpeg may see: it also knows playlists, which make it read others."""

import io
import os
import re
from pathlib import Path

# What the containers begin with that FFmpeg may see. It also knows playlists, which make it read
# other files and listen on the network.
_CONTAINER = re.compile(
    rb"....(?:ftyp|moov|mdat|free|wide|skip)"  # MP4, MOV
    rb"|\x1aE\xdf\xa3"  # Matroska, WebM
    rb"|OggS\0|fLaC|caff|\.snd|FLV\x01|FORM....AIF[FC]"
    rb"|(?:RIFF|RIFX|RF64)....(?:AVI |AVIX|WAVE)"
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11"  # ASF: WMA, WMV
    rb"|\xff[\xe0-\xff]"  # MPEG audio, AAC
    rb"|\x00\x00\x01\xba"  # MPEG program stream
    rb"|G.{187}G|.{4}G.{191}G",  # MPEG transport stream, of packets with a time before them too
    re.DOTALL,
)


# FFmpeg takes for the description of a network session what has such a line anywhere in the part
# of the file by which it tells the format.
_SESSION = re.compile(rb"(?:\A|\n\r?)c=IN IP")


_PROBED_BYTES = 1 << 20


class EncodedContent(io.BytesIO):
    """A file's content, in which a damaged header may seek to before the start."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move, or stay where there is nowhere to move to."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):  # cannot pass through libsndfile
            return self.tell()


def is_media_container(file: Path | EncodedContent) -> bool:
    """Tell whether FFmpeg would take it for nothing but a container, behind any ID3 tags."""
    content = file.open("rb") if isinstance(file, Path) else io.BytesIO(file.getvalue())
    with content:
        start = 0
        while True:
            content.seek(start)
            head = content.read(_PROBED_BYTES)
            if _SESSION.search(head):
                return False
            if not head.startswith(b"ID3"):
                return _CONTAINER.match(head) is not None
            tag = head[:10]
            if len(tag) < 10 or 0xFF in tag[3:5] or any(byte > 0x7F for byte in tag[6:]):
                return False
            size = sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
            start += 10 + size + (10 if tag[5] & 0x10 else 0)
