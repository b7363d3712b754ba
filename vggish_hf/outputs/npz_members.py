"""Arrays in untrusted `.npz` files: sizes are checked before memory is allocated."""

import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

# Those of numpy: others may unpack to any size, or need memory to start.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAGIC = b"\x93NUMPY\x01\x00"
# Matched, not evaluated as in numpy: dtypes with fields and objects do not match.
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[biufcSUOVMm]\d{0,9})', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,20}(?:, \d{1,20})*,?)?)\), ?\} *\n"
)
_MAX_HEADER_BYTES = 1024


@contextmanager
def open_npz(path: Path, expected: str) -> Iterator[zipfile.ZipFile]:
    """Open a file of arrays.

    Args:
        path: The file.
        expected: The kind of file, for the message.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is not such a file; any error inside the block becomes this, with the file's
            name.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"Expected {expected}, {str(path)!r} is not: {reason}") from error


class NpzArray:
    """An array in a file of arrays, read piece by piece from its start.

    Args:
        archive: The file.
        name: The array.

    Raises:
        KeyError: The array is missing.
        ValueError: Its compression or its header is not numpy's.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type not in _COMPRESSIONS:
            raise ValueError(f"`{name}` has the compression {member.compress_type}")
        self.name = name
        self._file = archive.open(member)
        start = self._file.read(len(_MAGIC) + 2)
        if start[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"`{name}` is not in numpy's format 1.0")
        size = int.from_bytes(start[len(_MAGIC) :], "little")
        found = _HEADER.fullmatch(self._file.read(size)) if size <= _MAX_HEADER_BYTES else None
        if found is None:
            raise ValueError(f"`{name}` has another header than numpy writes for plain values")
        descr, is_fortran, shape = (part.decode() for part in found.groups())
        self.dtype = np.dtype(descr)
        self.shape = tuple(int(length) for length in shape.split(",") if length)
        if is_fortran == "True" and len(self.shape) > 1:
            raise ValueError(f"`{name}` is in Fortran's order")

    def check(self, kind: type[np.generic], most: int, *, max_item_bytes: int = 8) -> Self:
        """Raise ValueError unless it has 1 to `most` values of this kind and size."""
        is_known = np.issubdtype(self.dtype, kind) and self.dtype.itemsize <= max_item_bytes
        if not is_known or not 0 < math.prod(self.shape) <= most:
            raise ValueError(f"`{self.name}` is {self.shape} of {self.dtype}")
        return self

    def read(self, count: int) -> NDArray[Any]:
        """Read the next `count` values, flat.

        Raises:
            ValueError: There are fewer.
        """
        size = count * self.dtype.itemsize
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError(f"`{self.name}` ends early")
        return np.frombuffer(data, self.dtype)

    def read_all(self) -> NDArray[Any]:
        """Read the whole array; check its size first.

        Raises:
            ValueError: It holds fewer values, or more, than its header says.
        """
        values = self.read(math.prod(self.shape))
        self.finish()
        return values.reshape(self.shape)

    def finish(self) -> None:
        """Raise ValueError if more follows, and compare the checksum."""
        if self._file.read(1):
            raise ValueError(f"`{self.name}` has more values than its header says")
