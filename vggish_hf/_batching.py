"""Fill batches across clips of unequal lengths, and give each clip its rows back in order."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class _Clip:
    index: int
    missing: int = 0  # examples handed in whose rows are not back
    open: bool = True  # whether more examples may come
    discarded: bool = False
    parts: list[Tensor] = field(default_factory=list)


class Batcher:
    """Collects examples of one clip after the other and calls a function on full batches.

    Args:
        function: Maps (batch, ...) to (batch, ...), row by row. Where it raises, so does the call
            that needed it, and nothing is lost: the next call tries the same batch again.
        batch_size: Rows of a batch.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], batch_size: int) -> None:
        self._function = function
        self._batch_size = batch_size
        self._clips: deque[_Clip] = deque()
        self._waiting: list[Tensor] = []
        self._num_waiting = 0

    def start(self, index: int) -> None:
        """Begin the clip of this index."""
        self._clips.append(_Clip(index))

    def add(self, examples: Tensor) -> None:
        """Hand in examples (count, ...) of the clip that was started last."""
        self._clips[-1].missing += len(examples)
        self._waiting.append(examples)
        self._num_waiting += len(examples)
        while self._num_waiting >= self._batch_size:
            self._run(self._batch_size)

    def end(self) -> None:
        """Say that the clip that was started last has no more examples."""
        self._clips[-1].open = False

    def discard(self) -> None:
        """Say that the clip that was started last has failed: it gives no rows at all."""
        self._clips[-1].open = False
        self._clips[-1].discarded = True

    def flush(self) -> None:
        """Run what is waiting, though it fills no batch."""
        if self._num_waiting:
            self._run(self._num_waiting)

    def finished(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Take out the clips that have all their rows, in order: index, and parts of rows."""
        while self._clips and not self._clips[0].open and not self._clips[0].missing:
            clip = self._clips.popleft()
            if not clip.discarded:
                yield clip.index, clip.parts

    def _run(self, size: int) -> None:
        examples = torch.cat(self._waiting)
        rows = self._function(examples[:size])
        self._waiting = [examples[size:]]
        self._num_waiting -= size
        for clip in self._clips:
            count = min(clip.missing, len(rows))
            if count:
                clip.parts.append(rows[:count])
                clip.missing -= count
                rows = rows[count:]
