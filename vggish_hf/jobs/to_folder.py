"""Embed clips into a folder of Parquet files, on this machine."""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from vggish_hf._checks import check_at_least_one
from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits, IsolatedDecoders
from vggish_hf.inputs import Clip, make_decoder
from vggish_hf.jobs.blocks import ExampleBlock, read_blocks
from vggish_hf.jobs.embedded import BlockEmbedder, ClipJoiner, EmbeddedBlock
from vggish_hf.jobs.job import EmbeddingJob, EmbeddingSummary, cut_parts
from vggish_hf.jobs.progress import Progress, ProgressMeter
from vggish_hf.modeling.pooling import Pool
from vggish_hf.pipeline import Postprocess, VGGishPipeline


def embed_to_folder(
    pipeline: VGGishPipeline,
    clips: Sequence[Clip],
    folder: str | Path,
    *,
    postprocess: Postprocess = "none",
    pool: Pool | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    part_clips: int = 256,
    limits: AudioLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> EmbeddingSummary:
    """Embed clips into a folder of Parquet files, on this machine.

    Each file appears only when it is complete; repeat an interrupted or killed run to resume it. A
    clip whose file has a new size or time is embedded again. Clips are decoded in separate
    processes; the summary and the folder's `.failed.jsonl` list failed clips, and the next run
    tries them again.

    Args:
        pipeline: Embeds them.
        clips: The clips, with unique ids; see `vggish_hf.inputs.find_clips`.
        folder: A new folder, or one of the same weights, options and limits.
        postprocess: As for calling the pipeline.
        pool: Write one row per clip, see `Pool`; None writes one per example.
        batch_size: Examples that the network takes at once.
        num_workers: Clips decoded at once.
        part_clips: Clips per part; fewer if they are long, see `BLOCK_EXAMPLES`. An interruption
            loses the unfinished parts, at most two.
        limits: Limits of a clip.
        progress: Called with the numbers of newly finished or failed clips and of newly read
            seconds of audio.

    Raises:
        ValueError: An argument is invalid, the model has no post-processor, two clips have the same
            id, the folder has other settings, or it holds an input.
        OSError: The folder cannot be written to, for example on a full disk, or another job writes
            to it.
    """
    check_at_least_one(batch_size=batch_size, num_workers=num_workers, part_clips=part_clips)
    meter = ProgressMeter(progress)
    decoders = IsolatedDecoders()
    decode = meter.metered(make_decoder(decoders, limits))
    dtype = pipeline.model.dtype

    def read(job: EmbeddingJob) -> Generator[ExampleBlock, None, None]:
        for part in cut_parts(clips, job.pending, part_clips):
            yield from read_blocks(
                part, pipeline.extractor, decode, dtype=dtype, num_workers=num_workers
            )

    with EmbeddingJob(clips, folder, pipeline, postprocess, limits, pool) as job:
        meter.add(clips=job.skipped)
        # The decoders end before the threads that wait for them.
        with (
            BlockEmbedder(pipeline, postprocess, batch_size) as embedder,
            closing(read(job)) as blocks,
            decoders,
        ):
            joiner = ClipJoiner(pipeline.extractor)
            _write_blocks(map(embedder.start, blocks), joiner, job, meter)
        return job.finish()


def _write_blocks(
    started: Iterable[Callable[[], EmbeddedBlock]],
    joiner: ClipJoiner,
    job: EmbeddingJob,
    meter: ProgressMeter,
) -> None:
    """Write each block as soon as it is embedded, without waiting for the next one."""

    def write(finish: Callable[[], EmbeddedBlock]) -> None:
        embedded = joiner.add(finish())
        if embedded is not None:
            embedded.write(job.folder, job.pool)
            meter.add(clips=job.note(embedded.counts, embedded.failed))

    with ThreadPoolExecutor(1, "vggish-hf-writer") as writer:
        written: Future[None] | None = None
        for finish in started:
            if written is not None:
                written.result()
            written = writer.submit(write, finish)
        if written is not None:
            written.result()
