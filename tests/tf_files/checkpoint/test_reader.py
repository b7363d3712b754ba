import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_writer import (
    encode_block,
    encode_shape,
    write_blocks,
    write_raw_v1,
    write_table,
    write_v1,
    write_v2,
)
from folders import TESTS
from fuzzing import cases
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vggish_hf.tf_files.checkpoint.messages import NUMPY_TYPES
from vggish_hf.tf_files.checkpoint.reader import CheckpointError, is_checkpoint, read_checkpoint
from vggish_hf.tf_files.checkpoint.table import METADATA_LIMIT, SortedTable
from vggish_hf.tf_files.checkpoint.variable import part_key
from vggish_hf.tf_files.protobuf import encode_field, encode_varint

HERE = TESTS
TINY_V1, TINY_V2 = (HERE / "golden" / "tf" / f"tiny_{version}.ckpt" for version in ("v1", "v2"))
PARTITIONED_V1, PARTITIONED_V2 = (
    HERE / "data" / f"partitioned_{version}.ckpt" for version in ("v1", "v2")
)
TRUE_CHECKPOINTS = (TINY_V1, TINY_V2, PARTITIONED_V1, PARTITIONED_V2)
LAYERS = ("conv1", "conv2", "conv3/conv3_1", "conv3/conv3_2", "conv4/conv4_1", "conv4/conv4_2")
LAYERS += ("fc1/fc1_1", "fc1/fc1_2", "fc2")


def layer_shapes(conv: tuple[int, ...], hidden: int, embedding: int) -> dict[str, tuple[int, ...]]:
    """The weights' shapes of a VGGish, by layer."""
    linear = (24 * conv[-1], hidden, hidden, embedding)
    shapes = [(3, 3, *pair) for pair in pairwise((1, *conv))]
    shapes += pairwise(linear)
    return dict(zip(LAYERS, shapes, strict=True))


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()  # NaN and the sign of zero included


def read_all(path: Path) -> dict[str, np.ndarray]:
    readable = NUMPY_TYPES.values()
    return {v.name: v.read() for v in read_checkpoint(path).values() if v.dtype in readable}


# --- what TensorFlow wrote ---


@pytest.mark.parametrize("path", [TINY_V1, TINY_V2], ids=["V1", "V2"])
def test_values_equal_the_formula_of_the_golden_checkpoint(path: Path) -> None:
    expected = {}
    for nth, (layer, shape) in enumerate(layer_shapes((4, 6, 8, 8, 10, 10), 12, 16).items()):
        weights, biases = (np.random.Generator(np.random.PCG64([11, 2 * nth + i])) for i in (0, 1))
        scale = np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        expected[f"vggish/{layer}/weights"] = weights.standard_normal(shape, np.float32) * scale
        expected[f"vggish/{layer}/biases"] = biases.standard_normal(
            shape[-1], np.float32
        ) * np.float32(0.05)
    actual = read_all(path)
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert_same(actual[name], array)


# What tests/data/README.md says was saved, of all types that NumPy has.
KINDS = {
    "bool": [True, False, True],
    "int8": [-128, 0, 127],
    "uint8": [0, 7, 255],
    "int16": [-(2**15), 0, 2**15 - 1],
    "uint16": [0, 7, 2**16 - 1],
    "int32": [-(2**31), 0, 2**31 - 1],
    "float16": [-1.5, 0, 65504],
    "complex64": [1 - 2j, 0, 3j],
    "complex128": [1 - 2j, 0, 3j],
}
KINDS_OF_V2 = {"uint32": [0, 7, 2**32 - 1], "uint64": [0, 7, 2**64 - 1]}


@pytest.mark.parametrize(
    ("path", "kinds"),
    [(PARTITIONED_V1, KINDS), (PARTITIONED_V2, KINDS | KINDS_OF_V2)],
    ids=["V1", "V2"],
)
def test_partitioned_variables_and_all_types(path: Path, kinds: dict[str, list]) -> None:
    expected = {
        "empty": np.zeros((0, 4), np.float32),
        "global_step": np.array(-123456789012, np.int64),
        "net/bias": np.array([1.5, -2, 3], np.float32),
        "net/table": np.arange(600, dtype=np.float32).reshape(200, 3) / 8,
        "net/wide": -np.arange(18, dtype=np.float64).reshape(2, 9) / 8,
    }
    expected |= {f"kinds/{name}": np.array(values, name) for name, values in kinds.items()}
    actual = read_all(path)
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert_same(actual[name], array)


def test_types_that_numpy_lacks_are_listed_but_not_read() -> None:
    for path in (PARTITIONED_V1, PARTITIONED_V2):
        labels = read_checkpoint(path)["labels"]
        assert (labels.name, labels.shape, labels.dtype) == ("labels", (3,), "DT_STRING")
        with pytest.raises(CheckpointError, match="'labels' has the type DT_STRING"):
            labels.read()
    assert read_checkpoint(PARTITIONED_V2)["kinds/bfloat16"].dtype == "DT_BFLOAT16"


