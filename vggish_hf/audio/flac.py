"""FLAC: compare the number of samples in the header with the end of the last frame."""

import re
from typing import NamedTuple

from vggish_hf.audio.limits import AudioError
from vggish_hf.audio.parts import FilePart

_MARKER = b"fLaC"
_STREAM_INFO_BYTES = 34

# The start of a frame, with two reserved bits. The last frame lies within so many bytes of the
# end; tags after it are smaller.
_SYNC = re.compile(rb"\xff[\xf8\xf9][\x10-\xff][\0-\xaf]", re.DOTALL)
_SEARCHED_BYTES = 4 << 20
_MAX_HEADER_BYTES = 16


class _StreamInfo(NamedTuple):
    block_size: int
    channels: int
    bits: int
    num_samples: int
    """0 if unknown."""


def count_samples(content: FilePart, start: int, end: int) -> int | None:
    """Return how many samples to ask the decoder for, so that it stops after the last frame.

    Args:
        content: The file.
        start: The position of its marker.
        end: The end of the stream or file.

    Returns:
        The number; None if it is not in the header and no frame was found.

    Raises:
        AudioError: The header announces too few samples.
    """
    info = _read_info(content, start)
    if info is None:
        return None
    first = max(start + 8 + _STREAM_INFO_BYTES, end - _SEARCHED_BYTES)
    last = _find_last_sample(content, first, end, info)
    if info.num_samples and last is not None and last > info.num_samples:
        raise AudioError(
            f"its header announces {info.num_samples} samples, but its last frame ends at sample "
            f"{last}; encode it again to correct the header"
        )
    return info.num_samples or last


def _read_info(content: FilePart, start: int) -> _StreamInfo | None:
    head = content.read_at(start, 8 + _STREAM_INFO_BYTES)
    if len(head) < 8 + _STREAM_INFO_BYTES or head[:4] != _MARKER or head[4] & 0x7F:
        return None
    # 20 bits of rate, 3 of channels, 5 of bits, 36 of samples
    packed = int.from_bytes(head[18:26])
    return _StreamInfo(
        block_size=int.from_bytes(head[8:10]),
        channels=(packed >> 41 & 7) + 1,
        bits=(packed >> 36 & 31) + 1,
        num_samples=packed & (1 << 36) - 1,
    )


def _find_last_sample(content: FilePart, first: int, end: int, info: _StreamInfo) -> int | None:
    """Return the sample at which the last frame ends, searching from `first` on."""
    tail = content.read_at(first, end - first)
    frames = [
        span
        for match in _SYNC.finditer(tail)
        if (span := _parse_frame(tail[match.start() : match.start() + _MAX_HEADER_BYTES], info))
    ]
    ends = {end for _, end in frames}
    # A chance match does not begin where another frame ends.
    return next((end for start, end in reversed(frames) if start == 0 or start in ends), None)


def _parse_frame(head: bytes, info: _StreamInfo) -> tuple[int, int] | None:
    """Return the first and the end sample of a frame; None if it is not one of this stream."""
    assignment = head[3] >> 4  # from 8 on: two channels, as sum and difference
    channels = assignment + 1 if assignment < 8 else 2
    bits = (None, 8, 12, 0, 16, 20, 24, 32)[head[3] >> 1 & 7]
    if len(head) < 6 or channels != info.channels or bits not in (None, info.bits) or head[3] & 1:
        return None
    # A number of up to 36 bits, coded like UTF-8.
    length = _number_bytes(head[4])
    number_end = 4 + length
    if not length or any(byte >> 6 != 2 for byte in head[5:number_end]):
        return None
    number = head[4] & (0x7F if length == 1 else (1 << (7 - length)) - 1)
    for byte in head[5:number_end]:
        number = number << 6 | byte & 0x3F
    size_code = head[2] >> 4
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    crc_at = number_end + size_bytes + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if crc_at >= len(head) or _crc8(head[:crc_at]) != head[crc_at]:
        return None
    if size_bytes:
        block_size = int.from_bytes(head[number_end : number_end + size_bytes]) + 1
    elif size_code == 1:
        block_size = 192
    else:
        block_size = 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    is_variable = head[1] & 1
    first = number if is_variable else number * info.block_size
    return first, first + block_size


def _number_bytes(byte: int) -> int:
    """Return the length of a number in bytes by its first byte; 0 if invalid."""
    ones = 8 - (~byte & 0xFF).bit_length()
    return 1 if ones == 0 else 0 if ones in (1, 8) else ones


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
    return crc
