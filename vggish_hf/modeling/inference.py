"""The fastest way to call a model with the weights that it has now."""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggish_hf.modeling.loading import read_tensor
from vggish_hf.modeling.packed import PackedNetwork
from vggish_hf.modeling.postprocessor import VGGishPostprocessor
from vggish_hf.modeling.vggish import VGGishModel

Network = Callable[[Tensor], Tensor]

_PLAIN_MODULES = (VGGishModel, nn.Conv2d, nn.Linear, VGGishPostprocessor)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def can_be_packed(model: VGGishModel) -> bool:
    """Whether a `PackedNetwork` gives what calling this model gives, on this machine.

    It does for a float32 model on an x86 CPU, and a bfloat16 one where the CPU multiplies bfloat16,
    unless the model was changed: a subclass, another module in place of a layer (LoRA, a quantised
    one), or a hook.
    """
    backend = torch.backends.mkldnn
    if not (torch._C._has_mkldnn and backend.enabled) or model.device.type != "cpu":
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return False  # never measured there
    dtypes = [torch.float32]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.append(torch.bfloat16)
    plain = all(
        type(module) in _PLAIN_MODULES and not any(getattr(module, name) for name in _HOOKS)
        for module in model.modules()
    )
    parameters = list(model.parameters())
    mixed = len({parameter.dtype for parameter in parameters}) > 1
    # Of those that were made in inference mode nobody could tell whether they have changed.
    tracked = not any(parameter.is_inference() for parameter in parameters)
    return plain and not mixed and tracked and model.dtype in dtypes


class InferenceNetworks:
    """Keeps the packed network of a model, for as long as the model's weights are the same.

    A weight that is replaced or written to is noticed, unless it was written to by its `data`.

    Args:
        model: A model that was just loaded, or None.
        weights_path: The safetensors file it was loaded from. Packing reads the weights from there
            again, if both are unchanged: the model's own, which are mapped into memory, are then
            never touched, and take none.
    """

    def __init__(self, model: VGGishModel | None = None, weights_path: Path | None = None) -> None:
        self._path = weights_path
        self._loaded = self._state_of_both(model) if model is not None else None
        self._packed: tuple[Any, PackedNetwork] | None = None

    def fastest(self, model: VGGishModel) -> Network:
        """Give what to call in place of the model, (batch, 96, 64) to (batch, 128)."""
        if not can_be_packed(model):
            return model
        state = _state(model)
        if self._packed is None or self._packed[0] != state:
            weights: Callable[[str], Tensor] = model.get_parameter
            if self._path is not None and self._loaded == self._state_of_both(model):
                path = self._path
                weights = lambda name: read_tensor(path, name)  # noqa: E731
            self._packed = state, PackedNetwork(model.config, weights, model.dtype)
        return self._packed[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out packed weights, which no other process could read."""
        return {**vars(self), "_packed": None}

    def _state_of_both(self, model: VGGishModel) -> tuple[Any, ...] | None:
        try:
            file = self._path.stat() if self._path is not None else None
        except FileNotFoundError:
            return None
        return _state(model), file and (file.st_ino, file.st_size, file.st_mtime_ns)


def _state(model: VGGishModel) -> list[tuple[int, int]]:
    """What changes when a parameter does."""
    return [(parameter.data_ptr(), parameter._version) for parameter in model.parameters()]
