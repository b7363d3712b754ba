"""The names that other implementations gave the network's tensors, and the way to ours."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vggish_hf.configuration import VGGishConfig

#: The network's layers, in order.
LAYERS = ("conv1", "conv2", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "fc1_1", "fc1_2", "fc2")

_SCOPES = ("", "", "conv3/", "conv3/", "conv4/", "conv4/", "fc1/", "fc1/", "")
_FEATURES = (0, 3, 6, 8, 11, 13)
_EMBEDDINGS = (0, 2, 4)

Origin = Literal["tensorflow", "torchvggish", "torchaudio"]


def _sequential_names(features: str, embeddings: str) -> dict[str, str]:
    theirs = [f"{features}.{i}" for i in _FEATURES] + [f"{embeddings}.{i}" for i in _EMBEDDINGS]
    return {
        f"{their}.{kind}": f"{layer}.{kind}"
        for their, layer in zip(theirs, LAYERS, strict=True)
        for kind in ("weight", "bias")
    }


#: Their name of each tensor, and ours.
NAMES: Mapping[Origin, dict[str, str]] = {
    "tensorflow": {
        f"vggish/{scope}{layer}/{theirs}": f"{layer}.{ours}"
        for scope, layer in zip(_SCOPES, LAYERS, strict=True)
        for theirs, ours in (("weights", "weight"), ("biases", "bias"))
    },
    "torchvggish": _sequential_names("features", "embeddings"),
    "torchaudio": _sequential_names("features_network", "embedding_network"),
}


@dataclass(frozen=True)
class NameTable:
    """Which of a checkpoint's tensors are the network's.

    Args:
        origin: The implementation that wrote it.
        names: The name of each of the network's tensors, and ours.
        left_out: Names that are not the network's.
    """

    origin: Origin
    names: dict[str, str]
    left_out: tuple[str, ...]


def recognize(names: Iterable[str]) -> NameTable:
    """Tell by the tensors' names whose checkpoint it is.

    Raises:
        ValueError: No implementation's names are all there; the message lists the missing ones of
            the most likely one.
    """
    found = set(names)
    origin = max(NAMES, key=lambda origin: len(found & set(NAMES[origin])))
    missing = [name for name in NAMES[origin] if name not in found]
    if missing:
        listed = ", ".join(sorted(found)[:8]) + (", ..." if len(found) > 8 else "")
        raise ValueError(
            f"Expected the tensors of a VGGish of {', '.join(NAMES)}; the nearest is {origin}, of "
            f"which {', '.join(missing)} are missing (found: {listed or 'nothing'})"
        )
    return NameTable(origin, NAMES[origin], tuple(sorted(found - set(NAMES[origin]))))


def from_tensorflow(variable: np.ndarray) -> Tensor:
    """Bring a TensorFlow variable into torch's order of dimensions.

    Args:
        variable: A convolution's (height, width, in, out), a linear layer's (in, out), or a bias.

    Returns:
        (out, in, height, width), (out, in) or the bias, contiguous.
    """
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}.get(variable.ndim)
    if order is None:
        raise ValueError(f"Expected a variable of 1, 2 or 4 dimensions, got {variable.shape}")
    return torch.from_numpy(np.ascontiguousarray(variable.transpose(order)))


def infer_config(shapes: Mapping[str, tuple[int, ...]], *, postprocessor: bool) -> VGGishConfig:
    """Tell the sizes of the layers from the shapes of the tensors.

    Args:
        shapes: Our name of each tensor, and its shape in torch's order.
        postprocessor: Whether the model gets a post-processor.

    Raises:
        ValueError: The shapes are not those of a VGGish: the number of dimensions is wrong, or
            fc1_1 does not take what the convolutions give.
    """
    for layer in LAYERS:
        expected = 4 if layer.startswith("conv") else 2
        shape = shapes[f"{layer}.weight"]
        if len(shape) != expected or len(shapes[f"{layer}.bias"]) != 1 or 0 in shape:
            raise ValueError(f"Expected weights of {expected} dimensions for {layer}, got {shape}")
    return VGGishConfig(
        conv_channels=tuple(shapes[f"{layer}.weight"][0] for layer in LAYERS[:6]),
        hidden_size=shapes["fc1_1.weight"][0],
        embedding_size=shapes["fc2.weight"][0],
        postprocessor=postprocessor,
    )
