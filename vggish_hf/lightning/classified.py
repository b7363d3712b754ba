"""Outputs of a classifier: for a clip, for a batch, for callbacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor


class TooShortError(ValueError):
    """A clip has no whole example, so no scores."""


@dataclass(frozen=True)
class ClassifiedClip:
    """The scores of one clip.

    Args:
        scores: (classes,), probabilities, on the CPU; single-label ones sum to one.
        index: The clip's position among the inputs.
        classes: The names of the classes, in the order of the scores.

    Example:
        >>> import torch
        >>> clip = ClassifiedClip(torch.tensor([0.25, 0.75]), classes=("dog", "rain"))
        >>> clip.label, clip.top(2)
        ('rain', [('rain', 0.75), ('dog', 0.25)])
    """

    scores: Tensor
    index: int = 0
    classes: Sequence[str] = ()

    @property
    def label(self) -> str:
        """The most likely class."""
        return self.classes[int(self.scores.argmax())]

    def top(self, k: int = 3) -> list[tuple[str, float]]:
        """The `k` most likely classes and their probabilities, in descending order."""
        values, places = self.scores.topk(min(k, len(self.scores)))
        names = [self.classes[place] for place in places.tolist()]
        return list(zip(names, values.tolist(), strict=True))


class EvaluatedBatch(TypedDict):
    """The output of validation and test steps for callbacks.

    - `embedding`: (batch, size), the mean over each clip's examples
    - `logits`, `target`: (batch, classes)
    """

    embedding: Tensor
    logits: Tensor
    target: Tensor


class ClassifiedParts(TypedDict):
    """The output of `predict_step` for `VGGishEmbeddingWriter`, with scores.

    - `id` and `num_examples`: of each clip
    - `embedding`: (rows, size), of all clips; `start_seconds`: (rows,), float64
    - `scores`: (batch, classes), probabilities; NaN for a clip without an example
    """

    id: list[str]
    num_examples: list[int]
    embedding: Tensor
    start_seconds: Tensor
    scores: Tensor
