"""Distinguish one clip from many, open clips, and compute their examples."""

import os
from collections.abc import Iterator, Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vggish_hf.audio import AudioLimits, AudioSource, Decoder, IsolatedDecoders, open_audio
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.inputs import Clip
from vggish_hf.inputs.addresses import is_url, without_secrets

# Examples of a chunk that waits for the network: 0.8 MB of float32.
_PART_EXAMPLES = 32


def example_dtype(dtype: torch.dtype) -> torch.dtype:
    """The examples' dtype for a network's dtype: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def stream_examples(
    extractor: VGGishFeatureExtractor,
    source: AudioSource,
    dtype: torch.dtype = torch.float32,
    *,
    decode: Decoder = open_audio,
) -> Iterator[Tensor]:
    """Decode a clip of any length and compute its examples, a few at once.

    Args:
        extractor: The front end.
        source: The clip, as for calling a pipeline.
        dtype: The network's, see `example_dtype`.
        decode: Opens the clip.

    Returns:
        Chunks (examples, 96, 64), never empty. This call and reading the chunks raise AudioError,
        and other errors of `decode`, if the clip fails.

    Example:
        >>> clip = (torch.zeros(16_000 * 60), 16_000)
        >>> [len(part) for part in stream_examples(VGGishFeatureExtractor(), clip)]
        [32, 30]
    """
    stream = decode(source)
    blocks = (block.to(example_dtype(dtype)) for block in stream.blocks)
    return extractor.stream(blocks, stream.sampling_rate, max_examples=_PART_EXAMPLES)


def is_one_clip(inputs: Any) -> bool:
    """Tell one clip from many: a list, tuple, array, column or iterator of clips.

    Example:
        >>> is_one_clip("a.wav"), is_one_clip((torch.zeros(100), 16_000))
        (True, True)
        >>> is_one_clip(("a.wav", "b.wav")), is_one_clip(np.array(["a.wav"]))
        (False, False)
    """
    if isinstance(inputs, (str, os.PathLike, bytes, bytearray, memoryview, Mapping, Clip)):
        return True
    if isinstance(inputs, (Tensor, np.ndarray)):
        return _is_numeric(inputs) or not inputs.ndim
    if isinstance(inputs, tuple) and len(inputs) == 2:
        return _is_numeric(inputs[0]) or isinstance(inputs[1], Number) or _is_numeric(inputs[1])
    # A file is also an iterator, of its lines; a value of a `datasets` column has items, but no
    # length.
    if hasattr(inputs, "read"):
        return True
    return not (hasattr(inputs, "__iter__") or hasattr(inputs, "__len__"))


def _is_numeric(value: Any) -> bool:
    is_array = isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
    return is_array or isinstance(value, Tensor)


def make_opener(limits: AudioLimits, decoders: IsolatedDecoders | None = None) -> Decoder:
    """Make the function that opens the inputs of a pipeline.

    Args:
        limits: Limits of a clip.
        decoders: The processes that decode files; None decodes in this process.
    """
    open_source = open_audio if decoders is None else decoders.open
    return lambda source: open_source(_load(source), limits)


def _load(source: Any) -> Any:
    if isinstance(source, Clip):
        return source.load()
    if isinstance(source, str) and is_url(source):
        raise ValueError(
            f"Expected a local path, got {without_secrets(source)!r}; pass "
            "`vggish_hf.inputs.find_clips([url])`"
        )
    return source


def name_input(error: Exception, index: int, source: Any) -> None:
    """Put the failed input's name or position before an error's message.

    Example:
        >>> error = ValueError("it holds no samples")
        >>> name_input(error, 2, "https://me:word@host/a.wav?signature=1f")
        >>> print(error)
        https://host/a.wav: it holds no samples
    """
    name, message = _name(source), str(error)
    if name is not None and is_url(name):
        name, message = without_secrets(name), without_secrets(message)
    where = f"input {index}" if name is None else name
    if where not in message:
        message = f"{where}: {message}"
    if len(error.args) == 1:
        error.args = (message,)
    else:  # its message comes from its arguments
        error.add_note(f"in {where}")


def _name(source: Any) -> str | None:
    name: Any
    match source:
        case Clip():
            name = source.id
        case str() | os.PathLike():
            name = os.fspath(source)
        case Mapping():
            name = source.get("path")
        case _:
            name = getattr(source, "name", None)  # of an open file
    return name.encode(errors="backslashreplace").decode() if isinstance(name, str) else None
