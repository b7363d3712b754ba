"""Convert stored embeddings of any type for a head."""

import torch
from torch import Tensor

from vggish_hf.modeling import VGGishPostprocessor

# The post-processor clips to -2 to 2; the highest value of eight bits is slightly more.
_LARGEST_WHITENED = 2.0


def embedding_floats(embedding: Tensor, mask: Tensor, *, whitened: bool) -> Tensor:
    """Return embeddings as floats, and refuse quantised ones that lost their type.

    Args:
        embedding: (batch, examples, size): floats, or uint8 like the released AudioSet embeddings.
        mask: (batch, examples), False where an embedding is padding.
        whitened: Whether the head learns from embeddings of the post-processor, like all uint8
            ones.

    Raises:
        ValueError: They are uint8 but should not be whitened, of another integer type, or whole
            numbers beyond the post-processor's range, like uint8 values cast to floats.

    Example:
        >>> mask = torch.ones(1, 1, dtype=torch.bool)
        >>> embedding_floats(torch.zeros(1, 1, 2, dtype=torch.uint8), mask, whitened=True)
        tensor([[[-1.9922, -1.9922]]])
    """
    if embedding.dtype == torch.uint8:
        if not whitened:
            raise ValueError(
                "Expected postprocess='pca' for embeddings of uint8, which the PCA "
                "post-processor has whitened, got 'none'"
            )
        return VGGishPostprocessor.dequantize(embedding)
    if not embedding.is_floating_point():
        raise ValueError(
            f"Expected embeddings of floats or uint8, got {embedding.dtype}; if they are quantised "
            "values from 0 to 255, pass them as uint8: `embedding.to(torch.uint8)`"
        )
    largest = embedding.detach().abs().masked_fill(~mask[..., None], 0.0)
    is_whole = (embedding == embedding.round()) | ~mask[..., None]
    if bool(((largest > _LARGEST_WHITENED).any()) & is_whole.all()):
        raise ValueError(
            "Expected embeddings of the network or its post-processor, got only whole numbers, "
            f"up to {largest.max():g}, of {embedding.dtype}; if they are quantised "
            "values from 0 to 255, pass them as uint8: `embedding.to(torch.uint8)`"
        )
    return embedding
