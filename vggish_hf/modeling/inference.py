"""The fastest way to call a model with its current weights."""

import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from vggish_hf.configuration import VGGishConfig
from vggish_hf.modeling.loading import read_tensor
from vggish_hf.modeling.onednn import Operators, find_operators
from vggish_hf.modeling.packed import PackedNetwork
from vggish_hf.modeling.vggish import VGGishModel

Network = Callable[[Tensor], Tensor]

# Methods that libraries replace in a module, for example to move its weights on a call.
_METHODS = ("forward", "trunk", "_conv_forward")
_GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
# Compared elements of each parameter, in as many pages of memory.
_NUM_PROBES = 16
_INTEGERS = {2: torch.int16, 4: torch.int32}


def can_be_packed(model: VGGishModel) -> bool:
    """Whether a `PackedNetwork` gives the same as this model, on this machine."""
    return why_not_packed(model) is None


def why_not_packed(model: VGGishModel) -> str | None:
    """Say why a model cannot be packed, or None.

    A `PackedNetwork` is for a float32 model on an x86 CPU, and a bfloat16 one if the CPU multiplies
    bfloat16, unless the model was changed: a subclass, another module for a layer (LoRA, a
    quantised one), a layer of other sizes, a replaced method, or a hook, also a global one.
    """
    operators = find_operators()
    if isinstance(operators, str):
        return operators
    if not torch.backends.mkldnn.enabled:
        return "torch.backends.mkldnn.enabled is False"
    parameters = list(model.parameters())
    if any(parameter.device.type != "cpu" for parameter in parameters):
        return "the weights are not on the CPU"
    dtypes = {parameter.dtype for parameter in parameters}
    if len(dtypes) != 1 or not dtypes <= set(operators.dtypes):
        names = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"oneDNN does not compute in {', '.join(names)} here"
    if any(parameter.is_inference() for parameter in parameters):
        return "the weights were made in inference mode, where no change of them is counted"
    if not _is_plain(model, operators):
        return "the model was changed: a subclass, a hook, another layer or another method"
    return None


def _is_plain(model: VGGishModel, operators: Operators) -> bool:
    """Whether calling the model does only what `VGGishModel` does."""
    changed = any(
        operators.has_hooks(module) or any(name in vars(module) for name in _METHODS)
        for module in model.modules()
    )
    if changed or operators.has_any_global_hook():
        return False
    return type(model) is VGGishModel and _structure(model) == _plain_structure(model.config)


def _structure(model: VGGishModel) -> tuple[Any, ...]:
    """The layers with their geometry, and their parameters' types and shapes.

    A quantised or distributed parameter has another type. The number of parameters shows others,
    and one that two layers share.
    """
    layers = [
        (
            name,
            type(layer),
            [vars(layer).get(attribute) for attribute in _GEOMETRY],
            [
                (key, type(value), value.shape if value is not None else None)
                for key, value in layer._parameters.items()
            ],
        )
        for name, layer in model._modules.items()
        if layer is not None
    ]
    return layers, len(list(model.parameters()))


@lru_cache(maxsize=8)
def _plain_structure(config: VGGishConfig) -> tuple[Any, ...]:
    with torch.device("meta"):
        return _structure(VGGishModel(config))


class InferenceNetworks:
    """Keeps a model's packed network as long as the model's weights are the same.

    It notices a weight that is replaced or written to. It notices writes that torch doesn't count,
    by `data` (merged adapters, moving averages) or a fused optimizer, by a few elements of each
    parameter, and so may miss a write to a few elements or rows of one parameter.

    Args:
        model: A newly loaded model, or None.
        weights_path: Its safetensors file. If both are unchanged, packing reads the weights from
            there again: the model's own, which are mapped, then take almost no memory.
    """

    def __init__(self, model: VGGishModel | None = None, weights_path: Path | None = None) -> None:
        self._loaded: tuple[_Snapshot, Path, Any] | None = None
        if model is not None and weights_path is not None and can_be_packed(model):
            self._loaded = _Snapshot(model), weights_path, _file_state(weights_path)
        # None as network: call the model itself.
        self._packed: tuple[_Snapshot, PackedNetwork | None] | None = None

    def fastest(self, model: VGGishModel) -> Network:
        """Return the function to call instead of the model, (..., 96, 64) to (..., 128)."""
        if not can_be_packed(model):
            return model
        packed = self._packed
        if packed is None or not packed[0].is_of(model):
            snapshot = _Snapshot(model)
            operators = find_operators()
            assert not isinstance(operators, str)  # else it could not be packed
            network = PackedNetwork(model.config, self._weights(model), model.dtype, operators)
            # Its ReLU turns NaN into zero, unlike the model's.
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
        """Drop packed weights and addresses, which are useless in another process."""
        return {**vars(self), "_loaded": None, "_packed": None}


class _Snapshot:
    """A model's parameters at one time."""

    def __init__(self, model: VGGishModel) -> None:
        parameters = list(model.parameters())
        self._config = model.config
        self._parameters = [weakref.ref(parameter) for parameter in parameters]
        self._versions = [(value.data_ptr(), value._version) for value in parameters]
        self._probes = [_probe(parameter) for parameter in parameters]
        self._values = self._read()

    def is_of(self, model: VGGishModel) -> bool:
        """Whether the model, which can be packed, has the same, unwritten parameters."""
        parameters = list(model.parameters())
        # First compare identity: a new parameter may have the address of a freed one.
        return (
            all(old() is new for old, new in zip(self._parameters, parameters, strict=True))
            and self._versions == [(value.data_ptr(), value._version) for value in parameters]
            and self._values == self._read()
            and self._config == model.config
        )

    def _read(self) -> bytes:
        return b"".join(probe.tobytes() for probe in self._probes)


def _probe(parameter: Tensor) -> NDArray[Any]:
    """A view of a few elements from the first to the last, as integers: NaN differs from itself.

    In a matrix they are in different rows and columns. numpy reads so few in a tenth of torch's
    time.
    """
    span = 1 + sum(
        (n - 1) * step for n, step in zip(parameter.shape, parameter.stride(), strict=True)
    )
    step = max((span - 1) // (_NUM_PROBES - 1), 1)
    places = min(_NUM_PROBES, (span - 1) // step + 1)
    values = parameter.detach().as_strided((places,), (step,), parameter.storage_offset())
    integers: NDArray[Any] = values.view(_INTEGERS[parameter.element_size()]).numpy()
    return integers


def _file_state(path: Path) -> Any:
    """A value that changes when a file is replaced or written to; None without file."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns
