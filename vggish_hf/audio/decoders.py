"""Decode audio files to raw blocks, within limits.

Neither this module nor what it imports needs torch, so that a process of its own may be light.
"""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import soundfile
from numpy.typing import NDArray

from vggish_hf.audio.containers import EncodedContent, is_media_container
from vggish_hf.audio.limits import DEFAULT_LIMITS, AudioError, AudioLimits, UnknownFormatError

RawBlocks: TypeAlias = Generator[NDArray[np.float32], None, None]

_BLOCK_SECONDS = 20
#: Bytes of the largest block, whatever a header claims of its rate and channels.
MAX_BLOCK_BYTES = 16 << 20
# What torchcodec decodes at once, in blocks: five minutes, at most 240 MiB.
_RANGE_BLOCKS = 15


# By what libsndfile calls them; FLAC compresses those of its own.
_SAMPLE_BYTES = {
    "ALAW": 1,
    "ULAW": 1,
    "PCM_S8": 1,
    "PCM_U8": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
}


class RawAudio(NamedTuple):
    """A clip that is decoded while it is read."""

    sampling_rate: int
    """Hz."""
    blocks: RawBlocks
    """Consecutive parts (time, channels), contiguous, none of them empty or larger than
    MAX_BLOCK_BYTES. Reading them may raise AudioError."""


class SequentialSoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from its start to its end.

    Of a file that can seek, soundfile seeks to the position where it is after every read; in MP3
    that loses what the next frame borrows from those before it.
    """

    def seekable(self) -> bool:
        """Keep soundfile from seeking."""
        return False


def block_length(sampling_rate: int, channels: int) -> int:
    """Samples in a block: twenty seconds, or less where these would be too large."""
    return max(min(_BLOCK_SECONDS * sampling_rate, MAX_BLOCK_BYTES // (4 * channels)), 1)


def open_encoded(file: Path | EncodedContent, limits: AudioLimits) -> RawAudio:
    """Open with soundfile, and what it does not know with torchcodec.

    The duration is checked here where the header can be believed; else it is left to the reader.

    Raises:
        AudioError: Neither can open it, or it is beyond the limits.
    """
    try:
        return open_sound(file, limits)
    except UnknownFormatError as error:
        reason = str(error)
    return open_container(file, limits, reason)


def open_sound(file: Path | EncodedContent, limits: AudioLimits) -> RawAudio:
    """Open with soundfile.

    Raises:
        UnknownFormatError: It cannot open it, torchcodec may; the message is its reason.
        AudioError: It is none of the containers that FFmpeg may see, or beyond the limits.
    """
    # Names need not be UTF-8 on POSIX, and soundfile takes such a one as bytes alone.
    known = os.fsencode(file) if isinstance(file, Path) and os.name == "posix" else file
    try:
        # libsndfile tells a format by content, except for headerless .raw files.
        sound = SequentialSoundFile(known)
    except (soundfile.SoundFileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
        if not is_media_container(file):
            raise AudioError(
                f"libsndfile cannot open it ({reason}), and it is no container that FFmpeg may read"
            ) from None
        raise UnknownFormatError(reason) from None
    num_bytes = file.stat().st_size if isinstance(file, Path) else len(file.getvalue())
    width = _SAMPLE_BYTES.get(sound.subtype)
    try:
        limits.check_format(sound.samplerate, sound.channels)
        if width is not None and sound.frames * sound.channels * width <= num_bytes:
            limits.check_duration(sound.frames, sound.samplerate)
    except AudioError:
        sound.close()
        raise
    return RawAudio(sound.samplerate, _read_blocks(sound))


def open_container(file: Path | EncodedContent, limits: AudioLimits, reason: str) -> RawAudio:
    """Open with torchcodec.

    Args:
        file: The file, of which `open_sound` has raised UnknownFormatError.
        limits: What it may be at most.
        reason: Why soundfile cannot open it.

    Raises:
        AudioError: torchcodec is not here, cannot open it either, or it is beyond the limits.
    """
    if isinstance(file, EncodedContent):
        file.seek(0)
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError):
        raise AudioError(
            f"libsndfile cannot open it ({reason}); other containers (m4a, mp4, webm) need the "
            "extra `video` and FFmpeg: pip install 'vggish-hf[video]'"
        ) from None
    try:
        # Whole, or FFmpeg would take `concat:a.mp3` for more than the name of a file.
        decoder = AudioDecoder(file.absolute() if isinstance(file, Path) else file)
    except (RuntimeError, ValueError):
        raise AudioError(f"neither libsndfile ({reason}) nor FFmpeg can open it") from None
    return open_decoder(decoder, limits)


def _read_blocks(sound: SequentialSoundFile) -> RawBlocks:
    length = block_length(sound.samplerate, sound.channels)
    received = 0
    with sound:
        while True:
            try:
                block = sound.read(length, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise AudioError(f"decoding failed after {received} samples: {error}") from None
            if not len(block):
                break
            received += len(block)
            yield block


def open_decoder(decoder: Any, limits: AudioLimits) -> RawAudio:
    """Read from a `torchcodec.decoders.AudioDecoder`.

    Raises:
        AudioError: It cannot be decoded, or is beyond the limits.
    """
    # The metadata tell the rate that is stored; the decoder may have been told to resample.
    try:
        nothing = decoder.get_samples_played_in_range(0, 0)
    except RuntimeError as error:
        raise AudioError(f"FFmpeg cannot decode it: {str(error).splitlines()[0]}") from None
    sampling_rate = nothing.sample_rate
    limits.check_format(sampling_rate, len(nothing.data))
    return RawAudio(sampling_rate, _read_ranges(decoder, sampling_rate, len(nothing.data), limits))


def _read_ranges(decoder: Any, sampling_rate: int, channels: int, limits: AudioLimits) -> RawBlocks:
    metadata = decoder.metadata
    length = block_length(sampling_rate, channels)
    # Ranges are long because they are cut by time stamps, which some containers round.
    seconds = _RANGE_BLOCKS * length / sampling_rate
    start = begin = max(metadata.begin_stream_seconds_from_header or 0.0, 0.0)
    claimed_end = start + (metadata.duration_seconds or 0.0)
    received = 0
    # However long a clip may be, a header that claims years must not have them searched.
    gap_limits = DEFAULT_LIMITS if limits.max_seconds is None else limits
    gap_seconds = 0.0
    is_short = False  # the latest range, by a gap or the end
    while True:
        if is_short:
            # In search of its end torchcodec has read the whole file, and now has to go back.
            try:
                decoder.get_samples_played_in_range(begin, begin + 1)
            except RuntimeError:  # not every format can
                break
        try:
            samples = decoder.get_samples_played_in_range(start, start + seconds).data.numpy()
        except RuntimeError as error:
            # So torchcodec says that the range lies behind the end, or in a gap.
            if "No audio frames were decoded" in str(error):
                start += seconds
                if start >= claimed_end:
                    break
                is_short = True
                gap_seconds += seconds
                gap_limits.check_duration(
                    received + round(gap_seconds * sampling_rate), sampling_rate
                )
                continue
            reason = str(error).splitlines()[0]
            raise AudioError(f"decoding failed after {received} samples: {reason}") from None
        num_samples = samples.shape[1]
        received += num_samples
        for first in range(0, num_samples, length):
            yield np.ascontiguousarray(samples[:, first : first + length].T)
        start += seconds
        is_short = num_samples < (seconds - 1) * sampling_rate
        # A range behind the end would make torchcodec seek, which not every format can.
        if start >= claimed_end and is_short:
            break
