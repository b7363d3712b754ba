"""Read files of torch or numpy, without running code in a pickle."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vggish_hf.conversion.state_dicts import from_torch

_ZIP_MAGIC = b"PK\x03\x04"
# How torch files began before torch saved zips: a pickled number.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

_PCA_NAMES = ("pca_eigen_vectors", "pca_means")
_MAX_PCA_BYTES = 1 << 24


def is_torch_file(path: Path) -> bool:
    """Tell by content whether torch (or numpy, as .npz) saved a file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_LEGACY_MAGIC)).startswith((_ZIP_MAGIC, _LEGACY_MAGIC))


def load_torch_file(path: Path) -> dict[str, Any]:
    """Read the dict that torch saved, of tensors or numpy arrays.

    Args:
        path: The file, a zip or the older format.

    Raises:
        ValueError: The file is damaged, not a dict, or needs more than tensors and arrays.
    """
    try:
        _check_stored(path)
        # Leaving the context also removes what was allowed before.
        allowed = torch.serialization.get_safe_globals()
        added = [kind for kind in _array_types() if kind not in allowed]
        with torch.serialization.safe_globals(added):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise any of them
        raise ValueError(f"torch cannot read {str(path)!r}: {_reason(error)}") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise ValueError(
            f"Expected a dict of tensors in {str(path)!r}, got {type(loaded).__name__}"
        )
    return loaded


def _check_stored(path: Path) -> None:
    """Refuse a zip that unpacks to more than it has: torch compresses nothing."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError("it is compressed, which nothing that torch saved is")


def _array_types() -> list[Any]:
    """The types in a numpy array's pickle, by the module's old and new name."""
    reconstruct = np.empty(0).__reduce__()[0]
    return [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *(type(np.dtype(name)) for name in ("float32", "float64")),
    ]


def _reason(error: Exception) -> str:
    """One line of an error, without torch's advice to load the file unsafely."""
    text = str(error).strip()
    if refused := re.search(r"GLOBAL (\S+)", text):
        return f"it asks for {refused[1]}, which is no part of a tensor or an array"
    return text.rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0] or repr(error)


def load_pca(path: Path) -> tuple[Tensor, Tensor]:
    """Read the post-processor's parameters: the original .npz, or torchvggish's .pth.

    Args:
        path: The file; its kind is read from content.

    Returns:
        The eigenvectors (size, size) and the means (size,), float32, which holds the published
        values exactly.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is neither, or its shapes or values are invalid.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a PCA as .npz or .pth, there is no file {str(path)!r}")
    values = _load_npz(path) or (load_torch_file(path) if is_torch_file(path) else {})
    if not values.keys() >= set(_PCA_NAMES):
        raise ValueError(
            f"Expected a PCA as .npz or .pth, with {_PCA_NAMES[0]!r} and {_PCA_NAMES[1]!r}, "
            f"got {str(path)!r}, which lacks them"
        )
    eigenvectors, means = (_finite(values[name], name, path) for name in _PCA_NAMES)
    means = means.flatten()
    if eigenvectors.shape != (len(means), len(means)):
        raise ValueError(
            f"Expected eigenvectors (size, size) and means (size,) in {str(path)!r}, got "
            f"{tuple(eigenvectors.shape)} and {tuple(means.shape)}"
        )
    return eigenvectors, means


def _load_npz(path: Path) -> Mapping[str, Any]:
    """Read the two arrays of an .npz; nothing if it is another file."""
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if not sizes.keys() >= {f"{name}.npy" for name in _PCA_NAMES}:
            return {}
        if sum(sizes.values()) > _MAX_PCA_BYTES:
            raise ValueError("it unpacks to more than 16 MiB")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in _PCA_NAMES}
    except Exception as error:  # a damaged zip may raise any of them
        raise ValueError(f"numpy cannot read {str(path)!r}: {_reason(error)}") from error


def _finite(value: Any, name: str, path: Path) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        value = torch.from_numpy(value.astype(np.float32))
    if isinstance(value, Tensor) and value.is_floating_point():
        tensor = from_torch(value).float()
        if tensor.isfinite().all():
            return tensor
    raise ValueError(f"Expected {name!r} of finite floats in {str(path)!r}")
