"""A variable of a TensorFlow checkpoint, which may be stored in several parts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggish_hf.tf_files.checkpoint.messages import NUMPY_TYPES, WHOLE, Part
from vggish_hf.tf_files.checkpoint.table import CheckpointError
from vggish_hf.tf_files.protobuf import WireFormatError

Region = tuple[slice, ...]
"""The place of a part in its variable; every slice has a start and a stop."""
Load = Callable[[Part, tuple[int, ...]], NDArray[Any]]
"""Reads a part of one variable, given the part and its shape."""


@dataclass(frozen=True)
class CheckpointVariable:
    """A variable in a checkpoint; its values stay on disk until they are read.

    Attributes:
        name: Its name in the graph, such as "vggish/conv1/weights".
        shape: Its shape.
        dtype: NumPy's name of its type, or TensorFlow's ("DT_STRING") where NumPy lacks it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    _path: Path = field(repr=False, compare=False)
    _regions: dict[Part, Region] = field(repr=False, compare=False)
    _load: Load = field(repr=False, compare=False)

    @classmethod
    def from_parts(
        cls,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        *,
        path: Path,
        parts: Iterable[Part],
        load: Load,
    ) -> "CheckpointVariable":
        """Describe a variable, whose parts must have as many values as its shape.

        Args:
            name: Its name.
            shape: Its shape.
            dtype: Its type, as in the attribute.
            path: The checkpoint, for messages.
            parts: The parts that it is stored in.
            load: Reads one of the parts.

        Raises:
            WireFormatError: Parts lie outside the shape, or cannot fill it exactly.
        """
        regions: dict[Part, Region] = {}
        stored = 0
        for part in parts:
            if part in regions:
                raise WireFormatError(f"{name!r} has the part {part} (start, length) twice")
            regions[part] = locate(part, shape)
            stored += prod(lengths(regions[part]))
        if stored != prod(shape):
            raise WireFormatError(
                f"the parts of {name!r} have {stored} values, its shape {shape} has {prod(shape)}"
            )
        return cls(name, shape, dtype, path, regions, load)

    def read(self) -> NDArray[Any]:
        """Read the values of this variable only into memory.

        Returns:
            An array of `shape` and `dtype`. From a V1 checkpoint it may be unaligned: it is a view
            of its block.

        Raises:
            CheckpointError: The values are damaged, or NumPy lacks their type.
        """
        if self.dtype not in NUMPY_TYPES.values():
            raise CheckpointError(
                f"{self._path}: {self.name!r} has the type {self.dtype}, which NumPy lacks; skip "
                "this variable"
            )
        for part, region in self._regions.items():
            if lengths(region) == self.shape:
                return self._load(part, self.shape)
        array, is_filled = np.empty(self.shape, self.dtype), np.zeros(self.shape, np.bool_)
        for part, region in self._regions.items():
            # The parts have as many values as the shape: without overlap, nothing is missing.
            if is_filled[region].any():
                raise CheckpointError(
                    f"{self._path}: the part {part} (start, length) of {self.name!r} overlaps "
                    "another"
                )
            array[region], is_filled[region] = self._load(part, lengths(region)), True
        return array


def lengths(region: Region) -> tuple[int, ...]:
    """The shape of a region."""
    return tuple(extent.stop - extent.start for extent in region)


def locate(part: Part, shape: tuple[int, ...]) -> Region:
    """Where a part lies in a variable of a shape.

    Raises:
        WireFormatError: It lies outside, or has another number of dimensions.
    """
    if len(part) == len(shape):
        region = tuple(
            slice(start, size if length == WHOLE else start + length)
            for (start, length), size in zip(part, shape, strict=True)
        )
        if all(
            0 <= extent.start <= extent.stop <= size
            for extent, size in zip(region, shape, strict=True)
        ):
            return region
    raise WireFormatError(f"the part {part} (start, length) lies outside the shape {shape}")


def part_key(name: str, part: Part) -> bytes:
    """The key of a part of a variable.

    It is a zero, the name, the number of dimensions, and each dimension's start and length, in an
    encoding that sorts like the values.

    Source: tensorflow/core/util/saved_tensor_slice_util.cc and
    tensorflow/core/lib/strings/ordered_code.cc.
    """
    # The name ends with 0x00 0x01, so zeros inside it are escaped. UTF-8 has no 0xff to escape.
    escaped = name.encode().replace(b"\x00", b"\x00\xff")
    rank = bytes([1, len(part)]) if part else b"\x00"
    extents = b"".join(_ordered_int(number) for extent in part for number in extent)
    return b"\x00" + escaped + b"\x00\x01" + rank + extents


def _ordered_int(value: int) -> bytes:
    """Encode a signed number in n bytes, 7n bits of which are the number with its sign.

    The first n bits are ones for a positive number and zeros for a negative one, so that the bytes
    sort like the numbers.
    """
    size = (value if value >= 0 else ~value).bit_length() // 7 + 1
    prefix = ((1 << size) - 1) << (7 * size)
    return (value % (1 << 8 * size) ^ prefix).to_bytes(size, "big")
