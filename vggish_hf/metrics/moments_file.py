"""Files of a baseline's moments: `.npz` without pickle, sizes checked before reading."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.metrics.frechet import Array
from vggish_hf.outputs.npz_members import NpzArray, open_npz
from vggish_hf.outputs.reading import parse_json

# Thirty times the size of VGGish's: an untrusted file must not fill the memory.
_MAX_SIZE = 4096
_MAX_TEXT_BYTES = 1 << 20  # four a character


@dataclass(frozen=True)
class Moments:
    """The content of a file of statistics."""

    mean: Array
    covariance: Array
    count: int
    provenance: dict[str, Any]
    clips: int | None
    """None if the file does not say."""


def write_moments(
    path: Path,
    mean: Array,
    covariance: Array,
    count: int,
    provenance: Mapping[str, Any],
    clips: int | None,
) -> None:
    """Write a file for `read_moments`; it appears only when it is complete.

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
    if clips is not None:
        arrays["clips"] = np.array(clips, np.int64)
    with unfinished_file(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type] # names of numpy's own options are others


def read_moments(path: Path) -> Moments:
    """Read mean (size,), covariance (size, size), count, provenance and number of clips.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It has other content.
    """
    with open_npz(path, "a file of embedding statistics") as archive:
        mean = NpzArray(archive, "mean").check(np.float64, _MAX_SIZE).read_all()
        covariance = NpzArray(archive, "covariance").check(np.float64, len(mean) ** 2).read_all()
        count = NpzArray(archive, "count").check(np.int64, 1).read_all()
        text = NpzArray(archive, "provenance")
        text.check(np.str_, 1, max_item_bytes=_MAX_TEXT_BYTES)
        provenance = parse_json(text.read_all().item())
        if not isinstance(provenance, dict):
            raise ValueError(f"it has a provenance of {type(provenance).__name__}")
        clips = None
        if "clips.npy" in archive.namelist():
            clips = int(NpzArray(archive, "clips").check(np.int64, 1).read_all().item())
            if clips < 0:
                raise ValueError(f"`clips` is {clips}")
        if covariance.shape != 2 * mean.shape:
            raise ValueError(f"it has a mean {mean.shape} and a covariance {covariance.shape}")
    return Moments(mean, covariance, int(count.item()), provenance, clips)
