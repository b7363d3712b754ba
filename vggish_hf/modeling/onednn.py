"""oneDNN's operators, private in torch: found and tested once.

This module has every private torch name of the package. If one is missing, raises or gives other
numbers, the model itself is called: slower, with the same numbers.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Attributes in which torch keeps a module's hooks.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Allowed relative error per dtype in the test.
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Operators:
    """oneDNN's operators, and the dtypes in which they agree with torch's."""

    pack_convolution: Callable[..., Tensor]
    convolution: Callable[..., Tensor]
    pack_linear: Callable[..., Tensor]
    linear: Callable[..., Tensor]
    has_any_global_hook: Callable[[], bool]
    dtypes: tuple[torch.dtype, ...] = ()

    def pack_weight(self, weight: Tensor, input_shape: list[int]) -> Tensor:
        """Lay out the weight of a convolution or a linear layer for inputs of a shape."""
        if weight.ndim == 2:
            return self.pack_linear(weight, input_shape[0])
        return self.pack_convolution(weight.to_mkldnn(), [1, 1], [1, 1], [1, 1], 1, input_shape)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve (batch, channels, height, width) by 3 x 3, padded by one, and clip at zero."""
        return self.convolution(x, weight, bias, [1, 1], [1, 1], [1, 1], 1, "relu", [], "")

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        """Multiply (batch, in) by (out, in), and clip at zero for the activation `"relu"`."""
        return self.linear(x, weight, bias, activation, [], "")

    @staticmethod
    def has_hooks(module: nn.Module) -> bool:
        """Whether a module has its own hooks."""
        return any(getattr(module, name) for name in _HOOKS)


@lru_cache(maxsize=1)
def find_operators() -> Operators | str:
    """Find and test the operators, once per process, or say why they cannot be used."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch has no oneDNN"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"never measured on {platform.machine()}"
    try:
        module = nn.modules.module
        operators = Operators(
            torch._C._nn.mkldnn_reorder_conv2d_weight,
            torch.ops.mkldnn._convolution_pointwise,
            torch.ops.mkldnn._reorder_linear_weight,
            torch.ops.mkldnn._linear_pointwise,
            module._has_any_global_hook,
        )
        operators.has_any_global_hook()
        Operators.has_hooks(nn.Identity())
        dtypes = tuple(_working_dtypes(operators))
    except Exception as error:  # noqa: BLE001 - a private name may fail in any way
        return f"torch {torch.__version__} lacks a private operator: {error}"
    if not dtypes:
        return f"oneDNN's operators of torch {torch.__version__} give other numbers"
    return Operators(**{**vars(operators), "dtypes": dtypes})


def _working_dtypes(operators: Operators) -> Iterator[torch.dtype]:
    with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        for dtype, tolerance in _TOLERANCES.items():
            if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
                continue
            if _trial_error(operators, dtype) <= tolerance:
                yield dtype


def _trial_error(operators: Operators, dtype: torch.dtype) -> float:
    """The relative error of a small convolution and a small matrix, against float64."""
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
        return values.to(dtype)

    x, weight, bias = draw(2, 3, 8, 8), draw(16, 3, 3, 3), draw(16)
    x = x.contiguous(memory_format=torch.channels_last)
    packed = operators.pack_weight(weight, list(x.shape))
    found = [operators.convolve(x, packed, bias)]
    expected = [F.relu(F.conv2d(x.double(), weight.double(), bias.double(), padding=1))]
    x, weight, bias = draw(2, 32), draw(16, 32), draw(16)
    packed = operators.pack_weight(weight, [2, 32])
    for activation, function in (("relu", F.relu), ("none", nn.Identity())):
        found.append(operators.multiply(x, packed, bias, activation))
        expected.append(function(F.linear(x.double(), weight.double(), bias.double())))
    pairs = zip(found, expected, strict=True)
    return max(float((a.double() - b).norm() / b.norm()) for a, b in pairs)


def describe() -> dict[str, Any]:
    """How the network runs on a CPU, and why; ready for JSON."""
    operators = find_operators()
    if isinstance(operators, str):
        reason = operators
    elif not torch.backends.mkldnn.enabled:
        reason = "torch.backends.mkldnn.enabled is False"
    else:
        names = [str(dtype).removeprefix("torch.") for dtype in operators.dtypes]
        return {"network": "packed", "reason": f"oneDNN computes in {' and '.join(names)}"}
    return {"network": "plain", "reason": reason}
