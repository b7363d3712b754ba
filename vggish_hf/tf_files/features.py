"""The messages inside TensorFlow's `Example` and `SequenceExample`: features under names.

    Features: 1 map<string, Feature>      FeatureLists: 1 map<string, FeatureList>
    FeatureList: 1 repeated Feature       a map is repeated entries of 1 key, 2 value
    Feature: one of 1 BytesList, 2 FloatList, 3 Int64List, each of them 1 repeated value

Source: tensorflow/core/example/feature.proto. A feature is decoded only on request; all others cost
nothing and may hold anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggish_hf.tf_files.protobuf import (
    BYTES,
    FIXED32,
    VARINT,
    WireFormatError,
    encode_field,
    encode_varint,
    read_tagged_fields,
)
from vggish_hf.tf_files.records import RecordError

Message = bytes | memoryview

# Tags of length-delimited fields.
FIRST, SECOND, THIRD = (number << 3 | BYTES for number in (1, 2, 3))
_KINDS = {FIRST: "bytes", SECOND: "float", THIRD: "int64"}


def encode_feature(values: bytes | ArrayLike) -> bytes:
    """Encode a `Feature`: bytes as a list of one string, numbers as int64 or float32.

    Args:
        values: Bytes, or a flat sequence of ints or of floats. An empty one gives a feature without
            a kind, which reads as an empty list of any kind.

    Raises:
        ValueError: `values` is not flat, or has another type.
    """
    if isinstance(values, bytes):
        return encode_field(1, encode_field(1, values))
    array = np.asarray(values)
    if array.ndim == 1 and array.size == 0:
        return b""
    if array.ndim == 1 and np.can_cast(array.dtype, np.int64):
        packed = b"".join(encode_varint(int(value)) for value in array)
        return encode_field(3, encode_field(1, packed))
    if array.ndim == 1 and array.dtype.kind == "f":
        return encode_field(2, encode_field(1, array.astype("<f4").tobytes()))
    raise ValueError(
        "Expected bytes, or a flat sequence of int64 or of floats, got "
        f"{array.dtype} of shape {array.shape}"
    )


def encode_entry(name: str, value: bytes) -> bytes:
    """Encode one entry of the map that `Features` and `FeatureLists` are."""
    return encode_field(1, encode_field(1, name.encode()) + encode_field(2, value))


@cache
def row_framing(width: int) -> bytes:
    """Return the bytes before each row in a `FeatureList` of strings of one length."""
    return encode_field(1, encode_feature(bytes(width)))[:-width]


def uniform_rows(feature_list: Message, width: int) -> NDArray[np.uint8] | None:
    """Decode a `FeatureList` of strings that has the same framing before each row.

    Returns:
        The rows, shape (rows, width), or None if a byte of the framing differs, though the message
        may be valid.
    """
    framing = row_framing(width)
    stride = len(framing) + width
    if len(feature_list) % stride:
        return None
    rows = np.frombuffer(feature_list, np.uint8).reshape(-1, stride)
    if rows[:, : len(framing)].tobytes() != framing * len(rows):
        return None
    return rows[:, len(framing) :].copy()


def decode_varints(packed: Message) -> list[int]:
    """Decode consecutive int64 numbers.

    Raises:
        RecordError: The last one is cut short, or one has more than ten bytes.
    """
    values = []
    value = shift = 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(_signed(value))
            value = shift = 0
        elif shift == 70:
            raise RecordError("an int64 has more than ten bytes")
    if shift:
        raise RecordError("a list of int64 ends inside a number")
    return values


def decode_text(text: Message, name: str) -> str:
    """Decode UTF-8.

    Raises:
        RecordError: It is not UTF-8; the message gives `name`.
    """
    try:
        return str(text, "utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"Expected `{name}` in UTF-8, got {bytes(text)!r}") from error


def _signed(value: int) -> int:
    return ((value & 0xFFFFFFFFFFFFFFFF) ^ 1 << 63) - (1 << 63)


def embedded(message: Message, tag: int) -> list[memoryview]:
    """List the length-delimited fields of one tag."""
    return [
        value
        for found, value in read_tagged_fields(message)
        if found == tag and isinstance(value, memoryview)
    ]


def merged(message: Message, tag: int) -> Message:
    """Return the embedded message of one tag; repeated ones are concatenated.

    Protocol buffers demand a merge here, and parsing the concatenation merges.
    """
    return _join(embedded(message, tag))


def _join(parts: list[memoryview]) -> Message:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _list_of(feature: Message, tag: int, name: str) -> Message:
    """Return the list in a `Feature`, which is a oneof: the last of several kinds counts."""
    kind, parts = tag, list[memoryview]()
    for found, value in read_tagged_fields(feature):
        if found in _KINDS and isinstance(value, memoryview):
            if found != kind:
                kind, parts = found, []
            parts.append(value)
    if kind != tag:
        raise RecordError(f"Expected `{name}` to hold {_KINDS[tag]} values, got {_KINDS[kind]}")
    return _join(parts)


class NamedFeatures:
    """The features, or the feature lists, of a message.

    The methods raise RecordError where the feature is missing or is not what they decode.

    Args:
        message: A `Features` or `FeatureLists` message.
    """

    def __init__(self, message: Message) -> None:
        # The last entry of a name counts, and the last name of an entry.
        self._values = {
            str(b"".join(embedded(entry, FIRST)[-1:]), "utf-8", "replace"): merged(entry, SECOND)
            for entry in embedded(message, FIRST)
        }

    def _get(self, name: str) -> Message:
        if name not in self._values:
            raise RecordError(f"Expected a feature `{name}`, found only {sorted(self._values)}")
        return self._values[name]

    def string(self, name: str) -> str:
        """Decode the feature that is one string, in UTF-8."""
        strings = embedded(_list_of(self._get(name), FIRST, name), FIRST)
        if len(strings) != 1:
            raise RecordError(f"Expected `{name}` to hold one string, got {len(strings)}")
        return decode_text(strings[0], name)

    def floats(self, name: str, size: int) -> NDArray[np.float32]:
        """Decode the feature that is a list of `size` floats."""
        packed = b"".join(
            value
            for tag, value in read_tagged_fields(_list_of(self._get(name), SECOND, name))
            if tag in (FIRST, 1 << 3 | FIXED32) and isinstance(value, memoryview)
        )
        if len(packed) != 4 * size:
            raise RecordError(f"Expected `{name}` to hold {size} floats, got {len(packed)} bytes")
        return np.frombuffer(packed, "<f4").astype(np.float32)

    def integers(self, name: str) -> tuple[int, ...]:
        """Decode the feature that is a list of int64; empty if it is missing."""
        if name not in self._values:
            return ()
        integers: list[int] = []
        for tag, value in read_tagged_fields(_list_of(self._values[name], THIRD, name)):
            if isinstance(value, int) and tag == 1 << 3 | VARINT:
                integers.append(_signed(value))
            elif isinstance(value, memoryview) and tag == FIRST:
                integers += decode_varints(value)
        return tuple(integers)

    def rows(self, name: str, width: int) -> NDArray[np.uint8]:
        """Decode the feature list whose features are one string of `width` bytes each.

        Returns:
            Shape (rows, width).
        """
        feature_list = self._get(name)
        rows = uniform_rows(feature_list, width)
        if rows is not None:
            return rows
        strings: list[memoryview] = []
        for feature in embedded(feature_list, FIRST):
            row = embedded(_list_of(feature, FIRST, name), FIRST)
            if [len(string) for string in row] != [width]:
                raise RecordError(
                    f"Expected each row of `{name}` to be one string of {width} bytes, got "
                    f"{[len(string) for string in row]} in row {len(strings)}"
                )
            strings += row
        return np.frombuffer(bytearray().join(strings), np.uint8).reshape(-1, width)


def encode_sequence_example(
    context: Mapping[str, bytes | ArrayLike],
    feature_lists: Mapping[str, Sequence[bytes]],
) -> bytes:
    """Encode a `SequenceExample`.

    Args:
        context: Features by name: bytes, or a flat sequence of ints or of floats.
        feature_lists: Lists of features by name, each feature one string of bytes.

    Raises:
        ValueError: A feature of the context has another type.
    """
    features = b"".join(encode_entry(k, encode_feature(v)) for k, v in context.items())
    lists = b"".join(
        encode_entry(name, b"".join(encode_field(1, encode_feature(row)) for row in rows))
        for name, rows in feature_lists.items()
    )
    return encode_field(1, features) + encode_field(2, lists)


@contextmanager
def record_errors() -> Iterator[None]:
    """Raise RecordError for an invalid protocol buffer."""
    try:
        yield
    except WireFormatError as error:
        raise RecordError(f"Expected a protocol-buffer message, but {error}") from error
