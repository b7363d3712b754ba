"""Distinguish files with one clip from whole videos, and cut clips out of videos.

The rule, for a clip of `start` to `end` and a file of `length` seconds:

- A file that is named for the clip's times holds only the clip.
- So does one with `length <= end - start + 1`.
- Any other one is the whole video if `length >= end - 1` (it must have half of a clip shorter than
  two seconds), and `start` to `end` is cut out of it.
- Any other file fails.
"""

import io
import math
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from vggish_hf._runtime.prefetch import prefetch
from vggish_hf.audio import (
    AUDIO_EXTENSIONS,
    AudioError,
    Decoder,
    DecoderStartError,
    IsolatedDecoders,
    open_audio,
)
from vggish_hf.audio.parts import EncodedContent
from vggish_hf.audio.soundfiles import SequentialSoundFile
from vggish_hf.audioset.clips.index import ClipFile, LeftOut
from vggish_hf.audioset.clips.names import ClipError
from vggish_hf.audioset.segments import Segment
from vggish_hf.inputs import MAX_CLIP_BYTES

#: Allowed difference in seconds from the clip, or from the whole video up to the clip's end.
MARGIN = 1.0

# The encoding of a cut, by libsndfile's name of the file's samples; and the type that carries them
# without loss. Others, such as lossy codecs, decode to float32.
_LOSSLESS = {
    "PCM_S8": ("FLAC", "PCM_S8", "int32"),
    "PCM_U8": ("FLAC", "PCM_S8", "int32"),
    "PCM_16": ("FLAC", "PCM_16", "int32"),
    "PCM_24": ("FLAC", "PCM_24", "int32"),
    "PCM_32": ("WAV", "PCM_32", "int32"),
    "DOUBLE": ("WAV", "DOUBLE", "float64"),
}
_FLOAT = ("WAV", "FLOAT", "float32")
# The endings of audio files, by their first bytes.
_CONTENTS = {
    ".wav": rb"RIFF....WAVE|RF64....WAVE",
    ".flac": rb"fLaC",
    ".ogg": rb"OggS",
    ".m4a": rb"....ftyp",
    ".webm": rb"\x1aE\xdf\xa3",
    ".aiff": rb"FORM....AIF[FC]",
    ".mp3": rb"ID3|\xff[\xe0-\xff]",
}
_MAX_FLAC_CHANNELS = 8
_MAX_WAV_HEADER_BYTES = 100  # up to the chunk after `fmt ` and `fact`
_MAX_BLOCK_VALUES = 1 << 20


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip, ready to store.

    Args:
        segment: Its line of the CSV.
        name: Name of a file of its format.
        content: The file of this clip only: its path, or its bytes.
    """

    segment: Segment
    name: str
    content: Path | bytes


def read_clips(
    files: Iterable[ClipFile], *, in_memory: bool, verify: bool = True, num_workers: int = 2
) -> Iterator[Clip | LeftOut]:
    """Read clips, decode each to its end, and cut them out of whole videos.

    Separate processes decode the files. This one cuts clips out of what they have decoded before.

    Args:
        files: The clips' files; `num_workers` are read ahead.
        in_memory: Whether to read every clip's content, or to leave files of one clip in place.
        verify: Whether to decode files too whose name says that they hold only the clip.
        num_workers: Files decoded at once.

    Yields:
        The clips in the order of their files, or the reason of a failed one.
    """
    loaded = ((file, _load(file)) for file in files)
    with IsolatedDecoders() as decoders:
        prepare = partial(_prepare, in_memory=in_memory, verify=verify, decode=decoders.open)
        for _, clips in prefetch(loaded, prepare, num_workers=num_workers, depth=1):
            yield from clips


def _load(file: ClipFile) -> Path | bytes | ClipError:
    try:
        return file.load()
    except ClipError as error:
        return error


def _prepare(
    loaded: tuple[ClipFile, Path | bytes | ClipError],
    in_memory: bool,
    verify: bool,
    decode: Decoder,
) -> Iterator[Clip | LeftOut]:
    file, content = loaded
    segment, name = file.segment, file.name
    try:
        if isinstance(content, ClipError):
            raise content
        is_known = file.is_cut and not verify
        cut = None if is_known else cut_clip(content, segment, is_cut=file.is_cut, decode=decode)
        if cut is not None:
            ending = "flac" if cut.startswith(b"fLaC") else "wav"
            content, name = cut, f"{segment.video_id}.{ending}"
        elif in_memory and isinstance(content, Path):
            _check_size(content.stat().st_size)
            content = content.read_bytes()
        if isinstance(content, bytes):
            name = _with_ending(name, content)
    except DecoderStartError:
        raise
    # torchcodec raises RuntimeError.
    except (ValueError, OSError, RuntimeError) as error:
        yield LeftOut(segment.video_id, str(error))
    else:
        yield Clip(segment, name, content)


def _with_ending(name: str, content: bytes) -> str:
    """Add the ending to a name that lacks it, such as that of a table's row."""
    if os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS:
        return name
    for ending, start in _CONTENTS.items():
        if re.match(start, content, re.DOTALL):
            return f"{name}{ending}"
    return name


