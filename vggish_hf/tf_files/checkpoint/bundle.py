"""TensorFlow's V2 checkpoints: an index, and data files with the values.

The index `<prefix>.index` is a sorted table. Its empty key holds the number of data files
`<prefix>.data-00000-of-00001`. A variable's name holds its type, its shape, and the file and the
position of its bytes, in C order. A variable in several parts lists them; each has its own entry.

Source: tensorflow/core/protobuf/tensor_bundle.proto.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggish_hf.tf_files.checkpoint.messages import (
    NUMPY_TYPES,
    WHOLE,
    Part,
    as_message,
    check_version,
    get_int,
    get_message,
    parse_part,
    parse_shape,
    type_name,
    view_values,
)
from vggish_hf.tf_files.checkpoint.table import (
    METADATA_LIMIT,
    CheckpointError,
    SortedTable,
    read_range,
)
from vggish_hf.tf_files.checkpoint.variable import CheckpointVariable, lengths, locate, part_key
from vggish_hf.tf_files.crc32c import masked_crc32c
from vggish_hf.tf_files.protobuf import WireFormatError, read_fields


class _Entry(NamedTuple):
    """A BundleEntryProto: the place of a variable, or of a part of one."""

    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    size: int
    masked_crc: int
    parts: tuple[Part, ...]


def list_bundle(table: SortedTable, header: memoryview) -> dict[str, CheckpointVariable]:
    """List the variables of a V2 checkpoint.

    Args:
        table: The index.
        header: The BundleHeaderProto in it.

    Raises:
        CheckpointError: A data file is missing or too short.
        WireFormatError: The index breaks a rule of its format.
    """
    if table.path.suffix != ".index":
        raise WireFormatError(
            "this index of a V2 checkpoint is not named <prefix>.index, so its data files cannot "
            "be found; rename it like its <prefix>.data-00000-of-00001"
        )
    if table.size > METADATA_LIMIT:
        raise WireFormatError(f"it has {table.size} bytes; at most {METADATA_LIMIT} are read")
    if get_int(header, 2) != 0:
        raise WireFormatError("the values are big-endian; only little-endian ones are read")
    check_version(get_message(header, 3))
    file_count = get_int(header, 1)
    entries = {key: _parse_entry(value, table.path, file_count) for key, value in table if key}
    _check_data_files(entries.values())
    variables: dict[str, CheckpointVariable] = {}
    for key, entry in entries.items():
        if key.startswith(b"\x00"):
            continue  # a part of a variable, found through that variable
        name = str(key, "utf-8")
        stored = {part: _find_part(entries, name, entry, part) for part in entry.parts}
        stored = stored or {((0, WHOLE),) * len(entry.shape): entry}
        variables[name] = CheckpointVariable.from_parts(
            name,
            entry.shape,
            entry.dtype,
            path=table.path,
            parts=entry.parts or stored,
            load=partial(_load, name, stored),
        )
    return variables


def _parse_entry(message: memoryview, index: Path, file_count: int) -> _Entry:
    """Read a BundleEntryProto of a checkpoint with a number of data files."""
    dtype, shape = type_name(get_int(message, 1)), parse_shape(get_message(message, 2))
    file_number, offset, size = (get_int(message, number) for number in (3, 4, 5))
    parts = tuple(parse_part(as_message(value)) for n, value in read_fields(message) if n == 7)
    if not 0 <= file_number < file_count or offset < 0 or size < 0:
        raise WireFormatError(
            f"an entry claims {size} bytes at byte {offset} of data file {file_number} of "
            f"{file_count}"
        )
    has_values = dtype in NUMPY_TYPES.values() and not parts
    if has_values and size != prod(shape) * np.dtype(dtype).itemsize:
        raise WireFormatError(f"{size} bytes of {dtype} do not fill the shape {shape}")
    path = index.with_suffix(f".data-{file_number:05d}-of-{file_count:05d}")
    masked_crc = int.from_bytes(get_message(message, 6), "little")
    return _Entry(dtype, shape, path, offset, size, masked_crc, parts)


def _check_data_files(entries: Iterable[_Entry]) -> None:
    """Require that the data files exist and are long enough."""
    by_file: dict[Path, list[_Entry]] = {}
    for entry in entries:
        by_file.setdefault(entry.path, []).append(entry)
    for path, stored in by_file.items():
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; put it next to its index")
        # The sum too: entries that share bytes could claim far more than the file's size.
        needed = max(sum(e.size for e in stored), max(e.offset + e.size for e in stored))
        if needed > path.stat().st_size:
            raise CheckpointError(
                f"{path}: the index claims {needed} bytes, the file has {path.stat().st_size}; it "
                "may be cut off: fetch it again"
            )


def _find_part(entries: Mapping[bytes, _Entry], name: str, whole: _Entry, part: Part) -> _Entry:
    """The entry of a part of a variable."""
    entry = entries.get(part_key(name, part))
    expected = (whole.dtype, lengths(locate(part, whole.shape)), ())
    if entry is None or (entry.dtype, entry.shape, entry.parts) != expected:
        raise WireFormatError(f"{name!r} lists the part {part} (start, length), which is missing")
    return entry


def _load(
    name: str, stored: Mapping[Part, _Entry], part: Part, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Read a part of a variable from its data file."""
    entry = stored[part]
    values = read_range(entry.path, entry.offset, entry.size)
    if masked_crc32c(values) != entry.masked_crc:
        raise CheckpointError(
            f"{entry.path}: the values of {name!r} at byte {entry.offset} do not match their "
            "checksum; the file is damaged: fetch it again"
        )
    return view_values(values, entry.dtype, shape)
