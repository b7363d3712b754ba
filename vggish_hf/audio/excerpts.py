"""Decode an excerpt from anywhere in a file, without what comes before.

Like `decoders`, this needs no torch.
"""

from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from vggish_hf.audio.blocks import RawAudio, RawBlocks, block_length
from vggish_hf.audio.decoders import ContainerOpener, open_encoded
from vggish_hf.audio.ffmpeg import open_container
from vggish_hf.audio.limits import AudioError, AudioLimits, UnknownFormatError
from vggish_hf.audio.parts import EncodedContent
from vggish_hf.audio.soundfiles import SequentialSoundFile, open_sound_file
from vggish_hf.audio.streams import Stream, find_streams


@dataclass(frozen=True)
class Excerpt:
    """A section of a clip.

    Args:
        seconds: Its length; a shorter clip is returned whole.
        place: Where it begins: from 0, the clip's start, to 1, as late as its length allows.
        max_seconds: If the decoder cannot seek, take it from this much of the clip's start, or
            from `seconds` if that is longer.
    """

    seconds: float
    place: float = 0.0
    max_seconds: float = 0.0

    def start(self, available: int, length: int) -> int:
        """Return the first sample of an excerpt of `length` out of `available` samples."""
        return min(int(self.place * (available - length + 1)), available - length)


def read_excerpt(
    file: Path | EncodedContent,
    excerpt: Excerpt,
    limits: AudioLimits,
    open_other: ContainerOpener = open_container,
) -> RawAudio:
    """Decode an excerpt.

    Only the excerpt is decoded. If that is impossible (formats that only FFmpeg opens, joined
    files, files shorter than their header says), it is taken from the file's start.

    Args:
        file: The file.
        excerpt: Which one.
        limits: The file's limits; its duration has none.
        open_other: Opens what soundfile cannot.

    Raises:
        AudioError: The file cannot be opened or decoded, or is beyond the limits.
    """
    limits = replace(limits, max_seconds=None)
    if excerpt.place and (found := _seek(file, excerpt, limits)) is not None:
        return found
    raw = open_encoded(file, limits, open_other)
    length = _num_samples(excerpt.seconds, raw.sampling_rate)
    if not excerpt.place:
        return raw._replace(blocks=_first_samples(raw, length))
    available = max(length, _num_samples(excerpt.max_seconds, raw.sampling_rate))
    blocks = list(_first_samples(raw, available))
    if not blocks:
        return raw
    samples = np.concatenate(blocks)
    first = excerpt.start(len(samples), length := min(length, len(samples)))
    return _as_raw(samples[first : first + length], first, raw.sampling_rate)


def _seek(file: Path | EncodedContent, excerpt: Excerpt, limits: AudioLimits) -> RawAudio | None:
    if isinstance(file, Path):
        state = file.stat()
        stream = _remember_only_stream(file, state.st_size, state.st_mtime_ns)
    else:
        stream = _find_only_stream(file)
    if stream is None:
        return None
    try:
        # The decoder estimates where to seek from the size: pass the true one.
        sound = open_sound_file(file, stream._replace(claimed_bytes=None), limits)
    except UnknownFormatError:
        return None
    with sound:
        available = sound.frames if stream.max_samples is None else stream.max_samples
        length = min(_num_samples(excerpt.seconds, sound.samplerate), available)
        first = excerpt.start(available, length)
        samples = _read_from(sound, first, length)
    return None if samples is None else _as_raw(samples, first, sound.samplerate)


def _find_only_stream(file: Path | EncodedContent) -> Stream | None:
    """Find the only stream of a file; None if it holds several."""
    with closing(find_streams(file)) as streams:
        stream = next(streams)
        return stream if next(streams, None) is None else None


@lru_cache(maxsize=1 << 16)
def _remember_only_stream(path: Path, _size: int, _modified: int) -> Stream | None:
    """Search a file once: that reads all of it, and training takes an excerpt in each epoch."""
    return _find_only_stream(path)


def _read_from(sound: SequentialSoundFile, first: int, length: int) -> NDArray[np.float32] | None:
    """Read samples (time, channels); None if the decoder cannot seek or finds too few."""
    try:
        # In MP3 and OGG this may be off by a block, which does not matter.
        sound.seek(first)
    except soundfile.SoundFileError:
        return None
    try:
        samples: NDArray[np.float32] = sound.read(length, "float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioError(f"decoding failed at sample {first} or after it: {error}") from None
    return samples if len(samples) == length > 0 else None


def _as_raw(samples: NDArray[np.float32], first: int, sampling_rate: int) -> RawAudio:
    return RawAudio(sampling_rate, _divide(samples, sampling_rate), first_sample=first)


def _divide(samples: NDArray[np.float32], sampling_rate: int) -> RawBlocks:
    step = block_length(sampling_rate, samples.shape[1])
    for start in range(0, len(samples), step):
        yield samples[start : start + step]


def _first_samples(raw: RawAudio, count: int) -> RawBlocks:
    with closing(raw.blocks) as blocks:
        for block in blocks:
            yield block[:count]
            count -= len(block)
            if count <= 0:
                break


def _num_samples(seconds: float, sampling_rate: int) -> int:
    return max(round(seconds * sampling_rate), 1)
