"""Embed clips into one file, on this machine."""

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vggish_hf._checks import check_at_least_one
from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits, IsolatedDecoders
from vggish_hf.inputs import Clip, make_decoder
from vggish_hf.inputs.addresses import without_secrets
from vggish_hf.jobs.embedded import pool_output
from vggish_hf.jobs.job import EmbeddingSummary, check_output_options
from vggish_hf.jobs.progress import Progress, ProgressMeter
from vggish_hf.jobs.targets import check_is_no_input, unique_ids
from vggish_hf.modeling.pooling import Pool, pooled_size
from vggish_hf.modeling.postprocessor import find_postprocess
from vggish_hf.outputs import check_output, open_output
from vggish_hf.pipeline import Postprocess, VGGishPipeline


def embed_to_file(
    pipeline: VGGishPipeline,
    clips: Sequence[Clip],
    file: str | Path,
    *,
    postprocess: Postprocess = "none",
    pool: Pool | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    limits: AudioLimits = DEFAULT_LIMITS,
    inputs: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> EmbeddingSummary:
    """Embed clips into one file, on this machine.

    The file appears at the end, only when it is complete. Clips are decoded in separate processes;
    the summary lists failed clips, which have no rows. If all clips fail, nothing is written.

    Args:
        pipeline: Embeds them.
        clips: The clips, with unique ids; see `vggish_hf.inputs.find_clips`.
        file: The file; its ending gives the format, see `vggish_hf.outputs.open_output`.
        postprocess: As for calling the pipeline.
        pool: Write one row per clip, see `Pool`; None writes one per example.
        batch_size: Examples that the network takes at once.
        num_workers: Clips decoded at once.
        limits: Limits of a clip.
        inputs: The inputs the clips come from; noted in the file, without secrets of URLs.
        progress: Called with the numbers of newly finished or failed clips and of newly read
            seconds of audio.

    Raises:
        ValueError: An argument is invalid, the model has no post-processor, two clips have the same
            id, or the file is an input.
        OSError: The file cannot be written, or another process is writing it.

    Example:
        >>> from vggish_hf.inputs import find_clips
        >>> pipe = VGGishPipeline.from_pretrained("demo")
        >>> clips = find_clips(["music/"])  # doctest: +SKIP
        >>> embed_to_file(pipe, clips, "music.parquet").clips  # doctest: +SKIP
        12
    """
    file = Path(file)
    check_at_least_one(batch_size=batch_size, num_workers=num_workers)
    check_output_options(pipeline, postprocess, pool)
    dtype = find_postprocess(postprocess).dtype()
    check_output(file, dtype)
    unique_ids(clips)
    check_is_no_input(file, clips)
    options: dict[str, Any] = {"batch_size": batch_size, "limits": asdict(limits)}
    if inputs is not None:
        options["inputs"] = [without_secrets(name) if "://" in name else name for name in inputs]
    provenance = {**pipeline.provenance(postprocess), "pool": pool, "options": options}
    size = pooled_size(pipeline.model.config.embedding_size, pool)
    meter = ProgressMeter(progress)
    failed: dict[str, str] = {}
    too_short: list[str] = []
    decoders = IsolatedDecoders()
    outputs = pipeline.stream(
        clips,
        postprocess=postprocess,
        batch_size=batch_size,
        num_workers=num_workers,
        on_error=lambda _index, clip, error: failed.update({clip.id: str(error)}),
        decode=meter.metered(make_decoder(decoders, limits)),
    )
    done = examples = 0
    with (
        closing(outputs),
        decoders,  # they end before the threads that wait for them
        suppress(_NothingEmbeddedError),
        open_output(file, size, dtype, provenance) as write,
    ):
        for out in outputs:
            clip = clips[out.index].id
            write(clip, pool_output(out, pool))
            examples += len(out.embeddings)
            if not len(out.embeddings):
                too_short.append(clip)
            meter.add(clips=out.index + 1 - done)
            done = out.index + 1
        meter.add(clips=len(clips) - done)
        if len(failed) == len(clips):
            raise _NothingEmbeddedError
    embedded = len(clips) - len(failed) - len(too_short)
    return EmbeddingSummary(embedded, examples, failed, tuple(too_short), 0)


class _NothingEmbeddedError(Exception):
    """Every clip failed; an existing output stays as it is."""
