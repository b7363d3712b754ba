"""Decode audio from a file, bytes or an array, in blocks, so that long audio fits in memory."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vggish_hf._checks import MAX_CHANNELS, check_sampling_rate
from vggish_hf.audio.blocks import RawAudio, block_length
from vggish_hf.audio.decoders import open_encoded
from vggish_hf.audio.excerpts import Excerpt, read_excerpt
from vggish_hf.audio.ffmpeg import (
    find_encoded_row,
    is_decoder,
    open_decoder,
    reopen_decoder,
)
from vggish_hf.audio.limits import DEFAULT_LIMITS as DEFAULT_LIMITS
from vggish_hf.audio.limits import AudioError as AudioError
from vggish_hf.audio.limits import AudioLimits as AudioLimits
from vggish_hf.audio.parts import EncodedContent

AudioArray: TypeAlias = Tensor | np.ndarray[Any, Any]

#: Audio to decode: a path, an encoded file as bytes or a binary file object, a pair of an array
#: and its rate, or a value of a `datasets.Audio` column, decoded or not.
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

#: Extensions of the files to find in a folder.
AUDIO_EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("aac", "aif", "aifc", "aiff", "au", "caf", "flac", "m4a", "mka", "mp2", "mp3", "oga"),
        *("ogg", "opus", "rf64", "snd", "voc", "w64", "wav", "weba", "wma"),
        *("avi", "flv", "mkv", "mov", "mp4", "mpeg", "mpg", "webm", "wmv"),
    )
)


#: The largest magnitude of a sample: some music peaks at 1.5 to 4; 16-bit values that were not
#: divided by 32768 are far above.
MAX_MAGNITUDE = 64.0


class AudioStream(NamedTuple):
    """A clip that is decoded while it is read."""

    sampling_rate: int
    """Hz."""
    blocks: Iterator[Tensor]
    """Consecutive blocks (time,) of a clip, on the CPU, float32 (float64 from a float64 array),
    channels averaged; at least one sample in all. Reading them may raise AudioError."""

    def read(self) -> tuple[Tensor, int]:
        """Return the whole waveform (time,) and its rate in Hz."""
        return torch.cat(list(self.blocks)), self.sampling_rate


#: Opens a clip; if it raises, the clip failed.
Decoder: TypeAlias = Callable[[Any], AudioStream]


def open_audio(source: AudioSource, limits: AudioLimits = DEFAULT_LIMITS) -> AudioStream:
    """Open a clip for decoding in blocks of at most twenty seconds and 16 MiB.

    soundfile decodes WAV, FLAC, OGG, MP3, AIFF and all else that libsndfile knows; torchcodec
    decodes other containers (m4a, mp4, webm) if the extra `video` is installed, five minutes at
    once. If such a container rounds its time stamps (mkv, webm), up to one codec frame may be
    lost or repeated every five minutes.

    Args:
        source: A path, bytes, a binary file object (read to its end at once), an array with its
            rate (`(array, rate)` or `{"array": ..., "sampling_rate": ...}`, the array (time,) or
            (channels, time)), or a value of a `datasets.Audio` column, decoded or not.
        limits: Limits of encoded audio; arrays have none.

    Raises:
        FileNotFoundError: There is no file at the path.
        AudioError: The file cannot be decoded or exceeds the limits. Reading the blocks raises it
            too, also for samples that are not finite or far beyond [-1, 1].
        ValueError: The array's shape, dtype or rate is invalid.
        TypeError: The source has another type.
    """
    encoded = find_encoded(source)
    if encoded is None:
        return _open_decoded(source, limits)
    return mix_to_mono(open_encoded(encoded, limits), limits)


def open_excerpt(
    source: str | os.PathLike[str], excerpt: Excerpt, limits: AudioLimits = DEFAULT_LIMITS
) -> AudioStream:
    """Open an excerpt of an audio file, see `Excerpt`, without decoding what comes before.

    The limit of duration applies to the excerpt; the file may be longer.

    Raises:
        FileNotFoundError: There is no file at the path.
        AudioError: See `open_audio`.
    """
    return mix_to_mono(read_excerpt(_check_file(Path(source)), excerpt, limits), limits)


def load_audio(source: AudioSource, limits: AudioLimits = DEFAULT_LIMITS) -> tuple[Tensor, int]:
    """Decode a whole clip.

    Args:
        source: See `open_audio`.
        limits: See `open_audio`.

    Returns:
        The waveform (time,), float32 (float64 from a float64 array), channels averaged as in the
        reference, and its rate in Hz.

    Raises:
        AudioError: Or others, see `open_audio`.

    Example:
        >>> waveform, sampling_rate = load_audio((torch.zeros(2, 8000), 16_000))
        >>> waveform.shape, sampling_rate
        (torch.Size([8000]), 16000)
    """
    return open_audio(source, limits).read()


def find_encoded(source: Any) -> Path | EncodedContent | None:
    """Return the encoded file of a source; None if it is decoded or has another type.

    Raises:
        FileNotFoundError: There is no file at the path.
        PermissionError: It may not be read.
        AudioError: The path is not a regular file.
    """
    match source:
        case str() | os.PathLike():
            return _check_file(Path(source))
        case bytes() | bytearray() | memoryview():
            return EncodedContent(source)
        case (_, _) | {"array": _, "sampling_rate": _}:
            return None
        case {"bytes": bytes(content)}:
            return EncodedContent(content)
        case {"path": str(name)}:
            return _check_file(Path(name))
    if is_decoder(source):
        return find_encoded(encoded) if (encoded := find_encoded_row(source)) else None
    # Read it whole: libsndfile would treat an exception as the end of the file.
    if hasattr(source, "read") and isinstance(content := source.read(), bytes):
        return EncodedContent(content)
    return None


def _check_file(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"No such audio file: {str(path)!r}")
    if not path.is_file():
        raise AudioError(f"Not a regular file: {str(path)!r}")
    path.open("rb").close()  # raises PermissionError; libsndfile says "System error"
    return path


def mix_to_mono(raw: RawAudio, limits: AudioLimits) -> AudioStream:
    """Average a clip's channels; reading raises AudioError for wrong or too many samples."""
    return AudioStream(raw.sampling_rate, _mix(raw, limits))


