"""Which inputs are one clip and which are many, how each is opened, and its examples."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vggish_hf.audio import AudioSource, Decoder, open_audio
from vggish_hf.feature_extraction import VGGishFeatureExtractor

# Examples in a part that waits for the network: 0.8 MB of float32.
_PART_EXAMPLES = 32


def example_dtype(dtype: torch.dtype) -> torch.dtype:
    """What examples are made in for a network of a dtype: float64 for float64, else float32."""
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
        Parts (examples, 96, 64), none of which is empty. Reading them, like this call, raises
        AudioError, and what else `decode` raises, where the clip is bad.

    Example:
        >>> clip = (torch.zeros(16_000 * 60), 16_000)
        >>> [len(part) for part in stream_examples(VGGishFeatureExtractor(), clip)]
        [32, 30]
    """
    stream = decode(source)
    blocks = (block.to(example_dtype(dtype)) for block in stream.blocks)
    return extractor.stream(blocks, stream.sampling_rate, max_examples=_PART_EXAMPLES)
