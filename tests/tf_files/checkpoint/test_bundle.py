import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoint_writer import encode_part, encode_shape, write_table, write_v2
from folders import TESTS

from vggish_hf.tf_files.checkpoint.reader import CheckpointError, is_checkpoint, read_checkpoint
from vggish_hf.tf_files.checkpoint.table import METADATA_LIMIT
from vggish_hf.tf_files.checkpoint.variable import part_key
from vggish_hf.tf_files.protobuf import encode_field

PARTITIONED = TESTS / "data" / "partitioned_v2.ckpt"
HEADER = encode_field(1, 1)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A checkpoint of the variables "a", "b" and "c", which may be damaged."""
    arrays = {name: np.full((2, 3), nth, np.float32) for nth, name in enumerate("abc")}
    write_v2(tmp_path / "model", arrays)
    return tmp_path / "model"


def data_file(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.data-00000-of-00001")


def encode_entry(
    *,
    dtype: int = 1,
    shape: tuple[int, ...] = (),
    file_number: int = 0,
    offset: int = 0,
    size: int = 4,
    parts: tuple = (),
) -> bytes:
    entry = encode_field(1, dtype) + encode_field(2, encode_shape(shape))
    entry += encode_field(3, file_number) + encode_field(4, offset) + encode_field(5, size)
    return entry + b"".join(encode_field(7, encode_part(part)) for part in parts)


@pytest.mark.parametrize("suffix", ["", ".index", ".data-00000-of-00002", ".data-00001-of-00002"])
def test_any_file_of_a_checkpoint_leads_to_it(suffix: str) -> None:
    path = PARTITIONED.with_name(PARTITIONED.name + suffix)
    assert is_checkpoint(str(path))
    assert read_checkpoint(str(path)) == read_checkpoint(PARTITIONED)


def test_a_checkpoint_may_be_renamed(tmp_path: Path) -> None:
    for path in PARTITIONED.parent.glob(f"{PARTITIONED.name}.*"):
        shutil.copy(path, tmp_path / f"other{path.name.removeprefix(PARTITIONED.name)}")
    values = read_checkpoint(tmp_path / "other")["net/table"].read()
    assert values[199, 2] == 599 / 8


def test_a_missing_index(prefix: Path) -> None:
    prefix.with_name("model.index").unlink()
    assert not is_checkpoint(data_file(prefix))
    with pytest.raises(CheckpointError, match=r"its index model\.index is missing; put it next to"):
        read_checkpoint(data_file(prefix))


def test_an_index_of_another_name(prefix: Path) -> None:
    renamed = prefix.with_name("model.idx")
    prefix.with_name("model.index").rename(renamed)
    assert is_checkpoint(renamed)
    with pytest.raises(CheckpointError, match=r"is not named <prefix>\.index"):
        read_checkpoint(renamed)


def test_a_missing_data_file(prefix: Path) -> None:
    data_file(prefix).unlink()
    with pytest.raises(CheckpointError, match=r"data-00000-of-00001: missing; put it next to"):
        read_checkpoint(prefix)


def test_a_cut_off_data_file(prefix: Path) -> None:
    data_file(prefix).write_bytes(data_file(prefix).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="index claims 72 bytes, the file has 71"):
        read_checkpoint(prefix)


def test_a_flipped_bit_is_noticed_where_it_is(prefix: Path) -> None:
    content = bytearray(data_file(prefix).read_bytes())
    content[24] ^= 1
    data_file(prefix).write_bytes(content)
    variables = read_checkpoint(prefix)
    assert variables["a"].read().max() == 0
    assert variables["c"].read().min() == 2
    with pytest.raises(CheckpointError, match="values of 'b' at byte 24 do not match their check"):
        variables["b"].read()


def test_a_data_file_cut_off_after_the_listing(prefix: Path) -> None:
    variables = read_checkpoint(prefix)
    data_file(prefix).write_bytes(b"")
    with pytest.raises(CheckpointError, match="expected 24 bytes at byte 0, but the file has 0"):
        variables["a"].read()


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (HEADER + encode_field(2, 1), "big-endian"),
        (HEADER + encode_field(3, encode_field(2, 2)), "needs a reader of version 2"),
        (encode_field(1, -1), "data file 0 of -1"),
        (HEADER + encode_field(9, bytes(METADATA_LIMIT)), "at most 1048576 are read"),
        (encode_field(1, 1 << 40), "data-00000-of-1099511627776: missing"),
    ],
)
def test_a_header_that_is_refused(prefix: Path, header: bytes, match: str) -> None:
    write_table(prefix.with_name("model.index"), {b"": header, b"x": encode_entry()})
    with pytest.raises(CheckpointError, match=match):
        read_checkpoint(prefix)


HALVES = (((0, 1),), ((1, 1),))


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({b"x": encode_entry(size=8)}, r"8 bytes of float32 do not fill the shape \(\)"),
        ({b"x": encode_entry(file_number=1)}, "data file 1 of 1"),
        ({b"x": encode_entry(file_number=-1)}, "data file -1 of 1"),
        ({b"x": encode_entry(offset=-4)}, "at byte -4"),
        ({b"x": encode_entry(dtype=7, size=-4)}, "claims -4 bytes"),
        ({b"x": encode_entry(offset=72)}, "claims 76 bytes, the file has 72"),
        ({b"x": encode_entry(shape=(1 << 40,), size=1 << 42)}, "claims 4398046511104 bytes"),
        # 19 times the same bytes
        ({b"x%d" % n: encode_entry() for n in range(10, 29)}, "claims 76 bytes, the file has 72"),
        ({b"x": encode_entry(shape=(-1,))}, "sizes from 0 up"),
        ({b"\xff": encode_entry()}, "invalid start byte"),
        ({b"x": b"\x08"}, "ends inside a number"),
        ({b"x": encode_entry(shape=(2,), size=0, parts=HALVES)}, "the part .* which is missing"),
        ({b"x": encode_entry(shape=(2,), size=0, parts=(((0, 3),),))}, "outside the shape"),
        (
            {b"x": encode_entry(shape=(2,), size=0, parts=HALVES)}
            | {part_key("x", part): encode_entry(shape=(1,), dtype=3) for part in HALVES},
            "the part .* which is missing",
        ),
        (
            {b"x": encode_entry(shape=(2,), size=0, parts=HALVES[:1])}
            | {part_key("x", HALVES[0]): encode_entry(shape=(1,))},
            r"have 1 values, its shape \(2,\) has 2",
        ),
        (
            {b"x": encode_entry(shape=(1,), size=0, parts=(((0, 1),),) * 2)}
            | {part_key("x", HALVES[0]): encode_entry(shape=(1,))},
            "twice",
        ),
    ],
)
def test_entries_that_are_refused(prefix: Path, entries: dict[bytes, bytes], match: str) -> None:
    write_table(prefix.with_name("model.index"), {b"": HEADER} | entries)
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(prefix)
    assert "\n" not in str(caught.value)


def test_variables_of_unknown_types_are_listed(prefix: Path) -> None:
    entry = encode_entry(dtype=77, shape=(5, 5), size=3)
    write_table(prefix.with_name("model.index"), {b"": HEADER, b"x": entry})
    variable = read_checkpoint(prefix)["x"]
    assert (variable.shape, variable.dtype) == ((5, 5), "DT_77")