def _mix(raw: RawAudio, limits: AudioLimits) -> Iterator[Tensor]:
    position = raw.first_sample
    with closing(raw.blocks) as blocks:
        for block in blocks:
            samples = torch.from_numpy(block)
            check_samples(samples, position, raw.sampling_rate)
            position += len(block)
            limits.check_duration(position - raw.first_sample, raw.sampling_rate)
            yield samples.mean(1)
    if position == raw.first_sample:
        raise AudioError("it holds no samples")


def check_samples(samples: Tensor, first: int, sampling_rate: int) -> None:
    """Raise AudioError unless all samples (time, channels) are finite and near [-1, 1].

    Args:
        samples: The samples.
        first: The position of the first one in the clip.
        sampling_rate: Hz.
    """
    low, high = samples.aminmax()  # NaN if any sample is
    if low >= -MAX_MAGNITUDE and high <= MAX_MAGNITUDE:
        return
    is_wrong = ~(samples.abs() <= MAX_MAGNITUDE)
    index, channel = is_wrong.nonzero()[0].tolist()
    value = float(samples[index, channel])
    place = f"at sample {first + index} ({(first + index) / sampling_rate:.6g} s)"
    if not math.isfinite(value):
        raise AudioError(f"Expected finite samples, got {value} (NaN or infinity) {place}")
    raise AudioError(
        f"Expected samples in [-1, 1], with peaks of at most {MAX_MAGNITUDE:g}, got {value:.6g} "
        f"{place}; divide integer PCM by its full scale (16 bits: 32768, 24: 8388608, 32: "
        "2147483648)"
    )


def _open_decoded(source: Any, limits: AudioLimits) -> AudioStream:
    match source:
        case (array, rate) | {"array": array, "sampling_rate": rate}:
            return _open_array(array, rate)
    if is_decoder(source):
        return mix_to_mono(open_decoder(reopen_decoder(source), limits), limits)
    raise TypeError(
        "Expected audio as a path, bytes, a binary file object, (array, rate) or a dict of "
        f"`array` and `sampling_rate`, got {type(source).__name__}"
    )


def _open_array(array: AudioArray, rate: Any) -> AudioStream:
    sampling_rate = _to_whole_rate(rate)
    if isinstance(array, np.ndarray):
        # torch refuses negative strides and foreign byte orders, warns of read-only memory
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
        waveform.reshape(channels, -1), block_length(sampling_rate, channels), dim=1
    )
    return AudioStream(sampling_rate, _mix_array(blocks, dtype, sampling_rate))


def _mix_array(blocks: tuple[Tensor, ...], dtype: torch.dtype, rate: int) -> Iterator[Tensor]:
    received = 0
    for block in blocks:
        samples = block.to("cpu", dtype)
        check_samples(samples.T, received, rate)
        received += samples.shape[1]
        yield samples.mean(0)


def _to_whole_rate(rate: Any) -> int:
    """Make an int of a rate: a number, a NumPy scalar or a tensor of one element.

    Raises:
        ValueError: It is not a positive whole number.
    """
    value = rate
    if isinstance(rate, (Tensor, np.ndarray, np.generic)) and np.prod(rate.shape) == 1:
        value = rate.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    check_sampling_rate(value)
    return int(value)
