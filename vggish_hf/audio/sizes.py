"""Compare the size in the header of an uncompressed file with the file's content."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from vggish_hf.audio.limits import AudioError
from vggish_hf.audio.parts import CHUNK_BYTES, FilePart

# Headers of real files have a few dozen chunks before and after the samples.
_MAX_CHUNKS = 10_000
_CHUNK_NAME = re.compile(rb"[A-Za-z0-9 ._()\-]{4}")

# Joined files
_FILES = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff")

# What tools leave after the last chunk, besides chunks and tags.
_MAX_STRAY_BYTES = 4096
_TAGS = (b"ID3", b"TAG", b"APETAGEX")
_APE_FOOTER_BYTES, _ID3V1_BYTES = 32, 128

#: The largest size that fits in a field of 32 bits.
MAX_BYTES_OF_32_BITS = (1 << 32) - 1


class SampleSize(NamedTuple):
    """The header field that holds the size of the samples in bytes."""

    kind: str
    field: int
    """Its position."""
    width: int
    """Its bytes."""
    byteorder: Literal["little", "big"]
    start: int
    """Start of the samples, or of what the size also counts."""
    announced: int
    """The field's value."""
    has_chunks: bool
    """Whether chunks may follow the samples."""

    @property
    def end(self) -> int:
        """The samples' end by the header."""
        return self.start + self.announced

    @property
    def is_unknown(self) -> bool:
        """Whether it is a placeholder, as from pipes and recorders that were stopped."""
        largest = (1 << 8 * self.width) - 1
        margin = (1 << 12) - 1
        return self.announced == 0 or any(
            limit - margin <= self.announced <= limit for limit in (largest, largest >> 1)
        )


class _Chunk(NamedTuple):
    name: bytes
    start: int
    """Where its content starts."""
    size: int


def find_sample_size(content: FilePart, start: int) -> SampleSize | None:
    """Read the header of a WAV, RF64, AIFF, AU or CAF file; None for other files."""
    head = content.read_at(start, 12)
    magic, form = head[:4], head[8:]
    if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
        return _find_in_wav(content, start + 12, "big" if magic == b"RIFX" else "little")
    if magic == b"FORM" and form in (b"AIFF", b"AIFC"):
        for chunk in _chunks(content, start + 12, "big"):
            if chunk.name == b"SSND":
                return SampleSize("AIFF", chunk.start - 4, 4, "big", chunk.start, chunk.size, True)
    if magic == b"caff":
        for chunk in _chunks(content, start + 8, "big", width=8):
            if chunk.name == b"data":
                return SampleSize("CAF", chunk.start - 8, 8, "big", chunk.start, chunk.size, True)
    if magic == b".snd":
        first = start + int.from_bytes(head[4:8])
        return SampleSize("AU", start + 8, 4, "big", first, int.from_bytes(form), False)
    return None


def _find_in_wav(
    content: FilePart, first: int, byteorder: Literal["little", "big"]
) -> SampleSize | None:
    large: _Chunk | None = None
    for chunk in _chunks(content, first, byteorder):
        if chunk.name == b"ds64":
            large = chunk
        if chunk.name != b"data":
            continue
        if large is None or chunk.size != 0xFFFFFFFF:
            return SampleSize("WAV", chunk.start - 4, 4, byteorder, chunk.start, chunk.size, True)
        field = large.start + 8
        announced = int.from_bytes(content.read_at(field, 8), "little")
        return SampleSize("RF64", field, 8, "little", chunk.start, announced, True)
    return None


def _chunks(
    content: FilePart, position: int, byteorder: Literal["little", "big"], *, width: int = 4
) -> Iterator[_Chunk]:
    """Read the heads of chunks from a position on, as long as they have a name."""
    for _ in range(_MAX_CHUNKS):
        head = content.read_at(position, 4 + width)
        if len(head) < 4 + width or head.startswith(_FILES) or not _CHUNK_NAME.match(head):
            return
        size = int.from_bytes(head[4:], byteorder)
        yield _Chunk(head[:4], position + 4 + width, size)
        # Only CAF, whose sizes have 8 bytes, does not pad odd chunks.
        position += 4 + width + size + (size & 1 if width == 4 else 0)


