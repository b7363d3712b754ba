"""Tell files that hold a clip alone from whole videos, and cut the clip out of these.

The rule, for a clip of `start` to `end` and a file of `length` seconds:

- A file that is named for the clip's times holds the clip alone.
- So does one with `length <= end - start + 1`.
- Any other one is the whole video if `length >= end - 1` (of a clip shorter than two seconds, half
  must be there), and the part from `start` to `end` is cut out of it.
- Else it is neither, and is refused.
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
from vggish_hf.audio import AUDIO_EXTENSIONS, AudioError, open_audio
from vggish_hf.audio.parts import EncodedContent
from vggish_hf.audio.soundfiles import SequentialSoundFile
from vggish_hf.audioset.clips.index import ClipFile, LeftOut
from vggish_hf.audioset.clips.names import ClipError
from vggish_hf.audioset.segments import Segment
from vggish_hf.inputs import MAX_CLIP_BYTES

#: Seconds by which a file may differ from the clip, or from the whole video up to the clip's end.
MARGIN = 1.0

_MAX_WAV_HEADER_BYTES = 80

# What a cut is encoded as, by what libsndfile calls the samples that it is cut from; and the type
# that carries these without loss. Other ones, those of lossy codecs among them, decode to float32.
_LOSSLESS = {
    "PCM_S8": ("FLAC", "PCM_S8", "int32"),
    "PCM_U8": ("FLAC", "PCM_S8", "int32"),
    "PCM_16": ("FLAC", "PCM_16", "int32"),
    "PCM_24": ("FLAC", "PCM_24", "int32"),
    "PCM_32": ("WAV", "PCM_32", "int32"),
    "DOUBLE": ("WAV", "DOUBLE", "float64"),
}
_FLOAT = ("WAV", "FLOAT", "float32")
# The endings of audio files, by what they begin with.
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
_MAX_BLOCK_VALUES = 1 << 20


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip, ready to be stored.

    Args:
        segment: What it is.
        name: Name of a file of its format.
        content: The file, which holds the clip alone: its path, or what it holds.
    """

    segment: Segment
    name: str
    content: Path | bytes


def read_clips(
    files: Iterable[ClipFile], *, in_memory: bool, verify: bool = True, num_workers: int = 2
) -> Iterator[Clip | LeftOut]:
    """Read clips, decode each of them to its end, and cut them out of whole videos.

    Args:
        files: The clips' files; read `num_workers` ahead.
        in_memory: Whether every clip's content is read, or that of a file of its own left where it
            is.
        verify: Whether files are decoded that hold a clip alone by their name.
        num_workers: How many are decoded at once.

    Yields:
        The clips in the order of their files, and in place of one that cannot be used, why.
    """
    loaded = ((file, _load(file)) for file in files)
    prepare = partial(_prepare, in_memory=in_memory, verify=verify)
    for _, clips in prefetch(loaded, prepare, num_workers=num_workers, depth=1):
        yield from clips


def _load(file: ClipFile) -> Path | bytes | ClipError:
    try:
        return file.load()
    except ClipError as error:
        return error


def _prepare(
    loaded: tuple[ClipFile, Path | bytes | ClipError], in_memory: bool, verify: bool
) -> Iterator[Clip | LeftOut]:
    file, content = loaded
    segment, name = file.segment, file.name
    try:
        if isinstance(content, ClipError):
            raise content
        is_known = file.is_cut and not verify
        cut = None if is_known else cut_clip(content, segment, is_cut=file.is_cut)
        if cut is not None:
            ending = "flac" if cut.startswith(b"fLaC") else "wav"
            content, name = cut, f"{segment.video_id}.{ending}"
        elif in_memory and isinstance(content, Path):
            _check_size(content.stat().st_size)
            content = content.read_bytes()
        if isinstance(content, bytes):
            name = _with_ending(name, content)
    # torchcodec raises RuntimeError.
    except (ValueError, OSError, RuntimeError) as error:
        yield LeftOut(segment.video_id, str(error))
    else:
        yield Clip(segment, name, content)


def _with_ending(name: str, content: bytes) -> str:
    """Add the ending to a name that lacks it, as those of a table's rows do."""
    if os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS:
        return name
    for ending, start in _CONTENTS.items():
        if re.match(start, content, re.DOTALL):
            return f"{name}{ending}"
    return name


def cut_clip(content: Path | bytes, segment: Segment, *, is_cut: bool = False) -> bytes | None:
    """Cut a clip out of a file, unless the file holds it alone.

    Every sample of the clip is decoded, so that what returns is known to be whole.

    Args:
        content: The file's path, or what it holds.
        segment: The clip.
        is_cut: Whether the file's name says that it holds the clip alone.

    Returns:
        None where the file holds the clip alone. Else the clip as FLAC, for integers of up to 24
        bits, or WAV, with all channels, and samples equal to the file's.

    Raises:
        AudioError: The file cannot be decoded.
        ClipError: It is neither the clip nor the whole video.
    """
    stream = open_audio(content)
    limit = math.inf if is_cut else (segment.duration + MARGIN) * stream.sampling_rate
    samples = 0
    for block in stream.blocks:
        samples += len(block)
        if samples > limit:
            break
    else:
        return None
    try:
        # In soundfile's own class each read of MP3 disturbs the next.
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
    return _without_time(encoded)


def _read(sound: soundfile.SoundFile, samples: int, dtype: str) -> Iterator[NDArray[np.generic]]:
    """Read so many samples in blocks, or as many as there are."""
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
    # It says by an error that the range lies after the end.
    with suppress(RuntimeError):
        samples = decoder.get_samples_played_in_range(
            segment.start_time_seconds, segment.end_time_seconds
        ).data
    _check_whole(samples.shape[-1] / rate, segment)
    encoded = io.BytesIO()
    container, subtype, _ = _FLOAT
    soundfile.write(encoded, samples.numpy().T, rate, subtype, format=container)
    return _without_time(encoded)


def _without_time(encoded: io.BytesIO) -> bytes:
    """Return a file without the time at which libsndfile wrote it: the same cut, the same bytes."""
    content = bytearray(encoded.getvalue())
    # Only WAV has one, in the chunk of the peaks, which comes before the samples.
    peak = content.find(b"PEAK", 0, _MAX_WAV_HEADER_BYTES)
    if content.startswith(b"RIFF") and peak >= 0:
        content[peak + 12 : peak + 16] = bytes(4)
    return bytes(content)


def _check_size(size: int) -> None:
    if size > MAX_CLIP_BYTES:
        raise ClipError(f"the clip has {size} bytes, at most {MAX_CLIP_BYTES} are stored")


def _check_whole(seconds: float, segment: Segment) -> None:
    """Refuse a file that ends so early that only `seconds` of the clip could be cut out."""
    if seconds < segment.duration - min(MARGIN, segment.duration / 2):
        raise ClipError(
            f"the file is longer than the clip, {segment.duration:g} s, and is not the whole video "
            f"either, which would last at least to {segment.end_time_seconds:g} s"
        )