# --- what the writer wrote; TensorFlow reads its files too ---

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(
    lambda name: not name.startswith("\0")  # there V2 keeps the parts of variables
)
arrays = st.sampled_from(sorted(NUMPY_TYPES.values())).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
)


@st.composite
def variables(draw: st.DrawFn) -> tuple[dict, dict]:
    """Variables as arrays, and as the writer takes them: some of them cut into parts."""
    whole = draw(st.dictionaries(names, arrays, max_size=8))
    written = dict(whole)
    for name, array in whole.items():
        if array.ndim and array.size and draw(st.booleans()):
            axis = draw(st.integers(0, array.ndim - 1))
            cuts = draw(st.sets(st.integers(1, array.shape[axis])))
            pieces = np.split(array, sorted(cuts - {array.shape[axis]}), axis)
            starts = np.cumsum([0, *(piece.shape[axis] for piece in pieces)])
            origin = np.eye(array.ndim, dtype=int)[axis]
            written[name] = [
                (tuple(map(int, origin * start)), piece)
                for start, piece in zip(starts, pieces, strict=False)
            ]
    return whole, written


@given(variables(), st.sampled_from([1, 60, 1 << 18]), st.integers(0, 3))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    both: tuple[dict, dict],
    block_size: int,
    file_count: int,
) -> None:
    expected, written = both
    path = tmp_path_factory.getbasetemp() / f"round_trip_{file_count}"
    if file_count:
        write_v2(path, written, block_size=block_size, file_count=file_count)
    else:
        write_v1(path, written, block_size=block_size)
    assert is_checkpoint(path)
    listed = read_checkpoint(path)
    assert set(listed) == set(expected)
    for name, array in expected.items():
        assert (listed[name].shape, listed[name].dtype) == (array.shape, array.dtype.name)
        assert_same(listed[name].read(), array)


# --- files that nobody should hand us ---


def assert_refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\0" * 100, b"text" * 1000])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vggish_model.ckpt"
    path.write_bytes(content)
    assert not is_checkpoint(path)
    assert_refused(path, "not a TensorFlow checkpoint")


def test_what_is_not_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert not is_checkpoint(tmp_path)
    assert not is_checkpoint(tmp_path / "absent")
    assert_refused(tmp_path, "not a TensorFlow checkpoint")
    with pytest.raises(FileNotFoundError, match="absent"):
        read_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize("entries", [{}, {b"key": b"value"}, {b"": b""}, {b"": b"\x08\0"}])
def test_a_table_of_something_else(tmp_path: Path, entries: dict[bytes, bytes]) -> None:
    path = tmp_path / "000005.ldb"
    write_table(path, entries)
    assert_refused(path, "not of TensorFlow variables")


WHOLE = (0, -1)
THREE = encode_shape((3,))


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ({"shape": encode_shape((-1,))}, r"sizes from 0 up, got \[-1\]"),
        ({"shape": encode_shape((1 << 40,)), "parts": [(WHOLE,)]}, "need 4398046511104 bytes"),
        ({"shape": THREE, "parts": [(WHOLE,)]}, r"4 bytes of float32 do not fill the shape \(3,\)"),
        ({"shape": THREE, "parts": [((0, 2),)]}, "have 2 values, its shape .* has 3"),
        ({"shape": THREE, "parts": [((1, 3),)]}, "lies outside the shape"),
        ({"shape": THREE}, "lies outside the shape"),
        ({"parts": []}, "have 0 values"),
        ({"name": b"y"}, "the part .* of 'y' is missing"),
        ({"name": b"\xff"}, "invalid start byte"),
        ({"name": 5}, "expected a message"),
        ({"dtype": b"float"}, "expected a number"),
        ({"dtype": 3, "values": encode_field(7, b"\x80")}, "'x': .*ends inside a number"),
        ({"values": b"\x2a\x05"}, "'x': .*claims 5 bytes, only 0 remain"),
        ({"meta": encode_field(2, encode_field(2, 2))}, "needs a reader of version 2"),
        ({"meta": encode_field(1, encode_field(1, b"x"))}, "it has 'x' twice"),
        ({"meta": encode_field(3, bytes(METADATA_LIMIT))}, "at most 1048576 are read"),
    ],
)
def test_messages_that_do_not_agree(tmp_path: Path, raw: dict[str, Any], match: str) -> None:
    assert_refused(write_raw_v1(tmp_path / "model.ckpt", **raw), match)


