"""What a pipeline gives for a clip: its embeddings, when each starts, and one row for them all."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vggish_hf._checks import check_choice
from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.modeling import VGGishPostprocessor

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

Pooling = Literal["mean", "max", "mean_std"]


def pool(embeddings: Tensor, how: Pooling) -> Tensor:
    """Make one row of a clip's embeddings.

    Args:
        embeddings: (examples, size), at least one; uint8 ones are dequantized first.
        how: `"mean"`, `"max"`, or `"mean_std"` for the mean followed by the standard deviation
            (of the examples themselves: one example has 0).

    Returns:
        (size,), for `"mean_std"` (2 * size,); float32, float64 from float64.

    Raises:
        ValueError: There is no such pooling, or no example.

    Example:
        >>> pool(torch.tensor([[0.0, 1.0], [4.0, 1.0]]), "mean_std")
        tensor([2., 1., 2., 0.])
    """
    check_choice("pool", how, Pooling)
    if not len(embeddings):
        raise ValueError(
            "Expected at least one example to pool, got none: the clip is shorter than an example; "
            "pass padding='short' to the pipeline"
        )
    if embeddings.dtype == torch.uint8:
        embeddings = VGGishPostprocessor.dequantize(embeddings)
    if how == "max":
        return embeddings.amax(0)
    # float64: the mean of an hour of examples loses no digit
    deviation, mean = torch.std_mean(embeddings.double(), dim=0, correction=0)
    pooled = mean if how == "mean" else torch.cat([mean, deviation])
    return pooled.to(torch.promote_types(embeddings.dtype, torch.float32))


@dataclass(frozen=True, repr=False, eq=False)
class VGGishOutput:
    """The embeddings of one clip; its length is the number of examples.

    Args:
        embeddings: (examples, embedding_size), on the CPU; float32 (float64 from a float64 model),
            or uint8 where that was asked for.
        start_seconds: (examples,), when each example starts, float64.
        index: The clip's position among the inputs.
        example_seconds: Length of an example.

    Example:
        >>> out = VGGishOutput(torch.ones(2, 128), torch.tensor([0.0, 0.96]))
        >>> out
        VGGishOutput(embeddings: (2, 128) float32, seconds: 0 to 1.92, index: 0)
        >>> len(out), out.mean().shape
        (2, torch.Size([128]))
    """

    embeddings: Tensor
    start_seconds: Tensor
    index: int = 0
    example_seconds: float = VGGishFeatureConfig().example_seconds

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        dtype = str(self.embeddings.dtype).removeprefix("torch.")
        start = float(self.start_seconds[0]) if len(self) else 0.0
        return (
            f"{type(self).__name__}(embeddings: {tuple(self.embeddings.shape)} {dtype}, "
            f"seconds: {start:.6g} to {self.end_seconds:.6g}, index: {self.index})"
        )

    @property
    def end_seconds(self) -> float:
        """When the last example ends; 0 without one."""
        return float(self.start_seconds[-1]) + self.example_seconds if len(self) else 0.0

    def pool(self, how: Pooling) -> Tensor:
        """Make one row of the embeddings; see `vggish_hf.pipeline.pool`."""
        return pool(self.embeddings, how)

    def mean(self) -> Tensor:
        """Average the embeddings, (embedding_size,); see `vggish_hf.pipeline.pool`."""
        return self.pool("mean")

    def to_dict(self) -> dict[str, list[Any]]:
        """Make columns of plain Python values, ready for JSON and `datasets.Dataset.from_dict`.

        Returns:
            `example`, `start_seconds` and `embedding`, one value per example, as in the Parquet
            files that are written.

        Example:
            >>> VGGishOutput(torch.tensor([[0.5, 2.0]]), torch.tensor([0.0])).to_dict()
            {'example': [0], 'start_seconds': [0.0], 'embedding': [[0.5, 2.0]]}
        """
        return {
            "example": list(range(len(self))),
            "start_seconds": self.start_seconds.tolist(),
            "embedding": self.embeddings.tolist(),
        }

    def to_pandas(self) -> "pd.DataFrame":
        """Make a table with one row per example, and the columns of `to_dict`.

        Each embedding is an array; `np.stack(table["embedding"])` is the matrix of all.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise ImportError("`to_pandas` needs pandas: pip install pandas") from None
        return pd.DataFrame({**self.to_dict(), "embedding": list(self.embeddings.numpy())})
