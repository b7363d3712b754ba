"""Decode an excerpt of a file."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from vggish_hf.audio import AudioError, AudioStream, Excerpt, open_excerpt

#: Opens an excerpt.
ExcerptOpener: TypeAlias = Callable[[Path, Excerpt], AudioStream]


def load_start(
    path: Path, seconds: float, open_part: ExcerptOpener = open_excerpt
) -> tuple[Tensor, int]:
    """Decode a file from its start, up to a length.

    Args:
        path: The file, of any format that `vggish_hf.audio.open_audio` knows.
        seconds: The most that is returned.
        open_part: Opens it; the `open_excerpt` of `IsolatedDecoders` for untrusted audio.

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
    """Decode an excerpt at a random place, drawn by torch's generator.

    Only the excerpt is decoded, anywhere in the file. If that is impossible (formats that only
    FFmpeg opens, joined files, files shorter than their header says), it is taken from the
    beginning.

    Args:
        path: The file.
        seconds: The excerpt's length; a shorter file is returned whole.
        max_seconds: How much counts as the beginning.
        open_part: See `load_start`.

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
        return open_part(path, excerpt).read()
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
