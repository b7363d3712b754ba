"""Blocks of examples: clips are read into them, each once and in bounded memory."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vggish_hf._runtime.prefetch import prefetch
from vggish_hf._runtime.row_buffer import RowBuffer
from vggish_hf.audio import Decoder
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.inputs import Clip
from vggish_hf.outputs.sources import Source, file_source
from vggish_hf.pipeline import example_dtype, stream_examples

#: Examples of a block at most: 100 MB of float32, from 65 minutes of audio.
BLOCK_EXAMPLES = 4096

# Parts of a clip, of 32 examples, that wait to be put into a block.
_WAITING_PARTS = 4


class Piece(NamedTuple):
    """Which piece of a clip that is longer than a block."""

    number: int
    is_last: bool


@dataclass(frozen=True)
class ExampleBlock:
    """Examples of whole clips, or of a piece of a long one, on their way to the network.

    Args:
        counts: How many examples each clip has here, in order.
        examples: (sum of `counts`, 96, 64).
        failed: Clips that could not be read, and why; pieces of theirs do not count.
        sources: What the clips' files were before they were read, of those that are known.
        piece: Set where the only clip is longer than a block.
    """

    counts: Mapping[str, int]
    examples: Tensor
    failed: Mapping[str, str]
    sources: Mapping[str, Source] = field(default_factory=dict)
    piece: Piece | None = None


def read_blocks(
    clips: Iterable[Clip],
    extractor: VGGishFeatureExtractor,
    decode: Decoder,
    *,
    dtype: torch.dtype = torch.float32,
    num_workers: int = 2,
) -> Iterator[ExampleBlock]:
    """Decode clips, each once, and compute their examples.

    Args:
        clips: A part.
        extractor: The front end.
        decode: Opens a clip, in one of the threads.
        dtype: The network's.
        num_workers: Clips that are decoded at once.

    Yields:
        Blocks of at most `BLOCK_EXAMPLES` examples: of whole clips, in order, and of each longer
        clip its pieces, one after the other.
    """
    sources: dict[str, Source | None] = {}
    filling = _FillingBlock(extractor, dtype, sources)

    def produce(clip: Any) -> Iterator[Tensor]:
        sources[clip.id] = file_source(clip.path)  # before it is read
        return stream_examples(extractor, clip, dtype, decode=decode)

    parts_of = prefetch(clips, produce, num_workers=num_workers, depth=_WAITING_PARTS)
    with closing(parts_of):
        for clip, parts in parts_of:
            filling.start(clip)
            try:
                for part in parts:
                    yield from filling.add(part)
            # Only what reading raises is the clip's fault.
            except (ValueError, OSError, TypeError) as error:
                filling.discard(str(error))
            else:
                yield from filling.end()
    yield from filling.flush()


class _FillingBlock:
    """Examples of whole clips and, after these, of the one that is being read."""

    def __init__(
        self,
        extractor: VGGishFeatureExtractor,
        dtype: torch.dtype,
        sources: dict[str, Source | None],
    ) -> None:
        self._nothing = torch.empty(0, *example_shape(extractor), dtype=example_dtype(dtype))
        self._sources = sources
        self._begin()

    def _begin(self) -> None:
        self._buffer = RowBuffer(BLOCK_EXAMPLES)
        self._counts: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        self._first = 0  # example of the clip that is being read

    def start(self, clip: Clip) -> None:
        self._clip = clip.id
        self._first = len(self._buffer)
        self._pieces = 0

    def add(self, examples: Tensor) -> Iterator[ExampleBlock]:
        if self._first and len(self._buffer) + len(examples) > BLOCK_EXAMPLES:
            held = self._buffer.rows
            assert held is not None
            own = held[self._first :]
            self._buffer.cut(self._first)
            yield from self.flush()
            self._buffer.append(own)
        while len(self._buffer) + len(examples) > BLOCK_EXAMPLES:
            room = BLOCK_EXAMPLES - len(self._buffer)
            self._buffer.append(examples[:room])
            examples = examples[room:]
            yield self._piece(is_last=False)
        self._buffer.append(examples)

    def end(self) -> Iterator[ExampleBlock]:
        if self._pieces:
            yield self._piece(is_last=True)
        else:
            self._counts[self._clip] = len(self._buffer) - self._first

    def discard(self, reason: str) -> None:
        self._buffer.cut(self._first)
        self._failed[self._clip] = reason

    def flush(self) -> Iterator[ExampleBlock]:
        """Give the whole clips."""
        if self._counts or self._failed:
            yield self._block(self._counts, self._failed)
        self._begin()

    def _piece(self, *, is_last: bool) -> ExampleBlock:
        block = self._block(
            {self._clip: len(self._buffer)}, {}, Piece(self._pieces, is_last=is_last)
        )
        self._buffer = RowBuffer(BLOCK_EXAMPLES)
        self._pieces += 1
        return block

    def _block(
        self, counts: dict[str, int], failed: dict[str, str], piece: Piece | None = None
    ) -> ExampleBlock:
        rows = self._buffer.rows  # without a copy: the next block has a buffer of its own
        known = {clip: self._sources[clip] for clip in counts}
        return ExampleBlock(
            counts,
            self._nothing if rows is None else rows,
            failed,
            {clip: source for clip, source in known.items() if source is not None},
            piece,
        )


def example_shape(extractor: VGGishFeatureExtractor) -> tuple[int, int]:
    """The shape of an example, (frames, bands)."""
    return extractor.config.example_frames, extractor.config.num_mel_bins
