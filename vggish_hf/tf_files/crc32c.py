"""The checksum of TensorFlow's records, tables and tensors."""

import google_crc32c

_CHUNK_SIZE = 1 << 20


def masked_crc32c(data: bytes | memoryview) -> int:
    """Compute the CRC-32C as TensorFlow stores it: rotated by 15 bits, plus a constant.

    The mask avoids trouble when the data contain checksums themselves.

    Example:
        >>> hex(masked_crc32c(b"123456789"))
        '0xc78ab0e5'
    """
    if isinstance(data, bytes):
        crc: int = google_crc32c.value(data)
    else:
        crc = 0
        # The library only takes `bytes`; one copy of a whole variable would double the memory.
        for start in range(0, len(data), _CHUNK_SIZE):
            crc = google_crc32c.extend(crc, bytes(data[start : start + _CHUNK_SIZE]))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
