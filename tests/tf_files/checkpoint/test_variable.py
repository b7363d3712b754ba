from pathlib import Path

import numpy as np
import pytest

from vggish_hf.tf_files.checkpoint.table import CheckpointError
from vggish_hf.tf_files.checkpoint.variable import CheckpointVariable, locate, part_key
from vggish_hf.tf_files.protobuf import WireFormatError

WHOLE = (0, -1)
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


def variable(*parts: tuple[tuple[int, int], ...], dtype: str = "float32") -> CheckpointVariable:
    """A variable of `VALUES` in parts."""

    def load(part: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> np.ndarray:
        values = VALUES[locate(part, VALUES.shape)]
        assert values.shape == shape
        return values

    return CheckpointVariable.from_parts(
        "x", VALUES.shape, dtype, path=Path("model.ckpt"), parts=parts, load=load
    )


# The bytes are those of files that TensorFlow 2.21 wrote.
@pytest.mark.parametrize(
    ("name", "part", "key"),
    [
        ("global_step", (), "00676c6f62616c5f73746570000100"),
        ("empty", (WHOLE, WHOLE), "00656d70747900010102807f807f"),
        ("zero\0name", (WHOLE,), "007a65726f00ff6e616d6500010101807f"),
        ("n00", ((63, 5),), "006e303000010101bf85"),
        ("n01", ((64, 5),), "006e303100010101c04085"),
        ("n02", ((8191, 5),), "006e303200010101dfff85"),
        ("n03", ((8192, 5),), "006e303300010101e0200085"),
        ("n04", ((1 << 20, 5),), "006e303400010101f010000085"),
        ("n05", ((1 << 33, 5),), "006e303500010101fa0000000085"),
        ("n06", ((1 << 48, 5),), "006e303600010101ff0100000000000085"),
    ],
)
def test_keys_of_parts(name: str, part: tuple[tuple[int, int], ...], key: str) -> None:
    assert part_key(name, part).hex() == key


def test_keys_sort_as_parts_do() -> None:
    numbers = [-(1 << 40), -8193, -65, -64, -1, 0, 1, 63, 64, 8191, 8192, 1 << 40, 1 << 62]
    keys = [part_key("x", ((number, 1),)) for number in numbers]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    "parts",
    [
        [(WHOLE, WHOLE)],
        [((0, 3), (0, 4))],
        [((0, 1), WHOLE), ((1, 2), WHOLE)],
        [(WHOLE, (2, 2)), (WHOLE, (0, 2))],
        [((1, 2), (0, 3)), ((0, 1), (0, 3)), (WHOLE, (3, 1))],
        [(WHOLE, WHOLE), (WHOLE, (4, 0))],
    ],
)
def test_parts_are_put_together(parts: list[tuple[tuple[int, int], ...]]) -> None:
    np.testing.assert_array_equal(variable(*parts).read(), VALUES, strict=True)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ([], "the parts of 'x' have 0 values"),
        ([((0, 2), WHOLE)], r"have 8 values, its shape \(3, 4\) has 12"),
        ([((0, 2), WHOLE), ((1, 2), WHOLE)], "have 16 values"),
        ([((0, 1), WHOLE), ((0, 1), WHOLE), ((0, 1), WHOLE)], "has the part .* twice"),
        ([((1, 3), WHOLE)], "outside the shape"),
        ([((-1, 3), WHOLE)], "outside the shape"),
        ([((2, -2), WHOLE)], "outside the shape"),
        ([((4, -1), WHOLE)], "outside the shape"),
        ([(WHOLE,)], "outside the shape"),
        ([(WHOLE,) * 3], "outside the shape"),
    ],
)
def test_parts_that_cannot_fill_the_shape(
    parts: list[tuple[tuple[int, int], ...]], match: str
) -> None:
    with pytest.raises(WireFormatError, match=match):
        variable(*parts)


def test_parts_that_overlap() -> None:
    overlapping = variable(((0, 2), WHOLE), ((1, 1), WHOLE))
    with pytest.raises(CheckpointError, match=r"model.ckpt: the part .* of 'x' overlaps another"):
        overlapping.read()


def test_a_type_that_numpy_lacks() -> None:
    with pytest.raises(CheckpointError, match="'x' has the type DT_STRING, which NumPy lacks"):
        variable((WHOLE, WHOLE), dtype="DT_STRING").read()


def test_the_representation_names_what_users_care_for() -> None:
    expected = "CheckpointVariable(name='x', shape=(3, 4), dtype='float32')"
    assert repr(variable((WHOLE, WHOLE))) == expected
