"""The files that hold a baseline's moments: `.npz` without pickle, sizes checked before reading."""

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.metrics.frechet import Array

# Thirty times the size of VGGish's: a file from elsewhere must not fill the memory.
_MAX_SIZE = 4096
_MAX_CHARACTERS = 1 << 18
# What zipfile and numpy raise on damaged files; RuntimeError for compressions and passwords.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


def write_moments(
    path: Path, mean: Array, covariance: Array, count: int, provenance: Mapping[str, Any]
) -> None:
    """Write a file that `read_moments` reads, whole or not at all.

    Raises:
        ValueError: The name does not end in `.npz`.
    """
    if path.suffix != ".npz":
        raise ValueError(f"Expected a file that ends in .npz, got {str(path)!r}")
    arrays = {
        "mean": mean,
        "covariance": covariance,
        "count": np.array(count, np.int64),
        "provenance": np.array(json.dumps(dict(provenance))),
    }
    with unfinished_file(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_moments(path: Path) -> tuple[Array, Array, int, dict[str, Any]]:
    """Read mean (size,), covariance (size, size), count and provenance.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            mean = _read_array(archive, "mean", np.float64, _MAX_SIZE)
            covariance = _read_array(archive, "covariance", np.float64, len(mean) ** 2)
            count = _read_array(archive, "count", np.int64, 1)
            text = _read_array(archive, "provenance", np.str_, 1)
        provenance = json.loads(text.item())
    except _UNREADABLE as error:
        raise ValueError(
            f"Expected a file of embedding statistics, {str(path)!r} is none: {error}"
        ) from error
    if covariance.shape != 2 * mean.shape or not isinstance(provenance, dict):
        raise ValueError(
            f"Expected a file of embedding statistics, {str(path)!r} has a mean {mean.shape}, a "
            f"covariance {covariance.shape} and a provenance of {type(provenance).__name__}"
        )
    return mean, covariance, int(count.item()), provenance


def _read_array(archive: zipfile.ZipFile, name: str, kind: type, most: int) -> np.ndarray[Any, Any]:
    """Read an array of at most so many values, whose header is checked before any of it is made."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"`{name}` has the format {version}")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(member)
        count, width = math.prod(shape), dtype.itemsize // np.dtype("U1").itemsize
        is_known = np.issubdtype(dtype, kind) and not is_fortran
        if not is_known or not 0 < count <= most or width > _MAX_CHARACTERS:
            raise ValueError(f"`{name}` is {shape} of {dtype}")
        data = member.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"`{name}` ends early")
    return np.frombuffer(data, dtype).reshape(shape)
