"""Sony Wave64 files (W64): where their samples end.

libsndfile takes for samples all that follows where they start.
"""

from vggish_hf.audio.parts import FilePart

# Each name of a chunk, and each size of 8 bytes, counts its own 24 bytes; chunks start at
# multiples of 8. Names are four letters and one of two endings.
_HEAD_BYTES = 24
_ALIGNMENT = 8
_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\0\xc0\x4f\x8e\xdb\x8a"
_ENDINGS = (_DATA[4:], b"\x2f\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0")
_FIRST_CHUNK = 40
_MAX_CHUNKS = 10_000


def find_ends(content: FilePart, start: int) -> tuple[int, int] | None:
    """Find the samples.

    Args:
        content: The file.
        start: Where its header is.

    Returns:
        Where they end, and where the last chunk does; None if the header does not tell, as that of
        those who cannot tell yet: pipes, and recorders that died.
    """
    position = end = start + _FIRST_CHUNK
    sound_end: int | None = None
    for _ in range(_MAX_CHUNKS):
        head = content.read_at(position, _HEAD_BYTES)
        size = int.from_bytes(head[16:], "little")
        if len(head) < _HEAD_BYTES or not head[4:16].startswith(_ENDINGS) or size < _HEAD_BYTES:
            break
        end = position + size
        if head.startswith(_DATA):
            if size == _HEAD_BYTES or end > content.size:
                return None
            sound_end = end
        position = min(end + -size % _ALIGNMENT, max(end, content.size))
    return None if sound_end is None else (sound_end, position)
