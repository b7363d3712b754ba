"""What a classifier gives: for a file, for a batch, for callbacks."""

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor


@dataclass(frozen=True)
class ClassifiedClip:
    """The scores of one clip.

    Args:
        scores: (classes,), probabilities, on the CPU; of a single-label task they sum to one.
        index: The clip's position among the inputs.
    """

    scores: Tensor
    index: int = 0


class EvaluatedBatch(TypedDict):
    """What validation and test steps give to callbacks.

    - `embedding`: (batch, size), the mean over each clip's examples
    - `logits`, `target`: (batch, classes)
    """

    embedding: Tensor
    logits: Tensor
    target: Tensor


class ClassifiedParts(TypedDict):
    """What `predict_step` gives, as `VGGishEmbeddingWriter` takes it, with scores.

    - `id` and `num_examples`: of each clip
    - `embedding`: (rows, size), those of all clips; `start_seconds`: (rows,), float64
    - `scores`: (batch, classes), probabilities
    """

    id: list[str]
    num_examples: list[int]
    embedding: Tensor
    start_seconds: Tensor
    scores: Tensor
