"""The parent's side of a decoder process."""

import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Timer
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from vggish_hf.audio import _worker
from vggish_hf.audio.blocks import MAX_BLOCK_BYTES
from vggish_hf.audio.excerpts import Excerpt
from vggish_hf.audio.limits import AudioError, AudioLimits, DecoderStartError
from vggish_hf.audio.parts import EncodedContent

# An error quotes the last line of a dead process, up to so many characters.
_MAX_STDERR_BYTES = 1 << 20
_MAX_REASON_CHARACTERS = 200

_START_FAILED = (
    "Expected to start a decoder process, got: {}; check permissions, memory and the number of "
    "processes (ulimit -u, -v), and run the same again"
)


class DecoderProcess:
    """The parent's side of a process that decodes one file after another."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._kill_reason: str | None = None
        try:
            self._stderr = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - `end` closes it
            try:
                self._process = _start_process(self._stderr)
            except OSError:
                self._stderr.close()
                raise
        except OSError as error:
            raise DecoderStartError(_START_FAILED.format(error)) from error
        self._stdin = cast(BinaryIO, self._process.stdin)
        self._stdout = cast(BinaryIO, self._process.stdout)
        #: Whether it waits for a file; only then can it take one.
        self.is_idle = True
        #: Kills it if alive, also when this object or the interpreter goes.
        self.end = weakref.finalize(self, _end, self._process, self._stderr)
        try:
            with self._exchange():
                _worker.receive(self._stdout, 0)
        except AudioError as error:
            self.end()
            raise DecoderStartError(_START_FAILED.format(error)) from error

    def is_alive(self) -> bool:
        """Tell whether it is alive."""
        return self._process.poll() is None

    def kill(self, reason: str) -> None:
        """Kill it; a waiting caller gets the reason."""
        self._kill_reason = reason
        self._process.kill()
        self._process.wait()

    def start(
        self, file: Path | EncodedContent, limits: AudioLimits, excerpt: Excerpt | None = None
    ) -> tuple[int, int]:
        """Begin a file or an excerpt; return its rate in Hz and the first sample."""
        self.is_idle = False
        self._stderr.seek(0)  # the process shares the position
        self._stderr.truncate()
        with self._exchange():
            _worker.request(self._stdin, file, limits, excerpt)
            header, _ = _worker.receive(self._stdout, 0)
            self._raise_reported(header)
            return parse_rate(header, limits), parse_first_sample(header)

    def read_block(self, limits: AudioLimits) -> NDArray[np.float32] | None:
        """Return the next block (time, channels), None after the last."""
        with self._exchange():
            header, content = _worker.receive(self._stdout, MAX_BLOCK_BYTES)
            self._raise_reported(header)
            if "end" in header:
                self.is_idle = True
                return None
            return parse_block(header, content, limits)

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Bound the time of an exchange, and say why a process does not answer."""
        expired = Event()
        # The timer must not refer to this object, or it could not end before the timer.
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
    """Return the rate in Hz from the header of an answer.

    Raises:
        ValueError: It has no rate, or one beyond the limits.
    """
    sampling_rate = header.get("sampling_rate")
    if not isinstance(sampling_rate, int) or not 1 <= sampling_rate <= limits.max_sampling_rate:
        raise ValueError(f"expected a sampling rate, got {sampling_rate!r:.50}")
    return sampling_rate


def parse_first_sample(header: dict[str, Any]) -> int:
    """Return the position of the first sample from the header of an answer.

    Raises:
        ValueError: It has none.
    """
    first = header.get("first_sample")
    if not isinstance(first, int) or first < 0:
        raise ValueError(f"expected a first sample, got {first!r:.50}")
    return first


def parse_block(
    header: dict[str, Any], content: bytearray, limits: AudioLimits
) -> NDArray[np.float32]:
    """Return the block (time, channels) of an answer.

    Raises:
        ValueError: It has no block, or one with too many channels.
    """
    channels = header.get("channels")
    if not isinstance(channels, int) or not 1 <= channels <= limits.max_channels:
        raise ValueError(f"expected a number of channels, got {channels!r:.50}")
    if not content or len(content) % (4 * channels):
        raise ValueError(f"expected samples of {channels} channels, got {len(content)} bytes")
    return np.frombuffer(content, np.float32).reshape(-1, channels)


def _start_process(stderr: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        # -P: otherwise the script's folder would hide modules of the same names.
        [sys.executable, "-P", _worker.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        # OpenBLAS maps memory for one thread per core.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        cwd="/",  # relative names must not be found
        start_new_session=True,  # the parent handles Ctrl-C
    )


def _expire(process: "subprocess.Popen[bytes]", expired: Event) -> None:
    expired.set()
    process.kill()


def _end(process: "subprocess.Popen[bytes]", stderr: IO[bytes]) -> None:
    # In a fork this does nothing to the process, which is not the fork's child.
    process.kill()
    process.wait()
    for file in (process.stdin, process.stdout, stderr):
        if file is not None:
            with suppress(OSError):  # unwritten bytes are lost
                file.close()
