"""The protocol-buffer wire format: enough to read and write TensorFlow's records without it.

Source: https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireFormatError(ValueError):
    """A malformed protocol-buffer message."""


def read_varint(buffer: bytes | memoryview, position: int) -> tuple[int, int]:
    """Read the unsigned varint at `position`.

    Returns:
        Its value, below 2^64, and the position after it.

    Raises:
        WireFormatError: The buffer ends inside it, or it has more than ten bytes.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(buffer):
            raise WireFormatError("the message ends inside a number")
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise WireFormatError("a number has more than ten bytes")


def read_tagged_fields(buffer: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk through the fields of a message, with their wire types.

    Yields:
        The field's tag, `number << 3 | wire type`, and its value: an int for a varint, a view
        without copy for the rest (length-delimited, fixed 32 and fixed 64 bits).

    Raises:
        WireFormatError: A length leads past the end, or a wire type is unknown.
    """
    view = memoryview(buffer)
    position = 0
    while position < len(view):
        tag, position = read_varint(view, position)
        kind = tag & 7
        if kind == VARINT:
            value, position = read_varint(view, position)
            yield tag, value
            continue
        if kind == BYTES:
            length, position = read_varint(view, position)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise WireFormatError(f"field {tag >> 3} has the unknown wire type {kind}")
        if length > len(view) - position:
            raise WireFormatError(
                f"field {tag >> 3} claims {length} bytes, only {len(view) - position} remain"
            )
        yield tag, view[position : position + length]
        position += length


def read_fields(buffer: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk through the fields of a message.

    Yields:
        The field's number and its value: an int for a varint, a view without copy for the rest.

    Raises:
        WireFormatError: A length leads past the end, or a wire type is unknown.
    """
    for tag, value in read_tagged_fields(buffer):
        yield tag >> 3, value


def encode_varint(value: int) -> bytes:
    """Encode an unsigned number below 2^64; negative numbers as their two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_field(number: int, value: int | bytes) -> bytes:
    """Encode one field: an int as a varint, bytes as a length-delimited value."""
    if isinstance(value, int):
        return encode_varint(number << 3 | VARINT) + encode_varint(value)
    return encode_varint(number << 3 | BYTES) + encode_varint(len(value)) + value
