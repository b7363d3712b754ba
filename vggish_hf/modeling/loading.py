"""Weights from and to safetensors files; no weight is ever left random."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from vggish_hf._runtime.files import unfinished_file

#: The network's dtypes; others, such as 8-bit floats, are only for storage.
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a network's dtype from the dtype or its name.

    Raises:
        ValueError: The network does not compute in it.

    Example:
        >>> parse_dtype("bfloat16")
        torch.bfloat16
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(
            f"Expected `dtype` to be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}"
        )
    return DTYPES[name]


def check_device(device: torch.device | str) -> torch.device:
    """Check that this machine has a device, and return it.

    Raises:
        ValueError: This machine lacks the device.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"Expected a device of this machine, got {str(device)!r}: {reason}"
        ) from error


def load_strictly(model: nn.Module, path: Path) -> None:
    """Load every tensor of a model built on the meta device from a safetensors file.

    Args:
        model: The model, whose tensors are on the meta device.
        path: The file; it stays mapped while its tensors are used, privately: changes of the
            tensors do not reach the file.

    Raises:
        ValueError: The file is not a safetensors file, or its names and shapes are not exactly the
            model's; the message lists every difference.
    """
    try:
        found = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"Expected a safetensors file, got {str(path)!r}: {error}") from error
    assign_strictly(model, found, str(path))


def read_tensor(path: Path, name: str) -> Tensor:
    """Map one tensor of a safetensors file into memory; its pages are freed with it."""
    with safetensors.safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def assign_strictly(model: nn.Module, found: dict[str, Tensor], origin: str) -> None:
    """Set every tensor of a model built on the meta device from a dict.

    Args:
        model: The model, whose tensors are on the meta device.
        found: The values by name; they are not copied.
        origin: Their source, for the message.

    Raises:
        ValueError: The names and shapes are not exactly the model's; the message lists every
            difference.
    """
    problems = compare_state_dicts(model.state_dict(), found)
    if problems:
        lines = "\n  ".join(problems)
        raise ValueError(f"Expected {origin!r} to hold exactly the config's tensors:\n  {lines}")
    model.load_state_dict(found, strict=True, assign=True)


def compare_state_dicts(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """List missing, unexpected, misshapen and non-float tensors, one per line."""
    problems = []
    for name, tensor in expected.items():
        shape = tuple(tensor.shape)
        if name not in found:
            problems.append(f"missing    {name}: expected {shape}")
            continue
        got, dtype = tuple(found[name].shape), found[name].dtype
        if got != shape:
            problems.append(f"misshapen  {name}: expected {shape}, found {got}")
        elif dtype not in DTYPES.values():
            problems.append(f"mistyped   {name}: expected {shape} of float, found {got} of {dtype}")
    problems.extend(
        f"unexpected {name}: found {tuple(tensor.shape)}"
        for name, tensor in found.items()
        if name not in expected
    )
    return problems


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; it appears only when it is complete.

    Args:
        tensors: The values by name, in any memory layout.
        path: The file. The tensors may be mapped from it, so it is replaced, never overwritten.

    Raises:
        OSError: It cannot be written.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with unfinished_file(path) as unfinished:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        try:
            safetensors.torch.save_file(contiguous, unfinished, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise OSError(f"{str(path)!r} cannot be written: {error}") from error
        unfinished.chmod(mode)  # it is created readable only for the owner, ignoring the umask
