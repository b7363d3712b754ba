"""Statistics over the examples of padded clips, without the padding."""

import torch
from torch import Tensor, nn

# The values of nn.BatchNorm1d.
_EPSILON = 1e-5
_MOMENTUM = 0.1


def masked_mean(embeddings: Tensor, mask: Tensor) -> Tensor:
    """Average each clip over its examples.

    Args:
        embeddings: (batch, examples, size).
        mask: (batch, examples), False where an embedding is padding, of any value.

    Returns:
        (batch, size); zeros for a clip without examples.

    Example:
        >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    kept = embeddings.masked_fill(~mask[..., None], 0.0)
    return kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation of the rows in a mask, like `nn.BatchNorm1d` of only these rows.

    Two differences: shapes do not depend on the mask, so that it compiles; and a batch of one row,
    which has no variance, uses the running statistics without changing them, while `nn.BatchNorm1d`
    raises (the last batch of an epoch may have one row).

    Args:
        size: Width of a row.

    Shape:
        - Input: (..., size), finite, and a mask (...)
        - Output: (..., size)

    Example:
        >>> norm = MaskedBatchNorm(1)
        >>> rows = torch.tensor([[1.0], [3.0], [9.0]])
        >>> norm(rows, torch.tensor([True, True, False]))[:2].detach()
        tensor([[-1.0000],
                [ 1.0000]])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_variance", torch.ones(size))
        self.running_mean: Tensor
        self.running_variance: Tensor

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Normalise by the batch's statistics in training mode, else by the running ones."""
        # Statistics never have sixteen bits, though autocast may have cast the rows.
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance = self.running_mean, self.running_variance
        if self.training:
            mean, variance = self._batch_statistics(rows, mask[..., None].to(rows.dtype))
        rows = (rows - mean) * torch.rsqrt(variance + _EPSILON) * self.weight + self.bias
        return rows.to(x.dtype)

    def _batch_statistics(self, rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and variance, and update the running ones."""
        dimensions = tuple(range(rows.ndim - 1))
        count = weight.sum()
        mean = (rows * weight).sum(dimensions) / count.clamp(min=1)
        squares = ((rows - mean).square() * weight).sum(dimensions)
        variance = squares / count.clamp(min=1)
        enough = count > 1
        used = (
            torch.where(enough, mean, self.running_mean),
            torch.where(enough, variance, self.running_variance),
        )
        with torch.no_grad():
            momentum = (_MOMENTUM * enough).to(self.running_mean.dtype)
            unbiased = squares / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean.to(momentum.dtype), momentum)
            self.running_variance.lerp_(unbiased.to(momentum.dtype), momentum)
        return used

    def extra_repr(self) -> str:
        """Show the size in the module's `repr`."""
        return f"{len(self.weight)}"