def check_rest(content: FilePart, kind: str, position: int, end: int) -> None:
    """Raise AudioError if the bytes after the last chunk may be audio."""
    if position < end and not _is_no_audio(content, position, end):
        raise AudioError(
            f"its {kind} header ends the audio at byte {position}, but {end - position} more "
            "bytes follow that are neither chunks nor tags; write it again with its true size"
        )


def ends_with_chunks(content: FilePart, size: SampleSize, end: int) -> bool:
    """Tell whether the samples and the chunks after them end with the file."""
    return end - 1 <= _after_chunks(content, size, end) <= end


def correct_size(content: FilePart, size: SampleSize, end: int) -> dict[int, int]:
    """Find the header bytes to replace so that a decoder reads all samples.

    Args:
        content: The file.
        size: The header's field.
        end: The end of the stream or file.

    Returns:
        The bytes by position; empty if the decoder reads all samples as it is.

    Raises:
        AudioError: More follows than the header announces, and it is neither chunks nor tags.
    """
    rest = end - size.end
    if rest <= 0:
        # libsndfile reads other kinds to the file's end.
        needs_correction = rest < 0 and size.is_unknown and size.kind in ("AU", "CAF", "RF64")
    elif size.is_unknown:
        # A full field cannot hold a larger size.
        is_full = size.announced + _MAX_STRAY_BYTES > 1 << 8 * size.width
        has_stray_bytes = size.announced > 0 and not is_full and rest <= _MAX_STRAY_BYTES
        needs_correction = not has_stray_bytes and _after_chunks(content, size, end) == size.end
    else:
        is_wrapped = size.width == 4 and rest > MAX_BYTES_OF_32_BITS - CHUNK_BYTES
        needs_correction = is_wrapped or not _is_no_audio(
            content, _after_chunks(content, size, end), end
        )
    if not needs_correction:
        return {}
    held = end - size.start
    if size.is_unknown and held < (1 << 8 * size.width) - 1:
        field = held.to_bytes(size.width, size.byteorder)
        return {size.field + index: byte for index, byte in enumerate(field)}
    way_out = (
        "a WAV file of more than 4 GiB needs RF64, write it again: "
        "ffmpeg -ignore_length 1 -i OLD -rf64 auto NEW.wav"
        if size.kind == "WAV"
        else "write it again with its true size"
    )
    raise AudioError(
        f"its {size.kind} header announces {size.announced} bytes of samples, but {rest} more "
        f"bytes follow that are neither chunks nor tags; {way_out}"
    )


def _after_chunks(content: FilePart, size: SampleSize, end: int) -> int:
    """Return the end of the last whole chunk after the samples."""
    position = size.end
    if size.has_chunks:
        width = 8 if size.kind == "CAF" else 4
        padding = size.announced & 1 if width == 4 else 0
        for chunk in _chunks(content, position + padding, size.byteorder, width=width):
            if chunk.start + chunk.size > end:
                break
            position = chunk.start + chunk.size
    return position


def _is_no_audio(content: FilePart, position: int, end: int) -> bool:
    """Tell whether the rest of a file is a tag, zeros or a few bytes."""
    if end - position <= _MAX_STRAY_BYTES or content.read_at(position, 8).startswith(_TAGS):
        return True
    footers = (_APE_FOOTER_BYTES, _ID3V1_BYTES)
    if any(content.read_at(end - size, 8).startswith(_TAGS) for size in footers):
        return True
    while chunk := content.read_at(position, min(CHUNK_BYTES, end - position)):
        if chunk.strip(b"\0"):
            return False
        position += len(chunk)
    return True
