"""Fill batches across clips of unequal lengths, and return each clip's rows in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vggish_hf._runtime.row_buffer import RowBuffer
from vggish_hf._runtime.threads import TorchThreads


@dataclass
class _Clip:
    index: int
    missing: int = 0  # examples whose rows are not back
    open: bool = True  # whether more examples may come
    discarded: bool = False
    rows: RowBuffer = field(default_factory=RowBuffer)  # those that are back

    def append(self, rows: Tensor) -> None:
        self.rows.append(rows)
        self.missing -= len(rows)


class Batcher:
    """Collects examples clip by clip and runs a function on full batches.

    Args:
        function: Maps (batch, ...) to (batch, ...), row by row. If it raises, a later call raises
            the same, and the batcher is unusable.
        batch_size: Rows of a batch.
        threads: Run full batches, one in each and one more waiting. The last batch, which may be
            smaller, runs in the caller's thread, so that one short clip has all of torch's threads.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], batch_size: int, threads: TorchThreads
    ) -> None:
        self._function = function
        self._batch_size = batch_size
        self._threads = threads
        self._clips: deque[_Clip] = deque()
        self._waiting: list[Tensor] = []
        self._num_waiting = 0
        self._running: deque[Future[Tensor]] = deque()

    def start(self, index: int) -> None:
        """Begin the clip of this index."""
        self._clips.append(_Clip(index))

    def add(self, examples: Tensor) -> None:
        """Add examples (count, ...) of the last started clip."""
        self._clips[-1].missing += len(examples)
        self._waiting.append(examples)
        self._num_waiting += len(examples)
        while self._num_waiting >= self._batch_size:
            waiting = torch.cat(self._waiting)
            batch, rest = waiting[: self._batch_size], waiting[self._batch_size :]
            self._running.append(self._threads.submit(self._function, batch))
            self._waiting, self._num_waiting = [rest], len(rest)
            self._collect(self._threads.count)

    def end(self) -> None:
        """End the last started clip."""
        self._clips[-1].open = False

    def discard(self) -> None:
        """Discard the last started clip, which failed: it has no rows."""
        self._clips[-1].open = False
        self._clips[-1].discarded = True

    def flush(self) -> None:
        """Run the waiting examples as a smaller batch, and wait for everything."""
        last = self._function(torch.cat(self._waiting)) if self._num_waiting else None
        self._waiting, self._num_waiting = [], 0
        self._collect(0)
        if last is not None:
            self._distribute(last)

    def finished(self) -> Iterator[tuple[int, Tensor | None]]:
        """Take out complete clips in order: index and rows, or None without rows."""
        while self._running and self._running[0].done():
            self._distribute(self._running.popleft().result())
        while self._clips and not self._clips[0].open and not self._clips[0].missing:
            clip = self._clips.popleft()
            if not clip.discarded:
                yield clip.index, clip.rows.take()

    def _collect(self, most: int) -> None:
        """Wait until at most so many batches are waiting or running."""
        while len(self._running) > most:
            self._distribute(self._running.popleft().result())

    def _distribute(self, rows: Tensor) -> None:
        for clip in self._clips:
            count = min(clip.missing, len(rows))
            if count:
                clip.append(rows[:count])
                rows = rows[count:]