def cut_clip(
    content: Path | bytes,
    segment: Segment,
    *,
    is_cut: bool = False,
    decode: Decoder = open_audio,
) -> bytes | None:
    """Cut a clip out of a file, unless the file holds only the clip.

    Every sample of the clip is decoded, so the result is known to be complete.

    Args:
        content: The file's path, or its bytes.
        segment: The clip.
        is_cut: Whether the file's name says that it holds only the clip.
        decode: Opens the file.

    Returns:
        None if the file holds only the clip. Else the clip with all channels and the same samples,
        as FLAC for integers of up to 24 bits, else as WAV.

    Raises:
        AudioError: The file cannot be decoded.
        ClipError: It is neither the clip nor its video.
    """
    stream = decode(content)
    rate = stream.sampling_rate
    longest = math.inf if is_cut else (segment.duration + MARGIN) * rate
    samples = 0
    for block in stream.blocks:
        samples += len(block)
        if samples > longest and samples >= segment.end_time_seconds * rate:
            break
    if samples <= longest:
        return None
    try:
        # With soundfile's own class each read of MP3 disturbs the next.
        sound = SequentialSoundFile(
            EncodedContent(content) if isinstance(content, bytes) else content
        )
    except (soundfile.SoundFileError, TypeError):
        return _cut_with_torchcodec(content, segment)
    with sound:
        return _cut_with_soundfile(sound, segment)


def _cut_with_soundfile(sound: soundfile.SoundFile, segment: Segment) -> bytes:
    rate, channels = sound.samplerate, sound.channels
    container, subtype, dtype = _LOSSLESS.get(sound.subtype, _FLOAT)
    if channels > _MAX_FLAC_CHANNELS and container == "FLAC":
        container, subtype, dtype = _FLOAT
    start, end = (round(t * rate) for t in (segment.start_time_seconds, segment.end_time_seconds))
    received = 0
    encoded = io.BytesIO()
    try:
        # libsndfile seeks exactly, but not in MP3: there samples were off by 0.3.
        if sound.format == "MP3":
            deque(_read(sound, start, dtype), maxlen=0)
        else:
            sound.seek(min(start, sound.frames))
        with soundfile.SoundFile(encoded, "w", rate, channels, subtype, format=container) as cut:
            for block in _read(sound, end - start, dtype):
                cut.write(block)
                received += len(block)
                _check_size(encoded.tell())
    except soundfile.SoundFileError as error:
        raise AudioError(f"cutting the clip out failed: {error}") from None
    _check_whole(received / rate, segment)
    return _undated(encoded.getvalue())


def _read(sound: soundfile.SoundFile, samples: int, dtype: str) -> Iterator[NDArray[np.generic]]:
    """Read at most so many samples in blocks."""
    length = max(_MAX_BLOCK_VALUES // sound.channels, 1)
    while samples > 0 and len(block := sound.read(min(samples, length), dtype, always_2d=True)):
        samples -= len(block)
        yield block


def _cut_with_torchcodec(content: Path | bytes, segment: Segment) -> bytes:
    from torchcodec.decoders import AudioDecoder

    decoder = AudioDecoder(content)
    nothing = decoder.get_samples_played_in_range(0, 0)
    samples, rate = nothing.data, nothing.sample_rate
    _check_size(int(segment.duration * rate) * len(samples) * samples.itemsize)
    # It raises if the range lies after the end.
    with suppress(RuntimeError):
        samples = decoder.get_samples_played_in_range(
            segment.start_time_seconds, segment.end_time_seconds
        ).data
    _check_whole(samples.shape[-1] / rate, segment)
    encoded = io.BytesIO()
    container, subtype, _ = _FLOAT
    soundfile.write(encoded, samples.numpy().T, rate, subtype, format=container)
    return _undated(encoded.getvalue())


def _undated(encoded: bytes) -> bytes:
    """Take out the time that libsndfile writes into a WAV of floats: equal cuts are equal bytes."""
    if not encoded.startswith(b"RIFF"):
        return encoded
    # Then size, version and time, 4 bytes each.
    at = encoded.find(b"PEAK", 0, _MAX_WAV_HEADER_BYTES)
    return encoded if at < 0 else encoded[: at + 12] + bytes(4) + encoded[at + 16 :]


def _check_size(size: int) -> None:
    if size > MAX_CLIP_BYTES:
        raise ClipError(f"the clip has {size} bytes, at most {MAX_CLIP_BYTES} are stored")


def _check_whole(seconds: float, segment: Segment) -> None:
    """Refuse a file that ends too early: it has only `seconds` of the clip."""
    if seconds < segment.duration - min(MARGIN, segment.duration / 2):
        raise ClipError(
            f"the file is longer than the clip, {segment.duration:g} s, and is not the whole video "
            f"either, which would last at least to {segment.end_time_seconds:g} s"
        )
