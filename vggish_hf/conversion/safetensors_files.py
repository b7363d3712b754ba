"""Read safetensors files, and find the weights in a folder as transformers saves it."""

from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

#: The files of weights that a folder may have, by preference.
WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")

# Eight bytes hold the size of the header, a JSON object; safetensors reads at most this size.
_SIZE_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


def find_weights(path: Path) -> Path:
    """Return the file of weights in a folder; other paths unchanged.

    Raises:
        ValueError: The folder has none.
    """
    if not path.is_dir():
        return path
    found = [path / name for name in WEIGHTS_NAMES if (path / name).is_file()]
    if not found:
        raise ValueError(
            f"Expected {' or '.join(WEIGHTS_NAMES)} in {str(path)!r}, it has neither; pass the "
            "checkpoint's file"
        )
    return found[0]


def is_safetensors(path: Path) -> bool:
    """Tell by content whether it is a safetensors file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_SIZE_BYTES + 1)
    size = int.from_bytes(head[:_SIZE_BYTES], "little")
    return head[_SIZE_BYTES:] == b"{" and size <= _MAX_HEADER_BYTES


def load_safetensors(path: Path) -> dict[str, Any]:
    """Read the tensors of a file.

    Raises:
        ValueError: It is damaged.
    """
    try:
        tensors: dict[str, Any] = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"safetensors cannot read {str(path)!r}: {error}") from error
    return tensors
