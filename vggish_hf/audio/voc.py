"""Creative Voice files (VOC): find the end of the samples.

libsndfile reads one block of samples, compressed ones as plain, and what follows the block as
samples too, except the last byte.
"""

from vggish_hf.audio.limits import AudioError
from vggish_hf.audio.parts import FilePart

_TERMINATOR, _SOUND, _MARKER, _TEXT, _STEREO, _LARGE_SOUND = 0, 1, 4, 5, 8, 9
_LAST_TYPE = 9
# Offset of a block's codec, 0 for plain samples. libsndfile checks that of large blocks.
_CODEC_OFFSETS = {_SOUND: 5, _STEREO: 6}

_MAX_BLOCKS = 10_000
_WAY_OUT = "write it as WAV: ffmpeg -i OLD.voc NEW.wav"


def find_ends(content: FilePart, start: int) -> tuple[int, int] | None:
    """Find the block of samples.

    Args:
        content: The file.
        start: Its header's start.

    Returns:
        The ends of that block and of the last block, or None.

    Raises:
        AudioError: There are several, or they are compressed.
    """
    position = start + int.from_bytes(content.read_at(start + 20, 2), "little")
    sound_end: int | None = None
    is_stereo = False
    for _ in range(_MAX_BLOCKS):
        head = content.read_at(position, 8)
        kind = head[0] if head else _LAST_TYPE + 1
        if kind == _TERMINATOR:
            position += 1
        if kind == _TERMINATOR or kind > _LAST_TYPE:
            break
        if kind not in (_TEXT, _MARKER):
            if sound_end is not None or kind not in (_SOUND, _STEREO, _LARGE_SOUND):
                raise AudioError(
                    "its VOC file has several blocks of samples, silence or repetitions, of which "
                    f"libsndfile reads one; {_WAY_OUT}"
                )
            codec_at = _CODEC_OFFSETS.get(kind)
            if codec_at is not None and not is_stereo and any(head[codec_at : codec_at + 1]):
                raise AudioError(
                    f"its VOC samples are compressed (codec {head[codec_at]}); {_WAY_OUT}"
                )
        is_stereo = kind == _STEREO  # its codec replaces the next block's
        position += 4 + int.from_bytes(head[1:4], "little")
        if kind in (_SOUND, _LARGE_SOUND):
            sound_end = position
    return None if sound_end is None else (sound_end, position)
