"""Decode audio in processes of their own, so that a file which breaks a decoder breaks no more."""

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
    """Opens clips as `open_audio` does, and decodes files in processes of their own.

    A process that crashes, takes too much memory or hangs costs the clip that it was at, which is
    an AudioError. There are as many processes as streams that are read at once; each serves one
    clip after the other. They load neither torch nor this package, except that torchcodec, where
    a file needs it, brings torch. All end with `close`, and with the process that made them.

    Threads may share one; processes may not.

    Args:
        timeout_seconds: How long a process may take for a block, or to open a file, before it is
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
        """End all processes; streams that are still read raise AudioError."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            leased = list(self._leased)
        for decoder in leased:
            decoder.kill("the decoders were closed")
        for decoder in idle:
            decoder.end()

    def open(self, source: AudioSource, limits: AudioLimits = DEFAULT_LIMITS) -> AudioStream:
        """Open a clip, as `open_audio` does; arrays and decoders are read in this process.

        A stream that is closed or dropped before its end ends its process.

        Raises:
            AudioError: And what else `open_audio` raises.
            DecoderStartError: No process can be started, which is no clip's fault.
            RuntimeError: This is closed, or was made by another process.
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
        """Open a part of an audio file, as `vggish_hf.audio.open_excerpt` does.

        Raises:
            AudioError: And what else `open` raises.
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
        return self._lease()  # which says that this is closed

    def _give_back(self, decoder: "DecoderProcess") -> None:
        # No lock for one that did not finish: the garbage collector may bring it, at any time.
        if decoder.is_idle:
            with self._lock:
                self._leased.discard(decoder)
                if not self._closed:
                    self._idle.append(decoder)
                    return
        decoder.end()


class WorkerDecoders:
    """Makes `IsolatedDecoders` in each process that opens clips, as the workers of a loader do.

    It can be pickled, and passed on to a process that is forked.

    Example:
        >>> import pickle
        >>> decoders = pickle.loads(pickle.dumps(WorkerDecoders()))
        >>> decoders.here() is decoders.here()
        True
    """

    def __init__(self) -> None:
        self._made: tuple[int, IsolatedDecoders] | None = None

    def here(self) -> IsolatedDecoders:
        """Return the decoders of this process, which end with it."""
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), IsolatedDecoders()
        return self._made[1]

    def __getstate__(self) -> dict[str, None]:
        return {"_made": None}
