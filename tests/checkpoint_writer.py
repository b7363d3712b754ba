"""Writes TensorFlow checkpoints as TensorFlow does, for the tests of the reader."""

import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate, takewhile
from pathlib import Path

import numpy as np

from vggish_hf.tf_files.checkpoint.messages import NUMPY_TYPES, WHOLE, Part
from vggish_hf.tf_files.checkpoint.variable import part_key
from vggish_hf.tf_files.crc32c import masked_crc32c
from vggish_hf.tf_files.protobuf import encode_field, encode_varint

Partitioned = Sequence[tuple[tuple[int, ...], np.ndarray]]
"""A variable in parts: where each begins, and its values."""

TYPE_NUMBERS = {name: number for number, name in NUMPY_TYPES.items()}
BLOCK_SIZE = 1 << 18
MAGIC = 0xDB4775248B80FB57


def encode_shape(shape: tuple[int, ...]) -> bytes:
    return b"".join(encode_field(2, encode_field(1, size)) for size in shape)


def encode_part(part: Part) -> bytes:
    extents = [
        (encode_field(1, start) if start else b"") + (encode_field(2, n) if n != WHOLE else b"")
        for start, n in part
    ]
    return b"".join(encode_field(1, extent) for extent in extents)


def encode_values(array: np.ndarray) -> bytes:
    """The values in a TensorProto, packed."""
    dtype = array.dtype.name
    raw = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}
    varints = {"int64": 10, "bool": 11, "float16": 13, "uint32": 16, "uint64": 17}
    if dtype in raw:
        return encode_field(raw[dtype], array.tobytes())
    if dtype == "float16":
        array = array.view(np.uint16)
    packed = b"".join(encode_varint(int(value)) for value in array.flat)
    return encode_field(varints.get(dtype, 7), packed)


