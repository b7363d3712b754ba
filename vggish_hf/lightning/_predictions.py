"""The output of `predict_step`, divided into clips."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vggish_hf.pipeline import VGGishOutput


class RowsPart(NamedTuple):
    """Consecutive rows of a clip, on the CPU."""

    id: str
    first_example: int
    embedding: Tensor
    start_seconds: Tensor
    is_last: bool


def read_prediction(prediction: Mapping[str, Any], hop_seconds: float) -> list[RowsPart]:
    """Divide the rows of a batch into parts of clips.

    Args:
        prediction: Like `EmbeddedParts`; `id` and `embedding` suffice.
        hop_seconds: Distance between two examples, if `start_seconds` is missing.

    Raises:
        ValueError: A value is missing, or has the wrong type or length.

    Example:
        >>> prediction = {"id": ["a", "b"], "num_examples": [1, 2], "embedding": torch.zeros(3, 8)}
        >>> [part.start_seconds.tolist() for part in read_prediction(prediction, 0.5)]
        [[0.0], [0.0, 0.5]]
    """
    if not isinstance(prediction, Mapping) or not {"id", "embedding"} <= prediction.keys():
        raise ValueError(
            "Expected `predict_step` to return a dict with `id` and `embedding`, got "
            f"{list(prediction) if isinstance(prediction, Mapping) else type(prediction).__name__}"
        )
    clips = list(prediction["id"])
    embedding = prediction["embedding"]
    if not all(isinstance(clip, str) for clip in clips):
        raise ValueError(f"Expected `id` to be a list of str, got {prediction['id']!r}")
    if not isinstance(embedding, Tensor) or embedding.ndim != 2:
        found = tuple(embedding.shape) if isinstance(embedding, Tensor) else type(embedding)
        raise ValueError(f"Expected `embedding` to be a tensor (rows, size), got {found}")
    counts = list(map(int, prediction.get("num_examples", [1] * len(clips))))
    firsts = list(map(int, prediction.get("first_example", [0] * len(clips))))
    lasts = list(map(bool, prediction.get("is_last", [True] * len(clips))))
    if {len(counts), len(firsts), len(lasts)} != {len(clips)} or sum(counts) != len(embedding):
        raise ValueError(
            "Expected a value of each id in `num_examples`, `first_example` and `is_last`, and as "
            f"many rows as `num_examples` says; got {len(clips)} ids, {len(counts)}, {len(firsts)} "
            f"and {len(lasts)} values, and {len(embedding)} rows for {sum(counts)} examples"
        )
    times = prediction.get("start_seconds")
    if times is None:
        numbers = [torch.arange(first, first + n) for first, n in zip(firsts, counts, strict=True)]
        times = torch.cat([torch.empty(0), *numbers]).double() * hop_seconds
    if len(times) != len(embedding):
        raise ValueError(
            f"Expected `start_seconds` of each row, got {len(times)} for {len(embedding)} rows"
        )
    if embedding.dtype in (torch.bfloat16, torch.float16):
        embedding = embedding.float()  # the stored dtype
    rows = torch.split(embedding.detach().cpu(), counts)
    seconds = torch.split(times.double().cpu(), counts)
    return [RowsPart(*part) for part in zip(clips, firsts, rows, seconds, lasts, strict=True)]


class ClipAssembler:
    """Joins parts of clips; parts of several clips may alternate.

    Example:
        >>> assembler = ClipAssembler()
        >>> first = RowsPart("a", 0, torch.zeros(2, 8), torch.tensor([0.0, 0.96]), False)
        >>> last = RowsPart("a", 2, torch.zeros(1, 8), torch.tensor([1.92]), True)
        >>> [(clip, len(out.embeddings)) for clip, out in assembler.add([first, last])]
        [('a', 3)]
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[RowsPart]] = {}

    def add(self, parts: list[RowsPart]) -> Iterator[tuple[str, VGGishOutput]]:
        """Add parts, and yield the clips that they complete.

        Raises:
            ValueError: A part does not follow the one before it.
        """
        for part in parts:
            before = self._parts.setdefault(part.id, [])
            expected = before[-1].first_example + len(before[-1].embedding) if before else 0
            if part.first_example != expected:
                raise ValueError(
                    f"Expected the part of {part.id!r} that begins with example {expected}, got "
                    f"`first_example` {part.first_example}; parts of a clip come in order, in one "
                    "process"
                )
            before.append(part)
            if part.is_last:
                whole = self._parts.pop(part.id)
                yield (
                    part.id,
                    VGGishOutput(
                        torch.cat([part.embedding for part in whole]),
                        torch.cat([part.start_seconds for part in whole]),
                    ),
                )

    def discard(self, clip: str) -> None:
        """Forget the parts of a clip."""
        self._parts.pop(clip, None)
