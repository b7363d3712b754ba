import tracemalloc

import numpy as np
import pytest
from checkpoint_writer import encode_part, encode_shape, encode_values

from vggish_hf.tf_files.checkpoint.messages import (
    NUMPY_TYPES,
    check_version,
    decode_values,
    get_int,
    get_message,
    parse_part,
    parse_shape,
    type_name,
)
from vggish_hf.tf_files.protobuf import WireFormatError, encode_field


def fixed32(number: int, value: float) -> bytes:
    """A float outside a packed run."""
    return bytes([number << 3 | 5]) + np.float32(value).tobytes()


@pytest.mark.parametrize(
    "encoded",
    [
        encode_field(4, np.float32([1, 2, 3]).tobytes()),
        encode_field(5, np.float32([1, 2, 3]).tobytes()),
        fixed32(5, 1) + fixed32(5, 2) + fixed32(5, 3),
        encode_field(5, np.float32([1, 2]).tobytes()) + fixed32(5, 3),
        encode_field(1, 1) + encode_field(5, np.float32([1, 2, 3]).tobytes()),
    ],
    ids=["tensor_content", "packed", "unpacked", "mixed", "beside other fields"],
)
def test_every_encoding_of_floats(encoded: bytes) -> None:
    values = decode_values(memoryview(encoded), "float32", (3,))
    np.testing.assert_array_equal(values, np.float32([1, 2, 3]), strict=True)


@pytest.mark.parametrize(
    "encoded",
    [
        encode_field(4, np.int16([1, -2]).tobytes()),
        encode_values(np.int16([1, -2])),
        encode_field(7, 1) + encode_field(7, -2),
    ],
    ids=["tensor_content", "packed", "unpacked"],
)
def test_every_encoding_of_integers(encoded: bytes) -> None:
    values = decode_values(memoryview(encoded), "int16", (2,))
    np.testing.assert_array_equal(values, np.int16([1, -2]), strict=True)


@pytest.mark.parametrize("dtype", sorted(NUMPY_TYPES.values()))
@pytest.mark.parametrize("shape", [(), (0, 4), (2, 3)])
def test_every_type_and_no_other_number_of_values(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    encoded = memoryview(encode_values(array))
    np.testing.assert_array_equal(decode_values(encoded, dtype, shape), array, strict=True)
    for wrong in {array.size + 1, abs(array.size - 1)}:
        with pytest.raises(WireFormatError, match=r"shape \("):
            decode_values(encoded, dtype, (wrong,))


def test_one_run_of_values_is_not_copied() -> None:
    encoded = memoryview(bytearray(encode_values(np.ones(1000, np.float32))))
    values = decode_values(encoded, "float32", (1000,))
    assert np.shares_memory(values, np.frombuffer(encoded, np.uint8))


def test_values_beyond_the_shape_are_not_decoded() -> None:
    encoded = memoryview(encode_field(10, b"\x01" * (1 << 20)))
    tracemalloc.start()
    with pytest.raises(WireFormatError, match="expected 1 values"):
        decode_values(encoded, "int64", ())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(encoded)


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (1,) * 32, (0, 1 << 30)])
def test_shapes(shape: tuple[int, ...]) -> None:
    assert parse_shape(memoryview(encode_shape(shape))) == shape


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((3, -1), r"from 0 up, got \[3, -1\]"),
        ((1,) * 33, "at most 32 sizes"),
        ((0, 1 << 30, 1 << 30), "no file holds"),
        ((1 << 56,), "no file holds"),
    ],
)
def test_shapes_of_no_array(shape: tuple[int, ...], match: str) -> None:
    with pytest.raises(WireFormatError, match=match):
        parse_shape(memoryview(encode_shape(shape)))


@pytest.mark.parametrize("part", [(), ((0, -1),), ((0, -1), (5, 3)), ((-1, 1 << 60),)])
def test_parts(part: tuple[tuple[int, int], ...]) -> None:
    assert parse_part(memoryview(encode_part(part))) == part


def test_parts_of_too_many_dimensions() -> None:
    with pytest.raises(WireFormatError, match="more than 32 dimensions"):
        parse_part(memoryview(encode_part(((0, -1),) * 33)))


def test_fields_are_of_the_kind_that_is_expected() -> None:
    message = memoryview(encode_field(1, 5) + encode_field(2, b"bytes") + encode_field(1, -6))
    assert get_int(message, 1) == -6  # the last one counts
    assert get_int(message, 9, default=7) == 7
    assert get_message(message, 2) == b"bytes"
    assert get_message(message, 9) == b""
    with pytest.raises(WireFormatError, match="a number, found 5 bytes"):
        get_int(message, 2)
    with pytest.raises(WireFormatError, match="a message, found the number"):
        get_message(message, 1)


def test_names_of_types() -> None:
    assert [type_name(n) for n in (1, 7, 19, 99)] == ["float32", "DT_STRING", "float16", "DT_99"]


def test_versions() -> None:
    check_version(memoryview(b""))
    check_version(memoryview(encode_field(1, 24) + encode_field(2, 1)))
    with pytest.raises(WireFormatError, match="needs a reader of version 2"):
        check_version(memoryview(encode_field(2, 2)))
