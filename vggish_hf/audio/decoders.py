"""Decode audio files to raw blocks, within limits.

Neither this module nor its imports need torch, so that a separate process stays light.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from vggish_hf.audio.blocks import RawAudio, RawBlocks
from vggish_hf.audio.ffmpeg import open_container
from vggish_hf.audio.limits import AudioError, AudioLimits, UnknownFormatError
from vggish_hf.audio.parts import EncodedContent
from vggish_hf.audio.soundfiles import open_sound
from vggish_hf.audio.streams import Stream, find_streams

#: Opens a stream that soundfile cannot open; the string is soundfile's reason.
ContainerOpener: TypeAlias = Callable[[Path | EncodedContent, Stream, AudioLimits, str], RawAudio]


def open_encoded(
    file: Path | EncodedContent, limits: AudioLimits, open_other: ContainerOpener = open_container
) -> RawAudio:
    """Open each stream of a file with soundfile, or with torchcodec if soundfile cannot.

    The duration is checked here if the header can be trusted, otherwise by the reader.

    Args:
        file: The file.
        limits: Its limits.
        open_other: Opens what soundfile cannot.

    Raises:
        AudioError: Neither can open it, or it exceeds the limits.
    """
    streams = find_streams(file)
    raw = _open_stream(file, next(streams), limits, open_other)
    return raw._replace(blocks=_read_streams(raw, file, streams, limits, open_other))


def _read_streams(
    raw: RawAudio,
    file: Path | EncodedContent,
    streams: Generator[Stream, None, None],
    limits: AudioLimits,
    open_other: ContainerOpener,
) -> RawBlocks:
    """Read the first stream of a file, and those after it."""
    rate = raw.sampling_rate
    received = 0
    with closing(streams):
        while True:
            with closing(raw.blocks) as blocks:
                for block in blocks:
                    received += len(block)
                    yield block
            stream = next(streams, None)
            if stream is None:
                return
            try:
                raw = _open_stream(file, stream, limits, open_other)
                if raw.sampling_rate != rate:
                    raise AudioError(f"its rate is {raw.sampling_rate} Hz, not {rate} Hz")
            except AudioError as error:
                raise AudioError(
                    f"the file holds {received / rate:.10g} seconds of audio and, from byte "
                    f"{stream.start} on, more that cannot be joined to it: {error}; split the file"
                ) from None


def _open_stream(
    file: Path | EncodedContent, stream: Stream, limits: AudioLimits, open_other: ContainerOpener
) -> RawAudio:
    try:
        return open_sound(file, stream, limits)
    except UnknownFormatError as error:
        reason = str(error)
    return open_other(file, stream, limits, reason)
