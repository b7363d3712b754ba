"""One row for all examples of a clip."""

from typing import Literal

import torch
from torch import Tensor

from vggish_hf._checks import check_choice

#: How to pool the rows of a clip: their mean, their maximum, or mean and standard deviation.
Pool = Literal["mean", "max", "mean_std"]


def pool_rows(embeddings: Tensor, pool: Pool) -> Tensor:
    """Pool a clip's rows to one row.

    Args:
        embeddings: (examples, size), floats.
        pool: `"mean"`; `"max"`, of each dimension; or `"mean_std"`, the mean followed by the
            standard deviation over the examples, which is 0 for one example.

    Returns:
        (1, size), for `"mean_std"` (1, 2 * size), of the same dtype; (0, ...) without examples.

    Raises:
        ValueError: `pool` is unknown, or the values are quantised, whose mean would be wrong.

    Example:
        >>> pool_rows(torch.tensor([[1.0, 2.0], [3.0, 2.0]]), "mean_std")
        tensor([[2., 2., 1., 0.]])
    """
    check_choice("pool", pool, Pool)
    if not embeddings.is_floating_point():
        raise ValueError(
            f"Expected embeddings of floats for `pool`, got {embeddings.dtype}; dequantize uint8 "
            "first, see `VGGishPostprocessor.dequantize`"
        )
    width = pooled_size(embeddings.shape[1], pool)
    if not len(embeddings):
        return embeddings.new_empty(0, width)
    rows = embeddings.double()
    if pool == "max":
        pooled = rows.amax(0)
    elif pool == "mean":
        pooled = rows.mean(0)
    else:
        pooled = torch.cat([rows.mean(0), rows.std(0, correction=0)])
    return pooled.to(embeddings.dtype)[None]


def pooled_size(embedding_size: int, pool: Pool | None) -> int:
    """Width of a row from `pool_rows` for rows of a width; without a pool, the same."""
    return 2 * embedding_size if pool == "mean_std" else embedding_size
