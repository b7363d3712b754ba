"""Raw blocks: what every decoder makes of a clip."""

from collections.abc import Generator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

RawBlocks: TypeAlias = Generator[NDArray[np.float32], None, None]

_BLOCK_SECONDS = 20
#: Bytes of the largest block, whatever a header claims of its rate and channels.
MAX_BLOCK_BYTES = 16 << 20


class RawAudio(NamedTuple):
    """A clip that is decoded while it is read."""

    sampling_rate: int
    """Hz."""
    blocks: RawBlocks
    """Consecutive parts (time, channels), contiguous, none of them empty or larger than
    MAX_BLOCK_BYTES. Reading them may raise AudioError."""
    first_sample: int = 0
    """Where in the clip they begin."""


def block_length(sampling_rate: int, channels: int) -> int:
    """Samples in a block: twenty seconds, or less where these would be too large."""
    return max(min(_BLOCK_SECONDS * sampling_rate, MAX_BLOCK_BYTES // (4 * channels)), 1)
