"""Decode for another process: a script that runs by its path, so that it never loads torch.

The pipes carry messages: two sizes, a header in JSON, and bytes. A request is
`{"path": ..., "limits": {...}}`, or has no path and the file's content as bytes; `"excerpt":
{...}` asks for an excerpt. The answers are `{"ready": true}` once, then for each request
`{"sampling_rate": ..., "first_sample": ...}`, blocks, which are
`{"channels": ...}` with (time, channels) float32 as bytes, and `{"end": true}`; or
`{"error": ...}` in place of any of them.
"""

import json
import os
import struct
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

if TYPE_CHECKING:
    from vggish_hf.audio.blocks import RawAudio
    from vggish_hf.audio.excerpts import Excerpt
    from vggish_hf.audio.limits import AudioLimits
    from vggish_hf.audio.parts import EncodedContent
    from vggish_hf.audio.streams import Stream

Requests: TypeAlias = SimpleQueue[tuple[dict[str, Any], bytearray]]

_SIZES = struct.Struct("<IQ")
_MAX_HEADER_BYTES = 1 << 20

_MAX_MEMORY_BYTES = 4 << 30
# Decoders report damaged files on stderr, which is a file.
_MAX_FILE_BYTES = 1 << 20


def send(stream: BinaryIO, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write a message."""
    encoded = json.dumps(header).encode("ascii")
    stream.write(_SIZES.pack(len(encoded), len(payload)) + encoded)
    stream.write(payload)
    stream.flush()


def receive(stream: BinaryIO, max_payload_bytes: int) -> tuple[dict[str, Any], bytearray]:
    """Read a message; check its size before allocating memory.

    Raises:
        EOFError: The stream ends before the message does.
        ValueError: It is too large or invalid.
    """
    header_bytes, payload_bytes = _SIZES.unpack(_read_exactly(stream, _SIZES.size))
    if header_bytes > _MAX_HEADER_BYTES or payload_bytes > max_payload_bytes:
        raise ValueError(
            f"Expected a message of at most {_MAX_HEADER_BYTES} and {max_payload_bytes} bytes, got "
            f"{header_bytes} and {payload_bytes}"
        )
    header = json.loads(_read_exactly(stream, header_bytes))
    if not isinstance(header, dict):
        raise ValueError(f"Expected a JSON object as a message's header, got {header!r:.50}")
    return header, _read_exactly(stream, payload_bytes)


def _read_exactly(stream: BinaryIO, size: int) -> bytearray:
    content = bytearray(size)
    if stream.readinto(content) < size:  # type: ignore[attr-defined]
        raise EOFError(f"Expected {size} bytes more, the stream ends")
    return content


def request(
    stream: BinaryIO,
    file: "Path | EncodedContent",
    limits: "AudioLimits",
    excerpt: "Excerpt | None" = None,
) -> None:
    """Ask to decode a file or an excerpt."""
    header: dict[str, Any] = {"limits": asdict(limits)}
    if excerpt is not None:
        header["excerpt"] = asdict(excerpt)
    if isinstance(file, Path):
        # Absolute, as the other process runs in another folder. Keep each `..`: after a link, it
        # leads elsewhere. Each byte becomes a character, as names need not be text.
        header["path"] = os.fsencode(file.absolute()).decode("latin-1")
        send(stream, header)
    else:
        send(stream, header, file.getvalue())  # getbuffer would copy


def main() -> None:
    """Answer requests from stdin until it ends."""
    _limit_files()
    _limit_memory(_MAX_MEMORY_BYTES)
    # Each package's `__init__` would import torch.
    for name, folder in (
        ("vggish_hf", Path(__file__).parents[1]),
        ("vggish_hf.audio", Path(__file__).parent),
    ):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep what libraries print out of the messages
    requests: Requests = SimpleQueue()
    Thread(target=_read_requests, args=(requests,), daemon=True).start()
    with _exit_on_failure():
        from vggish_hf.audio import excerpts  # noqa: F401 - fail before the first file

        send(answers, {"ready": True})
        while True:
            _answer(answers, requests)


@contextmanager
def _exit_on_failure() -> Iterator[None]:
    """End the process if a thread fails: the other thread would keep it alive."""
    try:
        yield
    except BaseException:  # noqa: BLE001 - nothing else reports it
        try:
            traceback.print_exc()
        finally:
            os._exit(1)


def _read_requests(requests: Requests) -> None:
    # In a thread, so that the process ends with its parent even if decoding hangs.
    with _exit_on_failure():
        with suppress(EOFError):
            while True:
                requests.put(receive(sys.stdin.buffer, sys.maxsize))
        os._exit(0)


def _answer(answers: BinaryIO, requests: Requests) -> None:
    from vggish_hf.audio.decoders import open_encoded
    from vggish_hf.audio.excerpts import Excerpt, read_excerpt
    from vggish_hf.audio.limits import AudioError, AudioLimits
    from vggish_hf.audio.parts import EncodedContent

    header, content = requests.get()
    limits = AudioLimits(**header["limits"])
    name = header.get("path")
    file = EncodedContent(content) if name is None else Path(os.fsdecode(name.encode("latin-1")))
    del content
    try:
        if "excerpt" in header:
            raw = read_excerpt(file, Excerpt(**header["excerpt"]), limits, _open_container)
        else:
            raw = open_encoded(file, limits, _open_container)
        send(answers, {"sampling_rate": raw.sampling_rate, "first_sample": raw.first_sample})
        for block in raw.blocks:
            send(answers, {"channels": block.shape[1]}, block.data.cast("B"))
    except AudioError as error:
        send(answers, {"error": str(error)})
    else:
        send(answers, {"end": True})


def _open_container(
    file: "Path | EncodedContent", stream: "Stream", limits: "AudioLimits", reason: str
) -> "RawAudio":
    """Open with torchcodec; its libraries do not count in the memory limit."""
    from vggish_hf.audio.ffmpeg import open_container

    # It loads torch, which maps gigabytes of libraries.
    _limit_memory(None)
    with suppress(ImportError, OSError, RuntimeError):
        import torchcodec.decoders  # noqa: F401
    _limit_memory(_MAX_MEMORY_BYTES)
    return open_container(file, stream, limits, reason)


def _limit_files() -> None:
    if sys.platform != "win32":
        import resource

        # Neither stderr nor a core dump may fill the disk.
        for kind, size in ((resource.RLIMIT_FSIZE, _MAX_FILE_BYTES), (resource.RLIMIT_CORE, 0)):
            _, hard = resource.getrlimit(kind)
            resource.setrlimit(kind, (size if hard < 0 else min(size, hard), hard))


def _limit_memory(num_bytes: int | None) -> None:
    """Limit memory mapped from now on, or lift the limit; does nothing outside Linux."""
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        size = hard
        if num_bytes is not None:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            size = pages * resource.getpagesize() + num_bytes
            size = size if hard < 0 else min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))


if __name__ == "__main__":
    main()
