"""Loading weights so that nothing is ever left random."""

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn


def load_strictly(model: nn.Module, path: Path) -> None:
    """Give every tensor of a model built on the meta device its value from a safetensors file.

    Args:
        model: The model, whose tensors are on the meta device.
        path: The file; it stays mapped into memory as long as its tensors are used.

    Raises:
        ValueError: The file is no safetensors file, or its names and shapes are not exactly the
            model's; the message lists every one that differs.
    """
    try:
        found = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"Expected a safetensors file, got {str(path)!r}: {error}") from error
    assign_strictly(model, found, str(path))


def assign_strictly(model: nn.Module, found: dict[str, Tensor], origin: str) -> None:
    """Give every tensor of a model built on the meta device its value from a dict.

    Raises:
        ValueError: The names and shapes are not exactly the model's; the message names `origin` and
            lists every one that differs.
    """
    problems = compare_state_dicts(model.state_dict(), found)
    if problems:
        lines = "\n  ".join(problems)
        raise ValueError(f"Expected {origin!r} to hold exactly the config's tensors:\n  {lines}")
    model.load_state_dict(found, strict=True, assign=True)


def compare_state_dicts(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """Say in one line each which tensors are missing, unexpected, misshapen or not floats."""
    problems = []
    for name, tensor in expected.items():
        shape = tuple(tensor.shape)
        if name not in found:
            problems.append(f"missing    {name}: expected {shape}")
        elif found[name].shape != tensor.shape:
            got = tuple(found[name].shape)
            problems.append(f"misshapen  {name}: expected {shape}, found {got}")
        elif not found[name].is_floating_point():
            problems.append(f"mistyped   {name}: expected floats, found {found[name].dtype}")
    problems.extend(
        f"unexpected {name}: found {tuple(tensor.shape)}"
        for name, tensor in found.items()
        if name not in expected
    )
    return problems
