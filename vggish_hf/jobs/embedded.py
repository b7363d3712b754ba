"""Blocks of embeddings: made from blocks of examples, joined to whole clips, written as a file."""

import errno
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from vggish_hf._runtime.threads import TorchThreads
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.jobs.blocks import ExampleBlock, Piece, example_shape
from vggish_hf.modeling.pooling import Pool, pool_rows
from vggish_hf.outputs.folder import EmbeddingFolder, part_name
from vggish_hf.outputs.sources import Source
from vggish_hf.pipeline import Postprocess, VGGishOutput, VGGishPipeline


@dataclass(frozen=True)
class EmbeddedBlock:
    """The embeddings of a block, on their way to the disk; see `ExampleBlock`."""

    outputs: Mapping[str, VGGishOutput]
    failed: Mapping[str, str]
    sources: Mapping[str, Source] = field(default_factory=dict)
    piece: Piece | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many examples each clip has."""
        return {clip: len(output.embeddings) for clip, output in self.outputs.items()}

    def write(self, folder: EmbeddingFolder, pool: Pool | None = None) -> None:
        """Write a block of whole clips as a part; writing it again replaces it.

        Raises:
            OSError: It cannot be written; the folder stays as it is.
        """
        outputs = {clip: pool_output(output, pool) for clip, output in self.outputs.items()}
        name = block_name(self.counts, self.failed)
        try:
            folder.write_part(outputs, self.failed, sources=self.sources, name=name)
        except OSError as error:
            raise OSError(
                error.errno or errno.EIO,
                f"Cannot write to {str(folder.path)!r}: {error.strerror or error}; parts "
                "already written are complete. Fix the cause and run the command again",
            ) from error


def block_name(counts: Mapping[str, int], failed: Mapping[str, str]) -> str:
    """Name the part of a block.

    It depends on the clips with rows, so that a try with fewer does not replace one with more.
    """
    with_rows = [clip for clip, count in counts.items() if count]
    return part_name(with_rows or [*counts, *failed])


def pool_output(output: VGGishOutput, pool: Pool | None) -> VGGishOutput:
    """Make one row of a clip's rows, starting at the clip's start; do nothing without a pool."""
    if pool is None:
        return output
    rows = pool_rows(output.embeddings, pool)
    return replace(output, embeddings=rows, start_seconds=output.start_seconds[: len(rows)])


class ClipJoiner:
    """Joins the pieces of long clips, in any order, with repeats.

    It holds the embeddings of incomplete long clips, 512 bytes per example.

    Args:
        extractor: The front end that made the examples.
    """

    def __init__(self, extractor: VGGishFeatureExtractor) -> None:
        self._extractor = extractor
        self._pieces: dict[str, dict[int, Tensor]] = {}
        self._numbers: dict[str, int] = {}  # of pieces, if known

    def add(self, block: EmbeddedBlock) -> EmbeddedBlock | None:
        """Return a block of whole clips: this one, a joined one, or None if pieces are missing."""
        for clip in block.failed:
            self._pieces.pop(clip, None)
            self._numbers.pop(clip, None)
        if block.piece is None:
            return block
        ((clip, output),) = block.outputs.items()
        pieces = self._pieces.setdefault(clip, {})
        pieces[block.piece.number] = output.embeddings
        if block.piece.is_last:
            self._numbers[clip] = block.piece.number + 1
        if len(pieces) < self._numbers.get(clip, len(pieces) + 1):
            return None
        rows = torch.cat([pieces[number] for number in range(self._numbers.pop(clip))])
        del self._pieces[clip]
        outputs = clip_outputs({clip: len(rows)}, rows, self._extractor)
        return EmbeddedBlock(outputs, {}, block.sources)


def clip_outputs(
    counts: Mapping[str, int], embeddings: Tensor, extractor: VGGishFeatureExtractor
) -> dict[str, VGGishOutput]:
    """Give each clip its rows.

    Args:
        counts: How many examples each clip has, in order.
        embeddings: (sum of `counts`, embedding_size).
        extractor: The front end that made the examples.
    """
    seconds = extractor.config.example_seconds
    rows = torch.split(embeddings, list(counts.values()))
    return {
        clip: VGGishOutput(own, extractor.example_times(len(own)), example_seconds=seconds)
        for clip, own in zip(counts, rows, strict=True)
    }


class BlockEmbedder:
    """Embeds blocks of examples; a block may start before the previous one is finished.

    Args:
        pipeline: Embeds them.
        postprocess: As for calling the pipeline.
        batch_size: Examples that the network takes at once.
    """

    def __init__(self, pipeline: VGGishPipeline, postprocess: Postprocess, batch_size: int) -> None:
        pipeline.check_postprocess(postprocess)
        self._pipeline = pipeline
        self._postprocess = postprocess
        self._batch_size = batch_size
        # Before starting threads, since two must not lay out the weights at once.
        self._embed(torch.empty(0, *example_shape(pipeline.extractor)))
        on_cpu = pipeline.model.device.type == "cpu"
        self._threads = TorchThreads(torch.get_num_threads() if on_cpu else 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.__exit__(kind, error, traceback)

    def start(self, block: ExampleBlock) -> Callable[[], EmbeddedBlock]:
        """Submit a block; the result waits for its embeddings."""
        batches = [
            self._threads.submit(self._embed, batch)
            for batch in torch.split(block.examples, self._batch_size)
        ]
        return lambda: self._finish(block, batches)

    def _finish(self, block: ExampleBlock, batches: list[Future[Tensor]]) -> EmbeddedBlock:
        embeddings = torch.cat([batch.result() for batch in batches])
        outputs = clip_outputs(block.counts, embeddings, self._pipeline.extractor)
        return EmbeddedBlock(outputs, block.failed, block.sources, block.piece)

    def _embed(self, batch: Tensor) -> Tensor:
        return self._pipeline.embed_examples(batch, self._postprocess)
