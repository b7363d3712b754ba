"""Decode audio in processes of their own, so that a file which breaks a decoder breaks no more."""

import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import TIMEOUT_MAX, Event, Lock, Timer
from types import TracebackType
from typing import IO, Any, BinaryIO, Self, cast

import numpy as np
from numpy.typing import NDArray

from vggish_hf.audio import _worker
from vggish_hf.audio.containers import EncodedContent
from vggish_hf.audio.decoders import MAX_BLOCK_BYTES, RawAudio, RawBlocks
from vggish_hf.audio.limits import DEFAULT_LIMITS, AudioError, AudioLimits
from vggish_hf.audio.sources import (
    AudioSource,
    AudioStream,
    find_encoded,
    mix_to_mono,
    open_audio,
)

# Of what a process that died said: its last line, up to so many characters.
_MAX_STDERR_BYTES = 1 << 20
_MAX_REASON_CHARACTERS = 200


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
        self._idle: list[_DecoderProcess] = []
        self._leased: weakref.WeakSet[_DecoderProcess] = weakref.WeakSet()
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
            RuntimeError: This is closed, or was made by another process.
        """
        encoded = find_encoded(source)
        if encoded is None:
            return open_audio(source, limits)
        decoder = self._lease()
        try:
            sampling_rate = decoder.start(encoded, limits)
        except BaseException:
            self._give_back(decoder)
            raise
        return mix_to_mono(RawAudio(sampling_rate, self._read_blocks(decoder, limits)), limits)

    def _read_blocks(self, decoder: "_DecoderProcess", limits: AudioLimits) -> RawBlocks:
        try:
            while (block := decoder.read_block(limits)) is not None:
                yield block
        finally:
            self._give_back(decoder)

    def _lease(self) -> "_DecoderProcess":
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
        decoder = _DecoderProcess(self._timeout_seconds)
        with self._lock:
            if not self._closed:
                self._leased.add(decoder)
                return decoder
        decoder.end()
        return self._lease()  # which says that this is closed

    def _give_back(self, decoder: "_DecoderProcess") -> None:
        # No lock for one that did not finish: the garbage collector may bring it, at any time.
        if decoder.is_idle:
            with self._lock:
                self._leased.discard(decoder)
                if not self._closed:
                    self._idle.append(decoder)
                    return
        decoder.end()


class _DecoderProcess:
    """A process that decodes one file after the other, seen from its parent."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._kill_reason: str | None = None
        self._stderr = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - `end` closes it
        self._process = subprocess.Popen(
            # -P: else the script's folder, this package's, would hide modules of the same names.
            [sys.executable, "-P", _worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            # OpenBLAS maps memory for a thread of every core.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            cwd="/",  # what a file names without a folder shall not be found
            start_new_session=True,  # Ctrl-C is the parent's matter
        )
        self._stdin = cast(BinaryIO, self._process.stdin)
        self._stdout = cast(BinaryIO, self._process.stdout)
        #: Whether it waits for a file; while it does not, it cannot take another.
        self.is_idle = True
        #: Kills it if it lives; so does dropping this object, and the interpreter's exit.
        self.end = weakref.finalize(self, _end, self._process, self._stderr)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self, reason: str) -> None:
        """Kill it, and have whoever waits for it told why."""
        self._kill_reason = reason
        self._process.kill()
        self._process.wait()

    def start(self, file: Path | EncodedContent, limits: AudioLimits) -> int:
        """Begin a file, and return its rate in Hz."""
        self.is_idle = False
        self._stderr.seek(0)  # the process shares the position
        self._stderr.truncate()
        with self._exchange():
            _worker.request(self._stdin, file, limits)
            header, _ = _worker.receive(self._stdout, 0)
            self._raise_reported(header)
            return parse_rate(header, limits)

    def read_block(self, limits: AudioLimits) -> NDArray[np.float32] | None:
        """Return the next block (time, channels), None behind the last."""
        with self._exchange():
            header, content = _worker.receive(self._stdout, MAX_BLOCK_BYTES)
            self._raise_reported(header)
            if "end" in header:
                self.is_idle = True
                return None
            return parse_block(header, content, limits)

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Bound the time that messages take, and tell of a process that does not answer."""
        expired = Event()
        # Without a reference to this object, whose end would else wait for the timer's thread.
        timer = Timer(self._timeout_seconds, _expire, (self._process, expired))
        timer.daemon = True
        timer.start()
        try:
            yield
        except AudioError:
            raise
        except (EOFError, OSError):
            self._process.wait()
            if expired.is_set():
                raise AudioError(
                    f"the decoder process gave nothing for {self._timeout_seconds:g} seconds and "
                    "was killed; pass a larger `timeout_seconds` if decoding may take longer"
                ) from None
            raise AudioError(self._kill_reason or self._describe_death()) from None
        except (ValueError, RecursionError) as error:
            raise AudioError(f"the decoder process gave no valid answer: {error}") from None
        finally:
            timer.cancel()

    def _raise_reported(self, header: dict[str, Any]) -> None:
        if "error" in header:
            self.is_idle = True
            raise AudioError(str(header["error"]))

    def _describe_death(self) -> str:
        status = self._process.returncode
        try:
            cause = f"signal {signal.Signals(-status).name}"
        except ValueError:
            cause = f"exit status {status}"
        self._stderr.seek(0)
        lines = self._stderr.read(_MAX_STDERR_BYTES).decode(errors="replace").split("\n")
        said = [line for line in map(str.strip, lines) if line.isprintable() and line]
        last = f": {said[-1][:_MAX_REASON_CHARACTERS]}" if said else ""
        return f"the decoder process died ({cause}){last}"


def parse_rate(header: dict[str, Any], limits: AudioLimits) -> int:
    """Return the rate in Hz that the header of an answer tells.

    Raises:
        ValueError: It tells none, or one beyond the limits.
    """
    sampling_rate = header.get("sampling_rate")
    if not isinstance(sampling_rate, int) or not 1 <= sampling_rate <= limits.max_sampling_rate:
        raise ValueError(f"expected a sampling rate, got {sampling_rate!r:.50}")
    return sampling_rate


def parse_block(
    header: dict[str, Any], content: bytearray, limits: AudioLimits
) -> NDArray[np.float32]:
    """Return the block (time, channels) that an answer holds.

    Raises:
        ValueError: It holds none, or one of more channels than the limits allow.
    """
    channels = header.get("channels")
    if not isinstance(channels, int) or not 1 <= channels <= limits.max_channels:
        raise ValueError(f"expected a number of channels, got {channels!r:.50}")
    if not content or len(content) % (4 * channels):
        raise ValueError(f"expected samples of {channels} channels, got {len(content)} bytes")
    return np.frombuffer(content, np.float32).reshape(-1, channels)


def _expire(process: "subprocess.Popen[bytes]", expired: Event) -> None:
    expired.set()
    process.kill()


def _end(process: "subprocess.Popen[bytes]", stderr: IO[bytes]) -> None:
    # A fork has a copy of what it must not end, and does not: it is not the fork's child.
    process.kill()
    process.wait()
    for file in (process.stdin, process.stdout, stderr):
        if file is not None:
            with suppress(OSError):  # what could not be written is lost
                file.close()
