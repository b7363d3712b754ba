"""Decode audio from a file, bytes or an array, in blocks, so that no length fills the memory."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import soundfile
import torch
from torch import Tensor

from vggish_hf.feature_extraction.functional import MAX_CHANNELS
from vggish_hf.feature_extraction.resampling import check_sampling_rate

AudioArray: TypeAlias = Tensor | np.ndarray[Any, Any]

#: What can be decoded: the path of a file, an encoded file as bytes or as a binary file object, a
#: pair of an array and its rate, or a row's value of a `datasets.Audio` column, decoded or not.
AudioSource: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | tuple[AudioArray, int]
    | Mapping[str, Any]
)

#: Endings of the files that a folder is searched for.
AUDIO_EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("aac", "aif", "aifc", "aiff", "au", "caf", "flac", "m4a", "mka", "mp2", "mp3", "oga"),
        *("ogg", "opus", "rf64", "snd", "voc", "w64", "wav", "weba", "wma"),
        *("avi", "flv", "mkv", "mov", "mp4", "mpeg", "mpg", "webm", "wmv"),
    )
)

_BLOCK_SECONDS = 20
# Whatever a header claims of its rate and channels: 16 MiB of float32.
_MAX_BLOCK_VALUES = 1 << 22
# What torchcodec decodes at once, in blocks: five minutes, at most 240 MiB.
_RANGE_BLOCKS = 15


class AudioError(ValueError):
    """Audio that cannot be decoded; the message says why."""


class AudioStream(NamedTuple):
    """A clip that is decoded while it is read."""

    sampling_rate: int
    """Hz."""
    blocks: Iterator[Tensor]
    """Consecutive parts (time,) of the clip, on the CPU, float32 (float64 from a float64 array),
    its channels averaged; at least one sample in all. Reading them may raise AudioError."""


def open_audio(source: AudioSource) -> AudioStream:
    """Open a clip for decoding in blocks of at most twenty seconds and 16 MiB.

    WAV, FLAC, OGG, MP3, AIFF and what else libsndfile knows are decoded by soundfile; other
    containers (m4a, mp4, webm) by torchcodec where the extra `video` is installed, five minutes at
    once: where such a container rounds its time stamps (mkv, webm), up to one codec frame may be
    lost or repeated every five minutes.

    Args:
        source: A path, bytes, a binary file object (read to its end at once), an array with its
            rate (`(array, rate)` or `{"array": ..., "sampling_rate": ...}`, the array (time,) or
            (channels, time)), or a row's value of a `datasets.Audio` column, decoded or not.

    Raises:
        FileNotFoundError: There is no file at the path.
        AudioError: The file's format or content cannot be decoded.
        ValueError: The array's shape, dtype or rate makes no clip.
        TypeError: The source is none of the above.
    """
    match source:
        case str() | os.PathLike():
            return _open_path(Path(source))
        case bytes() | bytearray() | memoryview():
            return _open_encoded(EncodedContent(source))
        case (array, rate):
            return _open_array(array, rate)
        case {"array": array, "sampling_rate": rate}:
            return _open_array(array, rate)
        case {"bytes": bytes(content)}:
            return _open_encoded(EncodedContent(content))
        case {"path": str(name)}:
            return _open_path(Path(name))
    if hasattr(source, "get_samples_played_in_range"):  # what `datasets` makes of a column's value
        return _from_torchcodec(source)
    # Whole: an exception cannot pass through libsndfile, which would take it for the file's end.
    if hasattr(source, "read") and isinstance(content := source.read(), bytes):
        return _open_encoded(EncodedContent(content))
    raise TypeError(
        "Expected audio as a path, bytes, a binary file object, (array, rate) or a dict of "
        f"`array` and `sampling_rate`, got {type(source).__name__}"
    )


def load_audio(source: AudioSource) -> tuple[Tensor, int]:
    """Decode a whole clip.

    Args:
        source: As for `open_audio`.

    Returns:
        The waveform (time,), float32 (float64 from a float64 array), its channels averaged as the
        reference does, and its rate in Hz.

    Raises:
        AudioError: And what else `open_audio` raises.

    Example:
        >>> waveform, sampling_rate = load_audio((torch.zeros(2, 8000), 16_000))
        >>> waveform.shape, sampling_rate
        (torch.Size([8000]), 16000)
    """
    stream = open_audio(source)
    return torch.cat(list(stream.blocks)), stream.sampling_rate


class EncodedContent(io.BytesIO):
    """A file's content, in which a damaged header may seek to before the start."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move, or stay where there is nowhere to move to."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):  # cannot pass through libsndfile
            return self.tell()


class SequentialSoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from its start to its end.

    Of a file that can seek, soundfile seeks to the position where it is after every read; in MP3
    that loses what the next frame borrows from those before it.
    """

    def seekable(self) -> bool:
        """Keep soundfile from seeking."""
        return False


def _block_length(sampling_rate: int, channels: int) -> int:
    return max(min(_BLOCK_SECONDS * sampling_rate, _MAX_BLOCK_VALUES // channels), 1)


def _open_array(array: AudioArray, rate: int) -> AudioStream:
    sampling_rate = int(rate) if isinstance(rate, np.integer) else rate
    check_sampling_rate(sampling_rate)
    if isinstance(array, np.ndarray):
        # torch refuses negative strides and foreign byte orders, and warns of read-only memory
        array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    waveform = torch.as_tensor(array).detach()
    if waveform.ndim not in (1, 2) or waveform.numel() == 0:
        raise ValueError(
            "Expected an array of shape (time,) or (channels, time) with at least one sample, got "
            f"shape {tuple(waveform.shape)}"
        )
    if not waveform.is_floating_point():
        raise ValueError(
            f"Expected an array of floats in [-1, 1], got {waveform.dtype}; integer PCM is divided "
            "by its full scale first (int16: 32768)"
        )
    channels = 1 if waveform.ndim == 1 else len(waveform)
    if waveform.shape[-1] <= MAX_CHANNELS < channels:
        raise ValueError(
            f"Expected an array of shape (channels, time), got {tuple(waveform.shape)}, which "
            "looks like (time, channels); pass its transpose"
        )
    dtype = torch.promote_types(waveform.dtype, torch.float32)
    blocks = torch.split(
        waveform.reshape(channels, -1), _block_length(sampling_rate, channels), dim=1
    )
    return AudioStream(sampling_rate, (block.to("cpu", dtype).mean(0) for block in blocks))


def _open_path(path: Path) -> AudioStream:
    if not path.exists():
        raise FileNotFoundError(f"Expected an audio file, there is none at {str(path)!r}")
    if not path.is_file():
        raise AudioError(f"Expected an audio file, {str(path)!r} is none")
    path.open("rb").close()  # raises PermissionError, of which libsndfile says "System error"
    return _open_encoded(path)


def _open_encoded(file: Path | EncodedContent) -> AudioStream:
    """Open with soundfile, and what it does not know with torchcodec."""
    # Names need not be UTF-8 on POSIX, and soundfile takes such a one as bytes alone.
    known = os.fsencode(file) if isinstance(file, Path) and os.name == "posix" else file
    try:
        # libsndfile tells a format by content, except for headerless .raw files.
        sound = SequentialSoundFile(known)
    except (soundfile.SoundFileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
    else:
        return AudioStream(sound.samplerate, _read_blocks(sound))
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
        return _from_torchcodec(AudioDecoder(file))
    except (RuntimeError, ValueError):
        raise AudioError(f"neither libsndfile ({reason}) nor FFmpeg can open it") from None


def _read_blocks(sound: SequentialSoundFile) -> Iterator[Tensor]:
    length = _block_length(sound.samplerate, sound.channels)
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
            yield torch.from_numpy(block).mean(1)
    if not received:
        raise AudioError("it holds no samples")


def _from_torchcodec(decoder: Any) -> AudioStream:
    """Read from a `torchcodec.decoders.AudioDecoder`."""
    # The metadata tell the rate that is stored; the decoder may have been told to resample.
    try:
        sampling_rate = decoder.get_samples_played_in_range(0, 0).sample_rate
    except RuntimeError as error:
        raise AudioError(f"FFmpeg cannot decode it: {str(error).splitlines()[0]}") from None
    return AudioStream(sampling_rate, _read_ranges(decoder, sampling_rate))


def _read_ranges(decoder: Any, sampling_rate: int) -> Iterator[Tensor]:
    metadata = decoder.metadata
    length = _block_length(sampling_rate, metadata.num_channels)
    # Ranges are long because they are cut by time stamps, which some containers round.
    seconds = _RANGE_BLOCKS * length / sampling_rate
    start = max(metadata.begin_stream_seconds_from_header or 0.0, 0.0)
    claimed_end = start + (metadata.duration_seconds or 0.0)
    received = 0
    while True:
        try:
            samples = decoder.get_samples_played_in_range(start, start + seconds).data
        except RuntimeError as error:
            # So torchcodec says that the range lies behind the end.
            if "No audio frames were decoded" in str(error):
                break
            reason = str(error).splitlines()[0]
            raise AudioError(f"decoding failed after {received} samples: {reason}") from None
        received += samples.shape[-1]
        yield from samples.mean(0).split(length)
        start += seconds
        # A range behind the end would make torchcodec seek, which not every format can.
        if start >= claimed_end and samples.shape[-1] < (seconds - 1) * sampling_rate:
            break
    if not received:
        raise AudioError("it holds no samples")
