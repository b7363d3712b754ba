"""A pipeline's output for a clip: embeddings, start times, and pooling to one row."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.modeling.pooling import Pool, pool_rows

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


@dataclass(frozen=True, repr=False, eq=False)
class VGGishOutput:
    """The embeddings of one clip; its length is the number of examples.

    Args:
        embeddings: (examples, embedding_size), on the CPU; float32 (float64 from a float64 model),
            or uint8 if requested.
        start_seconds: (examples,), start of each example, float64.
        index: The clip's position among the inputs.
        example_seconds: Length of an example.

    Example:
        >>> import torch
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

    def pool(self, how: Pool) -> Tensor:
        """Pool the embeddings to one row, as `vggish-hf embed --pool` does.

        Args:
            how: `"mean"`, `"max"`, or `"mean_std"` for the mean followed by the standard deviation
                (of the population: 0 for one example).

        Returns:
            (embedding_size,), for `"mean_std"` twice as long.

        Raises:
            ValueError: The pooling is unknown, there is no example, or the embeddings are uint8.
        """
        if not len(self):
            raise ValueError(
                "Expected at least one example to pool, got none: the clip is shorter than an "
                "example; pass padding='short' to the pipeline"
            )
        return pool_rows(self.embeddings, how)[0]

    def mean(self) -> Tensor:
        """Average the embeddings, (embedding_size,); see `pool`."""
        return self.pool("mean")

    def to_dict(self) -> dict[str, list[Any]]:
        """Make columns of plain Python values, ready for JSON and `datasets.Dataset.from_dict`.

        Returns:
            `example`, `start_seconds` and `embedding`, one value per example, as in the Parquet
            files.

        Example:
            >>> import torch
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
