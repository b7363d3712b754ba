"""Embed clips into a folder of Parquet files, on this machine."""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from vggish_hf._checks import check_at_least_one
from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits, IsolatedDecoders
from vggish_hf.inputs import Clip, make_decoder
from vggish_hf.jobs.blocks import (
    BlockEmbedder,
    EmbeddedBlock,
    ExampleBlock,
    read_blocks,
)
from vggish_hf.jobs.job import EmbeddingJob, EmbeddingSummary, Progress, cut_parts
from vggish_hf.pipeline import Postprocess, VGGishPipeline


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
    decode = make_decoder(decoders, limits)
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
