"""Embed any number of clips into a folder, block by block; a run that is killed is repeated.

    clips -> parts of the listing -> blocks of examples -> the network -> a file for each block

One machine does it with `embed_clips_to_folder`, a cluster with `vggish_hf.distributed`, by the
same functions: the batches that the network takes are the same, and so are the rows.
"""

from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits
from vggish_hf.clips import Clip
from vggish_hf.embedding_blocks import (
    BlockEmbedder,
    EmbeddedBlock,
    ExampleBlock,
    open_clips,
    read_blocks,
)
from vggish_hf.isolated_audio import IsolatedDecoders
from vggish_hf.output_folder import EmbeddingFolder
from vggish_hf.pipeline import Postprocess, VGGishPipeline

Progress = Callable[[int], None]


@dataclass(frozen=True)
class EmbeddingSummary:
    """What a run did.

    Args:
        clips: How many clips it embedded.
        examples: How many rows these have.
        failed: Clips that could not be read, and why; the next run tries them again.
        too_short: Clips without a whole example.
        skipped: How many clips an earlier run had done.
    """

    clips: int
    examples: int
    failed: dict[str, str]
    too_short: tuple[str, ...]
    skipped: int


def cut_parts(
    clips: Iterable[Clip], pending: Container[str], part_clips: int
) -> Iterator[list[Clip]]:
    """Cut a listing into parts, and leave out clips that need no work.

    The cuts do not depend on what is done: a run that is repeated makes the same parts.

    Args:
        clips: The whole listing.
        pending: The ids of those to work on.
        part_clips: How many clips of the listing make up a part.

    Yields:
        The parts that have any, in order.

    Example:
        >>> clips = [Clip(name, name) for name in "abcde"]
        >>> [[clip.id for clip in part] for part in cut_parts(clips, {"b", "e"}, 2)]
        [['b'], ['e']]
    """
    remaining = iter(clips)
    while part := list(islice(remaining, part_clips)):
        if kept := [clip for clip in part if clip.id in pending]:
            yield kept


class EmbeddingJob:
    """Which clips are to be embedded into a folder, and what has become of them.

    Args:
        clips: All of them, those that an earlier run has done too.
        folder: A new folder, or one of the same weights, options and limits.
        pipeline: What embeds them.
        postprocess: As for calling the pipeline.
        limits: What a clip may be at most.
        progress: Called with how many more clips are done, or have failed.

    Raises:
        ValueError: Two clips have the same id, or the folder holds something else.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        folder: str | Path,
        pipeline: VGGishPipeline,
        postprocess: Postprocess,
        limits: AudioLimits,
        progress: Progress | None = None,
    ) -> None:
        pipeline.check_postprocess(postprocess)
        #: The ids of clips that are not done, and have not failed in this run.
        self.pending = _unique_ids(clips)
        self.folder = EmbeddingFolder(folder)
        self.folder.start(
            job_provenance(pipeline, postprocess, limits),
            pipeline.model.config.embedding_size,
            torch.uint8 if postprocess == "uint8" else torch.float32,
        )
        self._progress = progress or (lambda _count: None)
        self.pending.difference_update(self.folder.ids())
        self._skipped = len(clips) - len(self.pending)
        self._progress(self._skipped)
        self._embedded = 0
        self._examples = 0
        self._too_short: list[str] = []
        self._failed: dict[str, str] = {}

    def note(self, counts: Mapping[str, int], failed: Mapping[str, str]) -> None:
        """Take note of a block that is written; of clips that were noted before, nothing."""
        new = self.pending.intersection([*counts, *failed])
        self.pending -= new
        self._failed.update((clip, failed[clip]) for clip in new & failed.keys())
        embedded = [count for clip, count in counts.items() if clip in new and count]
        self._embedded += len(embedded)
        self._examples += sum(embedded)
        self._too_short += [clip for clip, count in counts.items() if clip in new and not count]
        self._progress(len(new))

    def finish(self) -> EmbeddingSummary:
        """Put the folder in order and say what was done."""
        self.folder.finish()
        return EmbeddingSummary(
            self._embedded, self._examples, self._failed, tuple(self._too_short), self._skipped
        )


def job_provenance(
    pipeline: VGGishPipeline, postprocess: Postprocess, limits: AudioLimits
) -> dict[str, Any]:
    """What rows depend on: runs that differ in any of it do not share a folder."""
    return {**pipeline.provenance(postprocess), "limits": asdict(limits)}


def check_at_least_one(**values: int) -> None:
    """Raise ValueError for a value below one."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"Expected `{name}` of at least 1, got {value}")


def embed_clips_to_folder(
    pipeline: VGGishPipeline,
    clips: Sequence[Clip],
    folder: str | Path,
    *,
    postprocess: Postprocess = "none",
    batch_size: int = 32,
    num_workers: int = 2,
    part_clips: int = 256,
    limits: AudioLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> EmbeddingSummary:
    """Embed clips into a folder of Parquet files, on this machine.

    Each file appears whole or not at all; a run that was interrupted or killed is repeated, and
    does what is missing. Clips are decoded in processes of their own: one that cannot be read is
    named in the summary and in the folder's `.left-out.jsonl`, and the next run tries it again.

    Args:
        pipeline: What embeds them.
        clips: The clips, of different ids; see `vggish_hf.inputs.find_clips`.
        folder: A new folder, or one of the same weights, options and limits; of one job at a time.
        postprocess: As for calling the pipeline.
        batch_size: Examples that the network takes at once.
        num_workers: Clips that are decoded at once.
        part_clips: Clips of a file; of long ones a file has fewer, see `BLOCK_EXAMPLES`. An
            interruption costs those that are not finished, two at most.
        limits: What a clip may be at most.
        progress: Called with how many more clips are done, or have failed.

    Raises:
        ValueError: An argument is refused, the model has no post-processor, or the folder was made
            from something else.
        OSError: The folder cannot be written to, for example since the disk is full.
    """
    check_at_least_one(batch_size=batch_size, num_workers=num_workers, part_clips=part_clips)
    job = EmbeddingJob(clips, folder, pipeline, postprocess, limits, progress)
    decoders = IsolatedDecoders()
    decode = open_clips(decoders, limits)
    dtype = pipeline.model.dtype

    def read() -> Generator[ExampleBlock, None, None]:
        for part in cut_parts(clips, job.pending, part_clips):
            yield from read_blocks(
                part, pipeline.extractor, decode, dtype=dtype, num_workers=num_workers
            )

    blocks = read()
    # The decoders are ended before the threads that wait for them.
    with (
        BlockEmbedder(pipeline, postprocess, batch_size, decode) as embedder,
        closing(blocks),
        decoders,
    ):
        _write_blocks(map(embedder.start, blocks), job)
    return job.finish()


def _write_blocks(started: Iterable[Callable[[], EmbeddedBlock]], job: EmbeddingJob) -> None:
    """Write each block as soon as it is embedded, however long the next one is in coming."""

    def write(finish: Callable[[], EmbeddedBlock]) -> None:
        embedded = finish()
        embedded.write(job.folder)
        job.note(embedded.counts, embedded.failed)

    with ThreadPoolExecutor(1, "vggish-hf-writer") as writer:
        written: Future[None] | None = None
        for finish in started:
            if written is not None:
                written.result()
            written = writer.submit(write, finish)
        if written is not None:
            written.result()


def _unique_ids(clips: Sequence[Clip]) -> set[str]:
    ids: set[str] = set()
    for clip in clips:
        if clip.id in ids:
            raise ValueError(f"Expected clips of different ids, {clip.id!r} is there twice")
        ids.add(clip.id)
    return ids
