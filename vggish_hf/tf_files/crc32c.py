"""The checksum that TensorFlow stores beside its records, tables and tensors."""

import google_crc32c

_CHUNK_SIZE = 1 << 20


def masked_crc32c(data: bytes | memoryview) -> int:
    """Compute the CRC-32C as TensorFlow stores it: rotated by 15 bits, plus a constant.

    The mask keeps the checksum of data that contain their own checksums from degenerating.

    Example:
        >>> hex(masked_crc32c(b"123456789"))
        '0xc78ab0e5'
    """
    if isinstance(data, bytes):
        crc: int = google_crc32c.value(data)
    else:
        crc = 0
        # The library takes `bytes` alone; copying a whole variable into one would double the
        # memory.
        for start in range(0, len(data), _CHUNK_SIZE):
            crc = google_crc32c.extend(crc, bytes(data[start : start + _CHUNK_SIZE]))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
