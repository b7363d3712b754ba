"""Map the tensor names of other implementations to ours."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggish_hf.configuration import VGGishConfig

Origin = Literal["tensorflow", "torchvggish", "torchaudio", "vggish_hf"]

_SCOPES = (
    "conv1",
    "conv2",
    "conv3/conv3_1",
    "conv3/conv3_2",
    "conv4/conv4_1",
    "conv4/conv4_2",
    "fc1/fc1_1",
    "fc1/fc1_2",
    "fc2",
)
_FEATURES = (0, 3, 6, 8, 11, 13)
_EMBEDDINGS = (0, 2, 4)
_LISTED_NAMES = 8
_LISTED_CHARACTERS = 60

#: The network's layers, in order.
LAYERS = tuple(scope.rpartition("/")[2] for scope in _SCOPES)


def _name_table(theirs: Iterable[str], kinds: Mapping[str, str]) -> dict[str, str]:
    return {
        f"{their}{kind}": f"{layer}.{ours}"
        for their, layer in zip(theirs, LAYERS, strict=True)
        for kind, ours in kinds.items()
    }


def _sequential_table(features: str, embeddings: str) -> dict[str, str]:
    theirs = [f"{features}.{i}" for i in _FEATURES] + [f"{embeddings}.{i}" for i in _EMBEDDINGS]
    return _name_table(theirs, {".weight": "weight", ".bias": "bias"})


#: Their name of each tensor, and ours.
NAMES: Mapping[Origin, dict[str, str]] = {
    "tensorflow": _name_table(
        (f"vggish/{scope}" for scope in _SCOPES), {"/weights": "weight", "/biases": "bias"}
    ),
    "torchvggish": _sequential_table("features", "embeddings"),
    "torchaudio": _sequential_table("features_network", "embedding_network"),
    "vggish_hf": _name_table(LAYERS, {".weight": "weight", ".bias": "bias"}),
}


def recognize(names: Iterable[str]) -> Origin:
    """Find the implementation by the tensors' names; extra tensors are allowed.

    Raises:
        ValueError: No implementation's names are complete; the message lists those missing from
            the most likely one.
    """
    found = set(names)
    origin = max(NAMES, key=lambda origin: len(found & NAMES[origin].keys()))
    missing = [name for name in NAMES[origin] if name not in found]
    if missing:
        listed = [repr(name[:_LISTED_CHARACTERS]) for name in sorted(found)[:_LISTED_NAMES]]
        more = [f"{len(found) - len(listed)} more"] if len(found) > len(listed) else []
        raise ValueError(
            f"Expected the tensors of a VGGish of {', '.join(NAMES)}; the nearest is {origin}, of "
            f"which {', '.join(missing)} are missing (found: "
            f"{', '.join(listed + more) or 'nothing'})"
        )
    return origin


def find_prefix(names: Iterable[str]) -> str:
    """Return the prefix that an outer module adds to the tensors' names, or nothing.

    Example:
        >>> find_prefix(["model.conv1.weight", "head.weight"]), find_prefix(["conv1.weight"])
        ('model.', '')
    """
    found = set(names)
    firsts = [next(iter(table)) for table in NAMES.values()]
    if found.isdisjoint(firsts):
        for name in sorted(found):
            for first in firsts:
                if name.endswith(f".{first}"):
                    return name.removesuffix(first)
    return ""


def check_dimensions(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check the tensors' numbers of dimensions, the same in all implementations.

    Args:
        shapes: Our name of each tensor, and its shape in any order.

    Raises:
        ValueError: One has another number of dimensions, or no values.
    """
    for name, shape in shapes.items():
        expected = 1 if name.endswith("bias") else 4 if name.startswith("conv") else 2
        if len(shape) != expected or 0 in shape:
            raise ValueError(f"Expected {name} of {expected} dimensions, got the shape {shape}")


def from_tensorflow(variable: NDArray[Any]) -> Tensor:
    """Bring a TensorFlow variable into torch's order of dimensions.

    Args:
        variable: A convolution's (height, width, in, out), a linear layer's (in, out), or a bias.

    Returns:
        (out, in, height, width), (out, in) or the bias, copied: the variable may be an unaligned
        view of a larger block.

    Raises:
        ValueError: It has another number of dimensions.
    """
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}.get(variable.ndim)
    if order is None:
        raise ValueError(f"Expected 1, 2 or 4 dimensions, got the shape {variable.shape}")
    return torch.from_numpy(np.array(variable.transpose(order), order="C"))


def from_torch(value: object) -> Tensor:
    """Copy a tensor from a torch file.

    Returns:
        The tensor, contiguous, copied: two in a file may share memory.

    Raises:
        ValueError: It is not a dense tensor, or has fewer values than it claims.
    """
    if (
        not isinstance(value, Tensor)
        or value.layout != torch.strided
        or value.device.type != "cpu"
        or value.untyped_storage().nbytes() < value.nbytes
    ):
        raise ValueError(f"Expected a dense tensor with all its values, got {type(value).__name__}")
    return value.detach().clone(memory_format=torch.contiguous_format)


def infer_config(shapes: Mapping[str, tuple[int, ...]], *, postprocessor: bool) -> VGGishConfig:
    """Infer the sizes of the layers from the shapes of the tensors.

    The load checks whether they fit each other, and lists every tensor.

    Args:
        shapes: Our name of each tensor, and its shape in torch's order.
        postprocessor: Whether the model gets a post-processor.
    """
    return VGGishConfig(
        conv_channels=tuple(shapes[f"{layer}.weight"][0] for layer in LAYERS[:6]),
        hidden_size=shapes["fc1_1.weight"][0],
        embedding_size=shapes["fc2.weight"][0],
        postprocessor=postprocessor,
    )
