"""Read TensorFlow checkpoints, of the V1 and the V2 format, without TensorFlow.

A V1 checkpoint is one sorted table: the empty key holds a list of its variables, the other keys
their values. Its messages are those of tensorflow/core/util/saved_tensor_slice.proto.
"""

import re
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vggish_hf.tf_files.checkpoint.bundle import list_bundle
from vggish_hf.tf_files.checkpoint.messages import (
    Part,
    as_message,
    check_version,
    decode_values,
    get_int,
    get_message,
    parse_part,
    parse_shape,
    smallest_encoding,
    type_name,
)
from vggish_hf.tf_files.checkpoint.table import (
    METADATA_LIMIT,
    SortedTable,
    checkpoint_errors,
    is_sorted_table,
)
from vggish_hf.tf_files.checkpoint.table import CheckpointError as CheckpointError
from vggish_hf.tf_files.checkpoint.variable import CheckpointVariable as CheckpointVariable
from vggish_hf.tf_files.checkpoint.variable import part_key
from vggish_hf.tf_files.protobuf import WireFormatError, read_fields


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is a TensorFlow checkpoint, by its content.

    Args:
        path: As for `read_checkpoint`; it need not exist.
    """
    return is_sorted_table(_find_table(Path(path)))


def read_checkpoint(path: str | Path) -> dict[str, CheckpointVariable]:
    """List the variables of a TensorFlow checkpoint.

    Args:
        path: A V1 file; or the prefix, the index or a data file of a V2 checkpoint.

    Returns:
        The variables by name, in the order of the file, including those whose type NumPy lacks.

    Raises:
        CheckpointError: The file is not a checkpoint, or it is damaged or incomplete.
        FileNotFoundError: The file does not exist.
    """
    table_path = _find_table(Path(path))
    if Path(path).exists() and not table_path.exists():
        raise CheckpointError(f"{path}: its index {table_path.name} is missing; put it next to it")
    table = SortedTable(table_path)
    header = table.get(b"") or memoryview(b"")
    with checkpoint_errors(table.path, "the list of variables"):
        # Field 1 is the list of variables in V1, but the number of data files in V2.
        first = next((value for number, value in read_fields(header) if number == 1), 0)
        if not isinstance(first, int):
            return _list_v1(table, first)
        if first > 0:
            return list_bundle(table, header)
    raise CheckpointError(f"{table.path}: a sorted table, but not of TensorFlow variables")


def _find_table(path: Path) -> Path:
    """The file of a checkpoint that is its sorted table."""
    if data_file := re.fullmatch(r"(.+)\.data-\d{5}-of-\d{5}", path.name):
        return path.with_name(f"{data_file[1]}.index")
    index = path.with_name(f"{path.name}.index")
    return index if index.exists() and not path.exists() else path


def _list_v1(table: SortedTable, meta: memoryview) -> dict[str, CheckpointVariable]:
    """List the variables of a SavedTensorSliceMeta."""
    if len(meta) > METADATA_LIMIT:
        raise WireFormatError(f"it has {len(meta)} bytes; at most {METADATA_LIMIT} are read")
    check_version(get_message(meta, 2))
    variables: dict[str, CheckpointVariable] = {}
    claimed = 0
    for number, value in read_fields(meta):
        if number != 1:
            continue
        saved = as_message(value)
        name = str(get_message(saved, 1), "utf-8")
        if name in variables:
            raise WireFormatError(f"it has {name!r} twice")
        shape, dtype = parse_shape(get_message(saved, 2)), type_name(get_int(saved, 3))
        variables[name] = CheckpointVariable.from_parts(
            name,
            shape,
            dtype,
            path=table.path,
            parts=(parse_part(as_message(part)) for n, part in read_fields(saved) if n == 4),
            load=partial(_load_v1, table, name, dtype),
        )
        claimed += prod(shape) * smallest_encoding(dtype)
        if claimed > table.size:
            raise WireFormatError(
                f"the variables up to {name!r} need {claimed} bytes, the file has {table.size}; "
                "it may be cut off: fetch it again"
            )
    return variables


def _load_v1(
    table: SortedTable, name: str, dtype: str, part: Part, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Read a part of a variable from its SavedTensorSlices in the table."""
    value = table.get(part_key(name, part))
    if value is None:
        raise CheckpointError(
            f"{table.path}: the part {part} (start, length) of {name!r} is missing"
        )
    with checkpoint_errors(table.path, f"the values of {name!r}"):
        saved = get_message(value, 2)
        found = str(get_message(saved, 1), "utf-8"), parse_part(get_message(saved, 2))
        if found != (name, part):
            raise WireFormatError(f"expected the part {part} (start, length), found {found}")
        return decode_values(get_message(saved, 3), dtype, shape)
