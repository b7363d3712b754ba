"""Decode a part of a file, and little more."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from vggish_hf.audio import AudioError, AudioStream, Excerpt, open_excerpt

#: Opens a part of a file.
ExcerptOpener: TypeAlias = Callable[[Path, Excerpt], AudioStream]


def load_start(
    path: Path, seconds: float, open_part: ExcerptOpener = open_excerpt
) -> tuple[Tensor, int]:
    """Decode a file from its start, up to a length.

    Args:
        path: The file, of any format that `vggish_hf.audio.open_audio` knows.
        seconds: The most that is returned.
        open_part: Opens the part; the `open_excerpt` of `IsolatedDecoders` for untrusted audio.

    Returns:
        The waveform (time,), float32, its channels averaged, and its rate in Hz.

    Raises:
        AudioError: The file cannot be decoded; it names the path.
        FileNotFoundError: There is no such file.
    """
    return _load(path, Excerpt(seconds), open_part)


def load_random_crop(
    path: Path, seconds: float, max_seconds: float, open_part: ExcerptOpener = open_excerpt
) -> tuple[Tensor, int]:
    """Decode a part of a file, at a place that torch's generator draws.

    Only that part is decoded, from anywhere in the file. Where that is not possible (formats that
    only FFmpeg opens, joined files, files shorter than their header says) it is taken from the
    beginning.

    Args:
        path: The file.
        seconds: The part's length; a file that is shorter is returned whole.
        max_seconds: How much counts as the beginning.
        open_part: As for `load_start`.

    Returns:
        As `load_start`.

    Raises:
        AudioError: As `load_start`.
        FileNotFoundError: There is no such file.
    """
    place = torch.rand((), dtype=torch.float64).item()
    return _load(path, Excerpt(seconds, place, max_seconds), open_part)


def _load(path: Path, excerpt: Excerpt, open_part: ExcerptOpener) -> tuple[Tensor, int]:
    try:
        stream = open_part(path, excerpt)
        return torch.cat(list(stream.blocks)), stream.sampling_rate
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
