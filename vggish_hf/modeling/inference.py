"""The fastest way to call a model with the weights that it has now."""

import platform
import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook

from vggish_hf.configuration import VGGishConfig
from vggish_hf.modeling.loading import read_tensor
from vggish_hf.modeling.packed import PackedNetwork
from vggish_hf.modeling.vggish import VGGishModel

Network = Callable[[Tensor], Tensor]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What libraries replace in one module alone, for example to move its weights when it is called.
_METHODS = ("forward", "trunk", "_conv_forward")
# Elements of each parameter that are compared, in as many pages of memory.
_NUM_PROBES = 16


def can_be_packed(model: VGGishModel) -> bool:
    """Whether a `PackedNetwork` gives what calling this model gives, on this machine.

    It does for a float32 model on an x86 CPU, and a bfloat16 one where the CPU multiplies bfloat16,
    unless the model was changed: a subclass, another module in place of a layer (LoRA, a quantised
    one), a layer of other sizes, a method replaced, or a hook, be it for all modules.
    """
    backend = torch.backends.mkldnn
    if not (torch._C._has_mkldnn and backend.enabled) or model.device.type != "cpu":
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return False  # never measured there
    dtypes = [torch.float32]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.append(torch.bfloat16)
    parameters = list(model.parameters())
    mixed = len({parameter.dtype for parameter in parameters}) > 1
    # Of those that were made in inference mode nobody could tell whether they have changed.
    tracked = not any(parameter.is_inference() for parameter in parameters)
    return not mixed and tracked and model.dtype in dtypes and _is_plain(model)


def _is_plain(model: VGGishModel) -> bool:
    """Whether calling the model does what `VGGishModel` says, and nothing else."""
    changed = any(
        any(getattr(module, name) for name in _HOOKS)
        or any(name in vars(module) for name in _METHODS)
        for module in model.modules()
    )
    if changed or _has_any_global_hook():  # type: ignore[no-untyped-call]
        return False
    return _structure(model) == _plain_structure(model.config)


def _structure(model: VGGishModel) -> tuple[Any, ...]:
    """The modules with their geometry, as `print` shows it, and the parameters with their shapes.

    A quantised or distributed parameter is of another type.
    """
    modules = [(name, type(module), module.extra_repr()) for name, module in model.named_modules()]
    return modules, [(name, type(value), value.shape) for name, value in model.named_parameters()]


@lru_cache(maxsize=8)
def _plain_structure(config: VGGishConfig) -> tuple[Any, ...]:
    with torch.device("meta"):
        return _structure(VGGishModel(config))


class InferenceNetworks:
    """Keeps the packed network of a model, for as long as the model's weights are the same.

    A weight that is replaced or written to is noticed. Writes that torch doesn't count, by `data`
    (merged adapters, moving averages) or by a fused optimizer, are noticed by the values of a few
    elements of each parameter: not so one that leaves all of these as they are, as a write to a
    few elements or rows of one parameter may.

    Args:
        model: A model that was just loaded, or None.
        weights_path: The safetensors file it was loaded from. Packing reads the weights from there
            again, if both are unchanged: the model's own, which are mapped into memory, are then
            hardly touched, and take next to none.
    """

    def __init__(self, model: VGGishModel | None = None, weights_path: Path | None = None) -> None:
        self._loaded: tuple[_Snapshot, Path, Any] | None = None
        if model is not None and weights_path is not None and can_be_packed(model):
            self._loaded = _Snapshot(model), weights_path, _file_state(weights_path)
        # Without a network: the model is to be called itself.
        self._packed: tuple[_Snapshot, PackedNetwork | None] | None = None

    def fastest(self, model: VGGishModel) -> Network:
        """Give what to call in place of the model, (..., 96, 64) to (..., 128)."""
        if not can_be_packed(model):
            return model
        packed = self._packed
        if packed is None or not packed[0].is_of(model):
            snapshot = _Snapshot(model)
            network = PackedNetwork(model.config, self._weights(model), model.dtype)
            # Its ReLU makes zero of a NaN, with which the model's own goes on.
            self._packed = packed = snapshot, network if network.is_finite else None
        return packed[1] or model

    def _weights(self, model: VGGishModel) -> Callable[[str], Tensor]:
        if self._loaded is not None:
            snapshot, path, state = self._loaded
            if state is not None and state == _file_state(path) and snapshot.is_of(model):
                return lambda name: read_tensor(path, name)
            self._loaded = None
        return model.get_parameter

    def __getstate__(self) -> dict[str, Any]:
        """Leave out packed weights and addresses, which say nothing in another process."""
        return {**vars(self), "_loaded": None, "_packed": None}


class _Snapshot:
    """What a model's parameters were at one time; keeps none of them alive."""

    def __init__(self, model: VGGishModel) -> None:
        self._parameters = [weakref.ref(parameter) for parameter in model.parameters()]
        self._state = _state(model)

    def is_of(self, model: VGGishModel) -> bool:
        """Whether the model, one that can be packed, has the same parameters, not written to."""
        # First of all the same ones: what is new may lie where another was that has been freed.
        pairs = zip(self._parameters, model.parameters(), strict=True)
        return all(old() is new for old, new in pairs) and self._state == _state(model)


@torch.no_grad()
def _state(model: VGGishModel) -> tuple[Any, ...]:
    """What changes when a parameter is written to: 0.1 ms."""
    parameters = list(model.parameters())
    values = torch.cat([value.take(_probes(value.numel())) for value in parameters])
    bits = values.view(torch.uint8).numpy().tobytes()  # a NaN does not equal itself
    return model.config, [(value.data_ptr(), value._version) for value in parameters], bits


@lru_cache(maxsize=64)
def _probes(size: int) -> Tensor:
    """Positions from the first element to the last, in different rows and columns of a matrix."""
    return torch.linspace(0, size - 1, _NUM_PROBES, dtype=torch.float64).long()


def _file_state(path: Path) -> Any:
    """What changes when a file is replaced or written to; None where there is none."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns
