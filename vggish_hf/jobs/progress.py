"""The progress of a job: in clips, and inside long ones in seconds of audio."""

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, TypeAlias

from torch import Tensor

from vggish_hf.audio import AudioStream, Decoder

#: Called with the numbers of newly finished or failed clips and of newly read seconds of audio,
#: never by two threads at once.
Progress: TypeAlias = Callable[[int, float], object]


class ProgressMeter:
    """Reports a job's progress from any thread.

    Args:
        progress: The callback, if any.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = Lock()

    def add(self, clips: int = 0, seconds: float = 0.0) -> None:
        """Count more clips and seconds."""
        if self._progress is not None:
            with self._lock:
                self._progress(clips, seconds)

    def metered(self, decode: Decoder) -> Decoder:
        """Make a decoder that counts the audio read of each clip."""

        def open_(clip: Any) -> AudioStream:
            stream = decode(clip)
            return stream._replace(blocks=self._count(stream))

        return open_

    def _count(self, stream: AudioStream) -> Iterator[Tensor]:
        for block in stream.blocks:
            self.add(seconds=len(block) / stream.sampling_rate)
            yield block