def encode_block(entries: Sequence[tuple[bytes, bytes]], interval: int = 16) -> bytes:
    """A table's block: keys without what they share with the key before, one in 16 whole."""
    pieces, restarts, size, previous = [], [], 0, b""
    for nth, (key, value) in enumerate(entries):
        pairs = zip(previous, key, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if nth % interval == 0:
            restarts.append(size)
            shared = 0
        head = encode_varint(shared) + encode_varint(len(key) - shared) + encode_varint(len(value))
        pieces += [head, key[shared:], value]
        size += sum(map(len, pieces[-3:]))
        previous = key
    restarts = restarts or [0]
    return b"".join(pieces) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def seal(block: bytes, compression: int = 0) -> bytes:
    """A block with its compression byte and the checksum of both."""
    content = block + bytes([compression])
    return content + masked_crc32c(memoryview(content)).to_bytes(4, "little")


def encode_handle(offset: int, block: bytes) -> bytes:
    return encode_varint(offset) + encode_varint(len(block))


def write_sealed(path: Path, data: bytes, index: Sequence[tuple[bytes, bytes]]) -> None:
    """Write a table of sealed data blocks; `index` has a key and a handle for each."""
    empty, indexed = encode_block([]), encode_block(index, interval=1)
    start = len(data) + len(seal(empty))
    footer = encode_handle(len(data), empty) + encode_handle(start, indexed)
    with path.open("wb") as file:
        file.writelines([data, seal(empty), seal(indexed)])
        file.write(footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little"))


def write_blocks(path: Path, blocks: Sequence[tuple[bytes, bytes]]) -> None:
    """Write a table of blocks, each given with a key not below its last one."""
    sealed = [seal(block) for _, block in blocks]
    starts = accumulate(map(len, sealed), initial=0)
    index = [
        (key, encode_handle(at, block)) for (key, block), at in zip(blocks, starts, strict=False)
    ]
    write_sealed(path, b"".join(sealed), index)


def write_table(path: Path, entries: Mapping[bytes, bytes], block_size: int = BLOCK_SIZE) -> None:
    """Write a table; a block ends with the entry that fills it to `block_size`."""
    blocks, pending, size = [], [], 0
    for key, value in sorted(entries.items()):
        pending.append((key, value))
        size += len(key) + len(value)
        if size >= block_size:
            blocks.append((key, encode_block(pending)))
            pending, size = [], 0
    if pending:
        blocks.append((pending[-1][0], encode_block(pending)))
    write_blocks(path, blocks)


def _split(variable: np.ndarray | Partitioned) -> tuple[tuple[int, ...], dict[Part, np.ndarray]]:
    """The shape of a variable, and its parts."""
    if isinstance(variable, np.ndarray):
        return variable.shape, {((0, WHOLE),) * variable.ndim: variable}
    ends = [np.add(start, array.shape) for start, array in variable]
    parts = {tuple(zip(start, array.shape, strict=True)): array for start, array in variable}
    return tuple(int(size) for size in np.max(ends, axis=0)), parts


def write_v1(
    path: Path,
    variables: Mapping[str, np.ndarray | Partitioned],
    *,
    block_size: int = BLOCK_SIZE,
) -> None:
    meta, entries = b"", {}
    for name, variable in sorted(variables.items()):
        shape, parts = _split(variable)
        dtype = TYPE_NUMBERS[next(iter(parts.values())).dtype.name]
        saved = encode_field(1, name.encode()) + encode_field(2, encode_shape(shape))
        saved += encode_field(3, dtype)
        for part, array in parts.items():
            saved += encode_field(4, encode_part(part))
            values = encode_field(1, name.encode()) + encode_field(2, encode_part(part))
            values += encode_field(3, encode_values(array))
            entries[part_key(name, part)] = encode_field(2, values)
        meta += encode_field(1, saved)
    entries[b""] = encode_field(1, meta + encode_field(2, encode_field(1, 1)))
    write_table(path, entries, block_size)


def write_raw_v1(
    path: Path,
    *,
    name: bytes = b"x",
    shape: bytes = b"",
    dtype: int = 1,
    parts: Sequence[Part] = ((),),
    values: bytes = encode_values(np.ones((), np.float32)),
    meta: bytes = b"",
) -> Path:
    """Write a V1 checkpoint of one variable, of messages that need not agree.

    Args:
        path: The file; it is returned too.
        name: The variable's name in the messages; the key has "x".
        shape: Its TensorShapeProto.
        dtype: Its DataType.
        parts: Its parts, each of which gets the same values.
        values: Their TensorProto.
        meta: Put behind the list of variables.
    """
    saved = encode_field(1, name) + encode_field(2, shape) + encode_field(3, dtype)
    saved += b"".join(encode_field(4, encode_part(part)) for part in parts)
    entries = {b"": encode_field(1, encode_field(1, saved) + meta)}
    for part in parts:
        data = encode_field(1, name) + encode_field(2, encode_part(part)) + encode_field(3, values)
        entries[part_key("x", part)] = encode_field(2, data)
    write_table(path, entries)
    return path


def write_v2(
    prefix: Path,
    variables: Mapping[str, np.ndarray | Partitioned],
    *,
    block_size: int = BLOCK_SIZE,
    file_count: int = 1,
) -> None:
    entries = {b"": encode_field(1, file_count) + encode_field(3, encode_field(1, 1))}
    contents = [b""] * file_count
    for nth, (name, variable) in enumerate(sorted(variables.items())):
        shape, parts = _split(variable)
        number = nth % file_count
        for part, array in parts.items():
            data = array.tobytes()
            entry = encode_field(1, TYPE_NUMBERS[array.dtype.name])
            entry += encode_field(2, encode_shape(array.shape)) + encode_field(3, number)
            entry += encode_field(4, len(contents[number])) + encode_field(5, len(data))
            entry += b"\x35" + masked_crc32c(memoryview(data)).to_bytes(4, "little")  # fixed32
            contents[number] += data
            is_whole = isinstance(variable, np.ndarray)
            entries[name.encode() if is_whole else part_key(name, part)] = entry
        if not is_whole:
            entry = encode_field(1, TYPE_NUMBERS[array.dtype.name])
            entry += encode_field(2, encode_shape(shape))
            entry += b"".join(encode_field(7, encode_part(part)) for part in parts)
            entries[name.encode()] = entry
    write_table(prefix.with_name(f"{prefix.name}.index"), entries, block_size)
    for number, content in enumerate(contents):
        name = f"{prefix.name}.data-{number:05d}-of-{file_count:05d}"
        prefix.with_name(name).write_bytes(content)
