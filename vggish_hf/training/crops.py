"""Decode a part of a file, and little more."""

import os
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from vggish_hf.audio import AudioError, open_audio


def load_start(path: Path, seconds: float) -> tuple[Tensor, int]:
    """Decode a file from its start, up to a length.

    Args:
        path: The file, of any format that `vggish_hf.audio.open_audio` knows.
        seconds: The most that is returned.

    Returns:
        The waveform (time,), float32, its channels averaged, and its rate in Hz.

    Raises:
        AudioError: The file cannot be decoded; it names the path.
        FileNotFoundError: There is no such file.
    """
    parts: list[Tensor] = []
    try:
        stream = open_audio(path)
        missing = _num_samples(seconds, stream.sampling_rate)
        for block in stream.blocks:
            parts.append(block[:missing])
            missing -= len(parts[-1])
            if not missing:
                break
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
    return torch.cat(parts), stream.sampling_rate


def load_random_crop(path: Path, seconds: float, max_seconds: float) -> tuple[Tensor, int]:
    """Decode a part of a file, at a place that torch's generator draws.

    Only that part is decoded, from anywhere in the file. Where that is not possible (formats that
    only FFmpeg opens, files shorter than their header says) it is taken from the beginning.

    Args:
        path: The file.
        seconds: The part's length; a file that is shorter is returned whole.
        max_seconds: How much counts as the beginning.

    Returns:
        As `load_start`.

    Raises:
        AudioError: As `load_start`.
        FileNotFoundError: There is no such file.
    """
    crop = _seek_crop(path, seconds)
    if crop is not None:
        return crop
    waveform, rate = load_start(path, max(seconds, max_seconds))
    length = _num_samples(seconds, rate)
    start = _draw_start(len(waveform), length)
    return waveform[start : start + length].clone(), rate


def _seek_crop(path: Path, seconds: float) -> tuple[Tensor, int] | None:
    try:
        # Names need not be UTF-8 on POSIX, and soundfile takes such a one as bytes alone.
        with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path) as sound:
            length = min(_num_samples(seconds, sound.samplerate), sound.frames)
            # In MP3 and OGG this may miss the place by a block, which is as good a place.
            sound.seek(_draw_start(sound.frames, length))
            samples = sound.read(length, "float32", always_2d=True)
            rate: int = sound.samplerate
    except (soundfile.SoundFileError, TypeError):
        return None
    return (torch.from_numpy(samples).mean(1), rate) if len(samples) == length > 0 else None


def _num_samples(seconds: float, rate: int) -> int:
    return max(round(seconds * rate), 1)


def _draw_start(available: int, length: int) -> int:
    return int(torch.randint(max(available - length, 0) + 1, ()))