def test_values_of_another_variable(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    write_v1(path, {name: np.float32([1]) for name in ("x", "y")})
    entries = {key: bytes(value) for key, value in SortedTable(path)}
    x, y = (part_key(name, (WHOLE,)) for name in ("x", "y"))
    entries[x], entries[y] = entries[y], entries[x]
    write_table(path, entries)
    assert_refused(path, r"expected the part \(\(0, -1\),\) .* found \('y', ")


def damage(generator: random.Random, content: bytes) -> bytes:
    """Flip, cut, double or overwrite a few bytes somewhere."""
    damaged = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 3))):
        start = generator.randrange(len(damaged) + 1)
        stop = min(start + generator.choice((1, 1, 2, 8, 100)), len(damaged))
        match generator.randrange(5):
            case 0:
                damaged[start:stop] = bytes(byte ^ 1 << start % 8 for byte in damaged[start:stop])
            case 1:
                del damaged[start:stop]
            case 2:
                damaged[start:start] = damaged[start:stop]
            case 3:
                damaged[start:stop] = encode_varint(1 << generator.randrange(64))
            case 4:
                del damaged[start if generator.random() < 0.2 else len(damaged) :]
    return bytes(damaged)


def damage_file(generator: random.Random, path: Path) -> None:
    path.write_bytes(damage(generator, path.read_bytes()))


def damage_block(generator: random.Random, path: Path) -> None:
    """Damage a table's entries, keys and restarts, under checksums that match."""
    entries = [(key, bytes(value)) for key, value in SortedTable(path)]
    write_blocks(path, [(entries[-1][0], damage(generator, encode_block(entries)))])


def damage_value(generator: random.Random, path: Path) -> None:
    """Damage a message in a table that is whole otherwise."""
    entries = {key: bytes(value) for key, value in SortedTable(path)}
    key = b"" if generator.random() < 0.5 else generator.choice(list(entries))
    write_table(path, entries | {key: damage(generator, entries[key])})


@pytest.mark.fuzz
@pytest.mark.parametrize("path", TRUE_CHECKPOINTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("hurt", [damage_file, damage_block, damage_value])
def test_damage_ends_in_one_clear_error(
    tmp_path: Path, path: Path, hurt: Callable[[random.Random, Path], None]
) -> None:
    """Nothing but `CheckpointError`, and no more memory than the files account for."""
    generator = random.Random(0)
    originals = {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}
    table = path.name if path.name in originals else f"{path.name}.index"
    for name, content in originals.items():
        (tmp_path / name).write_bytes(content)
    refusals = []
    num_cases = cases(250, quick=20)
    for nth in range(num_cases):
        name = generator.choice(list(originals)) if hurt is damage_file else table
        hurt(generator, tmp_path / name)
        is_traced = nth % 10 == 0  # it takes six times as long
        if is_traced:
            tracemalloc.start()
        try:
            read_all(tmp_path / path.name)
        except CheckpointError as error:
            refusals.append(str(error))
        if is_traced:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 1 << 20
        (tmp_path / name).write_bytes(originals[name])
    assert len(refusals) > num_cases // 10
    assert not any("\n" in refusal for refusal in refusals)


# --- the size of the real one ---


# Run in a process of its own. VmHWM is the peak of this program; `ru_maxrss` would have that of
# the process that started it, too.
READ_FULL_SIZE = """
import sys
import numpy as np
from vggish_hf.tf_files.checkpoint.reader import read_checkpoint

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))

before = peak()
for name, variable in read_checkpoint(sys.argv[1]).items():
    values = variable.read()
    if name != "global_step":
        rows = values.reshape(-1, values.shape[-1])
        for row in rows[0], rows[-1]:
            assert np.array_equal(row, np.arange(len(row))), name
        expected = len(rows) * rows[0].sum(dtype=np.float64)
        assert rows.sum(dtype=np.float64) == expected, name
        del rows, row
    del values
print(before, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures as Linux does")
def test_a_full_size_checkpoint_takes_the_memory_of_its_largest_variable(tmp_path: Path) -> None:
    variables: dict[str, np.ndarray] = {"global_step": np.array(7, np.int64)}
    for layer, shape in layer_shapes((64, 128, 256, 256, 512, 512), 4096, 128).items():
        row = np.arange(shape[-1], dtype=np.float32)
        variables[f"vggish/{layer}/biases"] = row
        variables[f"vggish/{layer}/weights"] = np.broadcast_to(row, shape)
    assert sum(array.size for array in variables.values()) == 72_141_184 + 1
    write_v1(tmp_path / "model.ckpt", variables)
    child = subprocess.run(
        [sys.executable, "-c", READ_FULL_SIZE, tmp_path / "model.ckpt"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    before, peak = map(int, child.stdout.split())
    largest = max(array.nbytes for array in variables.values())
    assert largest <= peak - before < 1.2 * largest
    assert peak < 0.9 * (1 << 30)
