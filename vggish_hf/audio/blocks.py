"""Raw blocks: the output of every decoder."""

from collections.abc import Generator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

RawBlocks: TypeAlias = Generator[NDArray[np.float32], None, None]

_BLOCK_SECONDS = 20
#: Size of the largest block, whatever rate and channels a header claims.
MAX_BLOCK_BYTES = 16 << 20


class RawAudio(NamedTuple):
    """A clip that is decoded while it is read."""

    sampling_rate: int
    """Hz."""
    blocks: RawBlocks
    """Consecutive blocks (time, channels), contiguous, neither empty nor larger than
    MAX_BLOCK_BYTES. Reading them may raise AudioError."""
    first_sample: int = 0
    """Where in the clip they begin."""


def block_length(sampling_rate: int, channels: int) -> int:
    """Samples in a block: twenty seconds, or fewer if that is too large."""
    return max(min(_BLOCK_SECONDS * sampling_rate, MAX_BLOCK_BYTES // (4 * channels)), 1)
