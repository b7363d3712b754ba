"""Blocks of examples, read from clips once each, in bounded memory."""

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

#: Most examples of a block: 100 MB of float32, from 65 minutes of audio.
BLOCK_EXAMPLES = 4096

# Chunks of a clip, of 32 examples, that wait for a block.
_WAITING_PARTS = 4


class Piece(NamedTuple):
    """The position of a piece in a clip longer than a block."""

    number: int
    is_last: bool


@dataclass(frozen=True)
class ExampleBlock:
    """Examples of whole clips, or of a piece of a long one, on their way to the network.

    Args:
        counts: How many examples each clip has here, in order.
        examples: (sum of `counts`, 96, 64).
        failed: Failed clips with reasons; their pieces do not count.
        sources: The clips' files as they were before reading, if known.
        piece: Set if the only clip is longer than a block.
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
        decode: Opens a clip, in any thread.
        dtype: The network's.
        num_workers: Clips decoded at once.

    Yields:
        Blocks of at most `BLOCK_EXAMPLES` examples: whole clips, in order, and the pieces of longer
        clips, in order.
    """
    sources: dict[str, Source | None] = {}
    block = _FillingBlock(extractor, dtype, sources)

    def produce(clip: Any) -> Iterator[Tensor]:
        sources[clip.id] = file_source(clip.path)  # before it is read
        return stream_examples(extractor, clip, dtype, decode=decode)

    parts_of = prefetch(clips, produce, num_workers=num_workers, depth=_WAITING_PARTS)
    with closing(parts_of):
        for clip, parts in parts_of:
            block.start(clip)
            try:
                for part in parts:
                    yield from block.add(part)
            # Only errors of reading make the clip fail.
            except (ValueError, OSError, TypeError) as error:
                block.discard(str(error))
            else:
                yield from block.end()
    yield from block.flush()


class _FillingBlock:
    """Examples of whole clips, followed by those of the clip being read."""

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
        self._first = 0  # example of the clip being read

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
        """Return the whole clips."""
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
        rows = self._buffer.rows  # without a copy: the next block has its own buffer
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
