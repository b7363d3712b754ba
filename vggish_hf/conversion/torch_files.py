"""Read what torch or numpy saved, without running what a pickle asks for."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ZIP_MAGIC = b"PK\x03\x04"
# How torch began its files before it saved zips: a pickled number.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

_EIGENVECTORS, _MEANS = "pca_eigen_vectors", "pca_means"
_MAX_PCA_BYTES = 1 << 24


def is_torch_file(path: Path) -> bool:
    """Tell by content whether torch (or numpy, as .npz) saved a file."""
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_MAGIC))
    return start.startswith((_ZIP_MAGIC, _LEGACY_MAGIC))


def load_torch_file(path: Path) -> dict[str, Any]:
    """Read the dict that torch saved, of tensors or numpy arrays.

    Raises:
        ValueError: The file is damaged, holds no dict, or needs more than tensors and arrays.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            packed = [info for info in archive.infolist() if info.compress_type]
        # torch never compresses; what does could unpack to any size.
        if packed:
            raise ValueError(f"Expected a file that torch saved; {str(path)!r} is compressed")
    reconstruct = np.empty(0).__reduce__()[0]  # the function in an array's pickle
    array_types: list[Any] = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *(type(np.dtype(name)) for name in ("float32", "float64")),
    ]
    try:
        with torch.serialization.safe_globals(array_types):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may provoke any of them
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"torch cannot read {str(path)!r}: {reason[0]}") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise ValueError(
            f"Expected a dict of tensors in {str(path)!r}, got {type(loaded).__name__}"
        )
    return loaded


def load_pca(path: Path) -> tuple[Tensor, Tensor]:
    """Read the post-processor's parameters: the original .npz, or torchvggish's .pth.

    Returns:
        The eigenvectors (size, size) and the means (size,), float32.

    Raises:
        ValueError: The file is neither, or its shapes or values make no PCA.
    """
    members: dict[str, int] = {}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info.file_size for info in archive.infolist()}
    if {f"{_EIGENVECTORS}.npy", f"{_MEANS}.npy"} <= members.keys():
        if sum(members.values()) > _MAX_PCA_BYTES:
            raise ValueError(f"Expected a PCA of at most 16 MiB, {str(path)!r} unpacks to more")
        try:
            with np.load(path, allow_pickle=False) as archive:
                values = {name: archive[name] for name in (_EIGENVECTORS, _MEANS)}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"numpy cannot read {str(path)!r}: {error}") from error
    elif is_torch_file(path):
        values = load_torch_file(path)
    else:
        raise ValueError(f"Expected a PCA as .npz or .pth, {str(path)!r} is neither")
    if not {_EIGENVECTORS, _MEANS} <= values.keys():
        raise ValueError(
            f"Expected {_EIGENVECTORS!r} and {_MEANS!r} in {str(path)!r}, found "
            f"{', '.join(map(repr, values)) or 'nothing'}"
        )
    eigenvectors = torch.as_tensor(values[_EIGENVECTORS])
    means = torch.as_tensor(values[_MEANS]).flatten()
    if eigenvectors.shape != (len(means), len(means)):
        raise ValueError(
            f"Expected eigenvectors (size, size) and means (size,) in {str(path)!r}, got "
            f"{tuple(eigenvectors.shape)} and {tuple(means.shape)}"
        )
    if not eigenvectors.is_floating_point() or not all(
        torch.isfinite(values).all() for values in (eigenvectors, means)
    ):
        raise ValueError(f"Expected finite floats in {str(path)!r}")
    return eigenvectors.float(), means.float()
