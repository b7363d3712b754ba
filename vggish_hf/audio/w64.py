"""Sony Wave64 files (W64): find the end of the samples.

libsndfile reads all after their start as samples.
"""

from vggish_hf.audio.parts import FilePart

# A chunk's size, 8 bytes, includes the 24 bytes of name and size; chunks start at multiples of 8.
# Names are four letters and one of two endings.
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
        start: Its header's start.

    Returns:
        The ends of the samples and of the last chunk; None if the header does not say, as from
        pipes and recorders that were stopped.
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
