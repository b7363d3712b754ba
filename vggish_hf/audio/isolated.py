"""Decode audio in separate processes, so that a file that breaks a decoder breaks nothing else."""

import os
import weakref
from pathlib import Path
from threading import TIMEOUT_MAX, Lock
from types import TracebackType
from typing import Self

from vggish_hf.audio.blocks import RawAudio, RawBlocks
from vggish_hf.audio.excerpts import Excerpt
from vggish_hf.audio.limits import DEFAULT_LIMITS, AudioLimits
from vggish_hf.audio.parts import EncodedContent
from vggish_hf.audio.process import DecoderProcess
from vggish_hf.audio.sources import (
    AudioSource,
    AudioStream,
    find_encoded,
    mix_to_mono,
    open_audio,
)


class IsolatedDecoders:
    """Opens clips like `open_audio`, but decodes files in separate processes.

    If a process crashes, takes too much memory or hangs, only its current clip fails, with an
    AudioError. There are as many processes as streams that are read at once; each decodes one
    clip after another. They load neither torch nor this package; only torchcodec, if a file needs
    it, loads torch. All end with `close`, and with the process that made them.

    Threads may share one; processes may not.

    Args:
        timeout_seconds: A process that takes longer to open a file or to decode a block is
            killed.

    Raises:
        ValueError: `timeout_seconds` is not positive.

    Example:
        >>> import io, soundfile
        >>> import numpy as np
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(8000), 8000, format="WAV")
        >>> with IsolatedDecoders() as decoders:
        ...     stream = decoders.open(file.getvalue())
        ...     stream.sampling_rate, [len(block) for block in stream.blocks]
        (8000, [8000])
    """

    def __init__(self, *, timeout_seconds: float = 60.0) -> None:
        if not 0 < timeout_seconds <= TIMEOUT_MAX:
            raise ValueError(
                f"Expected `timeout_seconds` to be above 0 and at most {TIMEOUT_MAX:g}, got "
                f"{timeout_seconds!r}"
            )
        self._timeout_seconds = timeout_seconds
        self._owner = os.getpid()
        self._lock = Lock()
        self._idle: list[DecoderProcess] = []
        self._leased: weakref.WeakSet[DecoderProcess] = weakref.WeakSet()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; streams that are still open raise AudioError."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            leased = list(self._leased)
        for decoder in leased:
            decoder.kill("the decoders were closed")
        for decoder in idle:
            decoder.end()

    def open(self, source: AudioSource, limits: AudioLimits = DEFAULT_LIMITS) -> AudioStream:
        """Open a clip like `open_audio`; arrays and decoders are read in this process.

        Closing or dropping a stream before its end ends its process.

        Raises:
            AudioError: Or others, see `open_audio`.
            DecoderStartError: No process can be started; not the clip's fault.
            RuntimeError: This is closed, or another process made it.
        """
        encoded = find_encoded(source)
        if encoded is None:
            return open_audio(source, limits)
        return self._open(encoded, limits)

    def open_excerpt(
        self,
        source: str | os.PathLike[str],
        excerpt: Excerpt,
        limits: AudioLimits = DEFAULT_LIMITS,
    ) -> AudioStream:
        """Open an excerpt of a file, like `vggish_hf.audio.open_excerpt`.

        Raises:
            AudioError: Or others, see `open`.
        """
        encoded = find_encoded(Path(source))
        assert encoded is not None  # of a path
        return self._open(encoded, limits, excerpt)

    def _open(
        self, encoded: Path | EncodedContent, limits: AudioLimits, excerpt: Excerpt | None = None
    ) -> AudioStream:
        decoder = self._lease()
        try:
            sampling_rate, first = decoder.start(encoded, limits, excerpt)
        except BaseException:
            self._give_back(decoder)
            raise
        raw = RawAudio(sampling_rate, self._read_blocks(decoder, limits), first)
        return mix_to_mono(raw, limits)

    def _read_blocks(self, decoder: "DecoderProcess", limits: AudioLimits) -> RawBlocks:
        try:
            while (block := decoder.read_block(limits)) is not None:
                yield block
        finally:
            self._give_back(decoder)

    def _lease(self) -> "DecoderProcess":
        if os.getpid() != self._owner:
            raise RuntimeError(
                f"Expected to decode in process {self._owner}, which made these decoders, got "
                f"process {os.getpid()}; make IsolatedDecoders in each process"
            )
        with self._lock:
            if self._closed:
                raise RuntimeError("Expected open decoders, these are closed; make new ones")
            while self._idle:
                decoder = self._idle.pop()
                if decoder.is_alive():
                    self._leased.add(decoder)
                    return decoder
                decoder.end()
        decoder = DecoderProcess(self._timeout_seconds)
        with self._lock:
            if not self._closed:
                self._leased.add(decoder)
                return decoder
        decoder.end()
        return self._lease()  # raises: this is closed

    def _give_back(self, decoder: "DecoderProcess") -> None:
        # No lock for an unfinished one: the garbage collector may call this at any time.
        if decoder.is_idle:
            with self._lock:
                self._leased.discard(decoder)
                if not self._closed:
                    self._idle.append(decoder)
                    return
        decoder.end()


class WorkerDecoders:
    """Makes `IsolatedDecoders` in each process that opens clips, such as a loader's workers.

    It can be pickled, and survives a fork.

    Example:
        >>> import pickle
        >>> decoders = pickle.loads(pickle.dumps(WorkerDecoders()))
        >>> decoders.here() is decoders.here()
        True
    """

    def __init__(self) -> None:
        self._made: tuple[int, IsolatedDecoders] | None = None

    def here(self) -> IsolatedDecoders:
        """Return this process's decoders, which end with it."""
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), IsolatedDecoders()
        return self._made[1]

    def __getstate__(self) -> dict[str, None]:
        return {"_made": None}
