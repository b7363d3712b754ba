"""The post-processor of the released AudioSet embeddings: PCA with whitening, then eight bits.

Reproduces `vggish_postprocess.py` of the reference implementation (tensorflow/models,
research/audioset/vggish) and `Dequantize` of the YouTube-8M starter code. The reference truncates;
ports that round to the nearest step are off by one in a third of the values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from vggish_hf._checks import check_choice
from vggish_hf._runtime.torch_state import without_autocast

Postprocess = Literal["none", "pca", "uint8"]

_CLIP = 2.0
_STEPS = 255


class VGGishPostprocessor(nn.Module):
    """PCA-whitened embeddings, clipped to [-2, 2], and their uint8 form.

    Its tensors are saved with the model. They follow the module to a device but keep their dtype,
    since sixteen bits would change the uint8 values.

    Args:
        eigenvectors: (size, size), the rows of the PCA matrix.
        means: (size,), subtracted from an embedding first.

    Shape:
        - Input: (..., size)
        - Output: (..., size)

    Example:
        >>> postprocessor = VGGishPostprocessor(torch.eye(2), torch.zeros(2))
        >>> whitened = postprocessor(torch.tensor([[0.5, -3.0]]))
        >>> whitened
        tensor([[ 0.5000, -2.0000]])
        >>> postprocessor.quantize(whitened)
        tensor([[159,   0]], dtype=torch.uint8)
    """

    def __init__(self, eigenvectors: Tensor, means: Tensor) -> None:
        super().__init__()
        if means.ndim != 1 or eigenvectors.shape != (len(means), len(means)):
            raise ValueError(
                "Expected `eigenvectors` (size, size) and `means` (size,), got "
                f"{tuple(eigenvectors.shape)} and {tuple(means.shape)}"
            )
        self.register_buffer("eigenvectors", eigenvectors)
        self.register_buffer("means", means)
        self.eigenvectors: Tensor
        self.means: Tensor

    def forward(self, embeddings: Tensor) -> Tensor:
        """Whiten and clip; differentiable.

        Args:
            embeddings: (..., size), from the model, before any activation.

        Returns:
            (..., size), in [-2, 2], of the same dtype; float32 for sixteen bits.

        Raises:
            ValueError: The last dimension is not `size`.
        """
        size = len(self.means)
        if embeddings.ndim == 0 or embeddings.shape[-1] != size:
            raise ValueError(
                f"Expected embeddings of shape (..., {size}), got {tuple(embeddings.shape)}"
            )
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        with without_autocast(embeddings.device):
            centred = embeddings.to(dtype) - self.means.to(dtype)
            return (centred @ self.eigenvectors.to(dtype).mT).clamp(-_CLIP, _CLIP)

    @staticmethod
    def quantize(whitened: Tensor) -> Tensor:
        """Map [-2, 2] onto 0 to 255, truncating: (...) to (...) of uint8.

        Raises:
            ValueError: The values are not floating-point, or not finite.
        """
        if not whitened.is_floating_point():
            raise ValueError(f"Expected whitened embeddings of a float type, got {whitened.dtype}")
        if not torch.compiler.is_compiling() and not torch.isfinite(whitened).all():
            raise ValueError("Expected finite embeddings, got NaN or infinity")
        steps = (whitened + _CLIP) * (_STEPS / (2 * _CLIP))
        return steps.clamp(0, _STEPS).to(torch.uint8)

    @staticmethod
    def dequantize(quantized: Tensor) -> Tensor:
        """Map uint8 onto -1.992 to 2.008 like YouTube-8M: (...) to (...) of float32.

        Raises:
            ValueError: The values are not uint8.
        """
        if quantized.dtype != torch.uint8:
            raise ValueError(f"Expected embeddings of uint8, got {quantized.dtype}")
        return quantized.float() * (2 * _CLIP / _STEPS) + (2 * _CLIP / 512 - _CLIP)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        eigenvectors, means = self.eigenvectors, self.means
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.eigenvectors = eigenvectors.to(self.eigenvectors.device)
        self.means = means.to(self.means.device)
        return self

    def extra_repr(self) -> str:
        """Show the size in the module's `repr`."""
        return f"size={len(self.means)}"


@dataclass(frozen=True)
class Postprocessing:
    """A post-process of the network's embeddings.

    Args:
        name: Its name for users.
        function: Maps embeddings by a model's post-processor; None keeps them.
        fixed_dtype: Its output's dtype for any input; None for floats.

    Example:
        >>> postprocessor = VGGishPostprocessor(torch.eye(2), torch.zeros(2))
        >>> find_postprocess("uint8").apply(postprocessor, torch.tensor([[0.5, -3.0]]))
        tensor([[159,   0]], dtype=torch.uint8)
    """

    name: Postprocess
    function: Callable[[VGGishPostprocessor, Tensor], Tensor] | None = None
    fixed_dtype: torch.dtype | None = None

    def dtype(self, network_dtype: torch.dtype = torch.float32) -> torch.dtype:
        """Its output's dtype for a network's dtype: only the network uses sixteen bits."""
        return self.fixed_dtype or torch.promote_types(network_dtype, torch.float32)

    def check(self, postprocessor: VGGishPostprocessor | None) -> None:
        """Raise ValueError if it needs a post-processor and the model has none."""
        if self.function is not None and postprocessor is None:
            raise ValueError(
                f"postprocess={self.name!r} needs a model with a post-processor, this one has "
                "none; load 'google', or convert the checkpoint with its PCA file (`vggish-hf "
                "convert --pca`)"
            )

    def apply(self, postprocessor: VGGishPostprocessor | None, embeddings: Tensor) -> Tensor:
        """Map the network's embeddings (..., size) to (..., size) of `dtype`.

        Raises:
            ValueError: It needs a post-processor and the model has none.
        """
        self.check(postprocessor)
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        if self.function is None or postprocessor is None:
            return embeddings
        return self.function(postprocessor, embeddings)


def _whiten_and_quantize(postprocessor: VGGishPostprocessor, embeddings: Tensor) -> Tensor:
    # float64, which MPS lacks, as in the reference: values next to a step must stay on their side.
    precise = embeddings if embeddings.is_mps else embeddings.double()
    return postprocessor.quantize(postprocessor(precise))


#: Every post-process by its name.
POSTPROCESSES: Mapping[str, Postprocessing] = {
    kind.name: kind
    for kind in (
        Postprocessing("none"),
        Postprocessing("pca", VGGishPostprocessor.__call__),
        Postprocessing("uint8", _whiten_and_quantize, torch.uint8),
    )
}


def find_postprocess(name: str) -> Postprocessing:
    """Find a post-process by its name.

    Raises:
        ValueError: The name is unknown.
    """
    check_choice("postprocess", name, Postprocess)
    return POSTPROCESSES[name]
