"""The messages inside TensorFlow's checkpoints: shapes, parts of variables, values.

Sources: types.proto, tensor_shape.proto, tensor_slice.proto and tensor.proto in
tensorflow/core/framework.
"""

from collections.abc import Iterator
from itertools import islice
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggish_hf.tf_files.protobuf import WireFormatError, read_fields, read_varint

Part = tuple[tuple[int, int], ...]
"""A part of a variable: along each dimension its start, and its length or `WHOLE`."""
WHOLE = -1

MAX_RANK = 32
"""The dimensions that an array may have in every NumPy."""
_TOO_MANY_VALUES = 1 << 56  # of up to 16 bytes, counted in a signed 64-bit number

NUMPY_TYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64",
    9: "int64", 10: "bool", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32",
    23: "uint64",
}  # fmt: skip
OTHER_TYPES = {
    7: "DT_STRING", 11: "DT_QINT8", 12: "DT_QUINT8", 13: "DT_QINT32", 14: "DT_BFLOAT16",
    15: "DT_QINT16", 16: "DT_QUINT16", 20: "DT_RESOURCE", 21: "DT_VARIANT", 24: "DT_FLOAT8_E5M2",
    25: "DT_FLOAT8_E4M3FN", 29: "DT_INT4", 30: "DT_UINT4",
}  # fmt: skip

# The field of a TensorProto with the values of each type: as in memory, or as varints.
_RAW_FIELDS = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}
_VARINT_FIELDS = {
    "uint8": 7, "uint16": 7, "int8": 7, "int16": 7, "int32": 7, "int64": 10, "bool": 11,
    "float16": 13, "uint32": 16, "uint64": 17,
}  # fmt: skip
_ANY_TYPE_RAW_FIELD = 4


def type_name(number: int) -> str:
    """NumPy's name of a type, or TensorFlow's where NumPy lacks the type."""
    return NUMPY_TYPES.get(number) or OTHER_TYPES.get(number) or f"DT_{number}"


def as_message(value: int | memoryview) -> memoryview:
    """Require that a field holds bytes, not a number."""
    if isinstance(value, int):
        raise WireFormatError(f"expected a message, found the number {value}")
    return value


def get_message(message: memoryview, number: int) -> memoryview:
    """The bytes in a field that occurs at most once; empty if it is absent."""
    found = memoryview(b"")
    for field, value in read_fields(message):
        if field == number:
            found = as_message(value)
    return found


def get_int(message: memoryview, number: int, default: int = 0) -> int:
    """The signed number in a field that occurs at most once; `default` if it is absent."""
    found: int | memoryview = default
    for field, value in read_fields(message):
        if field == number:
            found = value
    if not isinstance(found, int):
        raise WireFormatError(f"expected a number, found {len(found)} bytes")
    return found - (1 << 64) if found >> 63 == 1 else found


def check_version(message: memoryview) -> None:
    """Refuse a VersionDef that needs readers newer than 1, the only version so far."""
    if (needed := get_int(message, 2)) > 1:
        raise WireFormatError(f"it needs a reader of version {needed}, this one is of version 1")


def parse_shape(message: memoryview) -> tuple[int, ...]:
    """Read a TensorShapeProto.

    Raises:
        WireFormatError: It has a negative size, more than `MAX_RANK` of them, or a product that
            NumPy cannot count.
    """
    shape: list[int] = []
    for field, value in read_fields(message):
        if field == 2:
            shape.append(get_int(as_message(value), 1))
            if shape[-1] < 0 or len(shape) > MAX_RANK:
                raise WireFormatError(f"expected at most {MAX_RANK} sizes from 0 up, got {shape}")
    # NumPy multiplies the sizes even if one of them is zero.
    if prod(size or 1 for size in shape) >= _TOO_MANY_VALUES:
        raise WireFormatError(f"no file holds a variable of the shape {shape}")
    return tuple(shape)


def parse_part(message: memoryview) -> Part:
    """Read a TensorSliceProto."""
    part: list[tuple[int, int]] = []
    for field, value in read_fields(message):
        if field == 1:
            extent = as_message(value)
            part.append((get_int(extent, 1), get_int(extent, 2, default=WHOLE)))
            if len(part) > MAX_RANK:
                raise WireFormatError(f"a part of a variable has more than {MAX_RANK} dimensions")
    return tuple(part)


def smallest_encoding(dtype: str) -> int:
    """The fewest bytes that a TensorProto needs for one value of a type."""
    return np.dtype(dtype).itemsize if dtype in _RAW_FIELDS else 1


def decode_values(tensor: memoryview, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Take the values out of a TensorProto, without a copy if they are contiguous.

    Args:
        tensor: The message.
        dtype: NumPy's name of its type.
        shape: The shape that the values must fill.

    Raises:
        WireFormatError: It holds more or fewer values.
    """
    fields = {_ANY_TYPE_RAW_FIELD, _RAW_FIELDS.get(dtype)}
    raw = _join(as_message(value) for field, value in read_fields(tensor) if field in fields)
    if raw or dtype in _RAW_FIELDS:
        return view_values(raw, dtype, shape)
    count = prod(shape)
    # One more than expected already shows that there are too many.
    numbers = islice(_read_varints(tensor, _VARINT_FIELDS[dtype]), count + 1)
    bits = np.fromiter(numbers, np.uint64)
    if len(bits) != count:
        raise WireFormatError(f"expected {count} values for the shape {shape}, got {len(bits)}")
    if dtype == "float16":
        return bits.astype(np.uint16).view(np.float16).reshape(shape)
    return bits.astype(dtype).reshape(shape)


def view_values(
    raw: bytes | bytearray | memoryview, dtype: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    """View little-endian bytes as an array; it is read-only if they are.

    Raises:
        WireFormatError: There are more or fewer bytes than the shape needs.
    """
    little_endian = np.dtype(dtype).newbyteorder("<")
    if len(raw) != prod(shape) * little_endian.itemsize:
        raise WireFormatError(f"{len(raw)} bytes of {dtype} do not fill the shape {shape}")
    return np.ndarray(shape, little_endian, raw)


def _join(runs: Iterator[memoryview]) -> bytearray | memoryview:
    """Join runs of bytes; a single one, as TensorFlow writes it, is not copied."""
    first = next(runs, memoryview(bytearray()))
    second = next(runs, None)
    if second is None:
        return first
    joined = bytearray(first)
    joined += second
    for run in runs:
        joined += run
    return joined


def _read_varints(message: memoryview, number: int) -> Iterator[int]:
    """Yield the values of a repeated field of varints, packed or not."""
    for field, value in read_fields(message):
        if field != number:
            continue
        if isinstance(value, int):
            yield value
            continue
        position = 0
        while position < len(value):
            element, position = read_varint(value, position)
            yield element
