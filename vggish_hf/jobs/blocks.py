"""Blocks of examples of whole clips: read on one side, embedded on the other, written as a file."""

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from vggish_hf._runtime.prefetch import prefetch
from vggish_hf._runtime.threads import TorchThreads
from vggish_hf.audio import Decoder
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.inputs import Clip
from vggish_hf.outputs.folder import EmbeddingFolder, part_name
from vggish_hf.pipeline import (
    Postprocess,
    VGGishOutput,
    VGGishPipeline,
    example_dtype,
    stream_examples,
)

#: Examples of a block at most: 100 MB of float32, from 65 minutes of audio.
BLOCK_EXAMPLES = 4096

# Parts of a clip, of 32 examples, that wait to be put into a block.
_WAITING_PARTS = 4


@dataclass(frozen=True)
class ExampleBlock:
    """Examples of whole clips, on their way to the network.

    Args:
        counts: How many examples each clip has, in order.
        examples: (sum of `counts`, 96, 64).
        failed: Clips that could not be read, and why.
        long: A clip, alone, of more examples than a block holds: to be read where the network is.
    """

    counts: Mapping[str, int]
    examples: Tensor
    failed: Mapping[str, str]
    long: Clip | None = None


@dataclass(frozen=True)
class EmbeddedBlock:
    """The embeddings of whole clips, on their way to the disk."""

    outputs: Mapping[str, VGGishOutput]
    failed: Mapping[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How many examples each clip has."""
        return {clip: len(output.embeddings) for clip, output in self.outputs.items()}

    def write(self, folder: EmbeddingFolder) -> None:
        """Write it as a part, which replaces itself when it is written again.

        It is named after the clips that have rows: a try that finds less does not replace one that
        found more.

        Raises:
            OSError: It cannot be written; what is in the folder stays as it is.
        """
        with_rows = [clip for clip, count in self.counts.items() if count]
        name = part_name(with_rows or [*self.outputs, *self.failed])
        try:
            folder.write_part(self.outputs, self.failed, name=name)
        except OSError as error:
            raise OSError(
                error.errno or errno.EIO,
                f"Expected to write to {str(folder.path)!r}: {error.strerror or error}; what was "
                "written before is whole: mend that, and run the same again",
            ) from error


def read_blocks(
    clips: Iterable[Clip],
    extractor: VGGishFeatureExtractor,
    decode: Decoder,
    *,
    dtype: torch.dtype = torch.float32,
    num_workers: int = 2,
) -> Iterator[ExampleBlock]:
    """Decode clips and compute their examples.

    Args:
        clips: A part.
        extractor: The front end.
        decode: Opens a clip, in one of the threads.
        dtype: The network's.
        num_workers: Clips that are decoded at once.

    Yields:
        Blocks of whole clips, in order, each of at most `BLOCK_EXAMPLES` examples.
    """
    gathered = _Gathered(extractor, dtype)

    def produce(clip: Any) -> Iterator[Tensor]:
        return stream_examples(extractor, clip, dtype, decode=decode)

    parts_of = prefetch(clips, produce, num_workers=num_workers, depth=_WAITING_PARTS)
    with closing(parts_of):
        for clip, parts in parts_of:
            examples: list[Tensor] = []
            count = 0
            try:
                for part in parts:
                    examples.append(part)
                    count += len(part)
                    if count > BLOCK_EXAMPLES:
                        break
            # Only what reading raises is the clip's fault.
            except (ValueError, OSError, TypeError) as error:
                gathered.failed[clip.id] = str(error)
                continue
            if count > BLOCK_EXAMPLES:
                yield ExampleBlock({}, torch.empty(0, *example_shape(extractor)), {}, clip)
                continue
            if count > gathered.room:
                yield gathered.block()
                gathered = _Gathered(extractor, dtype)
            gathered.add(clip, examples)
    if gathered.counts or gathered.failed:
        yield gathered.block()


class _Gathered:
    """Examples of whole clips, copied to one place, of which only what is filled takes memory.

    Kept where they are, in hundreds of small pieces between larger ones that come and go, they
    would keep the allocator from using those again.
    """

    def __init__(self, extractor: VGGishFeatureExtractor, dtype: torch.dtype) -> None:
        shape = (BLOCK_EXAMPLES, *example_shape(extractor))
        self._examples = torch.empty(shape, dtype=example_dtype(dtype))
        self._count = 0
        self.counts: dict[str, int] = {}
        self.failed: dict[str, str] = {}

    @property
    def room(self) -> int:
        """How many more examples there may be."""
        return BLOCK_EXAMPLES - self._count

    def add(self, clip: Clip, parts: list[Tensor]) -> None:
        """Copy a clip's examples."""
        first = self._count
        for part in parts:
            self._examples[self._count : self._count + len(part)] = part
            self._count += len(part)
        self.counts[clip.id] = self._count - first

    def block(self) -> ExampleBlock:
        """What was added, without a copy."""
        return ExampleBlock(self.counts, self._examples[: self._count], self.failed)


def example_shape(extractor: VGGishFeatureExtractor) -> tuple[int, int]:
    """The shape of an example, (frames, bands)."""
    return extractor.config.example_frames, extractor.config.num_mel_bins


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
    """Embeds blocks of examples; a block may be started before the one before it is finished.

    Args:
        pipeline: What embeds them.
        postprocess: As for calling the pipeline.
        batch_size: Examples that the network takes at once.
        decode: Opens a clip that is too long for a block.
    """

    def __init__(
        self, pipeline: VGGishPipeline, postprocess: Postprocess, batch_size: int, decode: Decoder
    ) -> None:
        pipeline.check_postprocess(postprocess)
        self._pipeline = pipeline
        self._postprocess = postprocess
        self._batch_size = batch_size
        self._decode = decode
        # Before there are threads, no two of which may lay out the weights.
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
        """Hand in a block, and get what waits for its embeddings."""
        batches = [
            self._threads.submit(self._embed, batch)
            for batch in torch.split(block.examples, self._batch_size)
        ]
        return lambda: self._finish(block, batches)

    def _finish(self, block: ExampleBlock, batches: list[Future[Tensor]]) -> EmbeddedBlock:
        if block.long is not None:
            return self._embed_long(block.long)
        embeddings = torch.cat([batch.result() for batch in batches])
        outputs = clip_outputs(block.counts, embeddings, self._pipeline.extractor)
        return EmbeddedBlock(outputs, block.failed)

    def _embed_long(self, clip: Clip) -> EmbeddedBlock:
        failed: dict[str, str] = {}
        outputs = list(
            self._pipeline.stream(
                [clip],
                postprocess=self._postprocess,
                batch_size=self._batch_size,
                num_workers=1,
                on_error=lambda _index, _clip, error: failed.update({clip.id: str(error)}),
                decode=self._decode,
            )
        )
        return EmbeddedBlock({clip.id: outputs[0]} if outputs else {}, failed)

    def _embed(self, batch: Tensor) -> Tensor:
        return self._pipeline.embed_examples(batch, self._postprocess)
