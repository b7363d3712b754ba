"""Embed clips on a cluster with Ray Data, like `vggish_hf.jobs.embed_to_folder` on one machine.

    parts of the listing -> examples -> embeddings -> files
       from the driver    CPU tasks  actors, GPUs  CPU tasks

Log-mel examples move between machines: a seventh of the bytes of their PCM. Ray retries work of
dead processes or machines, slows the tasks down if the network is slower, and spills to disk if its
memory is full. A clip longer than a block moves in pieces; the driver joins and writes their
embeddings, a fiftieth of the examples.
"""

import json
import os
import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch

from vggish_hf import hub
from vggish_hf._checks import check_at_least_one
from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits
from vggish_hf.configuration import Padding
from vggish_hf.distributed.cluster import (
    READER_BYTES,
    ClusterError,
    actor_options,
    connected,
    import_ray,
    share_cluster,
)
from vggish_hf.distributed.stages import (
    PartEmbedder,
    Row,
    embedded_block,
    part_row,
    read_part,
    write_part,
)
from vggish_hf.inputs import Clip
from vggish_hf.inputs.addresses import is_url
from vggish_hf.jobs.embedded import ClipJoiner
from vggish_hf.jobs.job import EmbeddingJob, EmbeddingSummary, cut_parts
from vggish_hf.jobs.progress import Progress, ProgressMeter
from vggish_hf.modeling.pooling import Pool
from vggish_hf.pipeline import Postprocess, VGGishPipeline


def embed_to_folder(
    model: str | Path,
    clips: Sequence[Clip],
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    padding: Padding | None = None,
    example_hop_seconds: float | None = None,
    postprocess: Postprocess = "none",
    pool: Pool | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    part_clips: int = 256,
    limits: AudioLimits = DEFAULT_LIMITS,
    address: str | None = None,
    num_actors: int | None = None,
    cpus_per_actor: float = 1.0,
    gpus_per_actor: float | None = None,
    progress: Progress | None = None,
    **options: Unpack[hub.HubOptions],
) -> EmbeddingSummary:
    """Embed clips into a folder of Parquet files, on a Ray cluster.

    Files and rows are those of `vggish_hf.jobs.embed_to_folder`, and either resumes runs of the
    other. Every machine must have this package, and must reach the clips, the model and the folder
    under the same names: a shared folder, or a Hub id for the model.

    If a process or machine dies, its current parts are made again, as often as needed; a job
    without progress for six hours ends. If this process dies, the job ends; run it again to resume.

    Args:
        model: As for `VGGishPipeline.from_pretrained`.
        clips: As for `vggish_hf.jobs.embed_to_folder`; paths are relative to this process's folder.
        folder: As there.
        dtype: Precision of the network.
        padding: As for `VGGishPipeline.from_pretrained`.
        example_hop_seconds: As for `VGGishPipeline.from_pretrained`.
        postprocess: As for calling a pipeline.
        pool: Write one row per clip, see `Pool`; None writes one per example.
        batch_size: Examples that the network takes at once.
        num_workers: Clips that a task decodes at once; use more if the store is slow.
        part_clips: Clips per task and part; fewer if they are long.
        limits: Limits of a clip.
        address: The cluster's, `"auto"` for this machine's cluster; the default is the variable
            RAY_ADDRESS, else the cluster that `ray start` started here, else a new one on this
            machine. After `ray.init`, its cluster is used.
        num_actors: Most copies of the network; the default is one per `gpus_per_actor` of the
            cluster, or without GPUs one per two CPUs.
        cpus_per_actor: CPUs of each; if the cluster has less than two, half of these: reading and
            embedding then take turns.
        gpus_per_actor: GPUs of each; the default is one if the cluster has any, else none.
        progress: Called with the numbers of newly finished or failed clips and of newly embedded
            seconds of audio.
        **options: How to fetch from the Hub, see `HubOptions`.

    Raises:
        ImportError: Ray is not installed.
        ValueError: As `vggish_hf.jobs.embed_to_folder`; or the cluster is too small.
        OSError: The folder cannot be written to, for example on a full disk, or another job writes
            to it.
        ClusterError: No cluster answers at the address, or parts were lost repeatedly.
    """
    ray = import_ray()
    check_at_least_one(batch_size=batch_size, num_workers=num_workers, part_clips=part_clips)
    settings: dict[str, Any] = {
        "dtype": dtype,
        "padding": padding,
        "example_hop_seconds": example_hop_seconds,
        **options,
    }
    pipeline = VGGishPipeline.from_pretrained(model, **settings)
    config = pipeline.extractor.config
    output = os.path.abspath(folder)
    reading = {"config": config, "dtype": dtype, "limits": limits, "num_workers": num_workers}
    network: dict[str, Any] = {
        "model": _same_everywhere(model, pipeline),
        "folder": output,
        "postprocess": postprocess,
        "batch_size": batch_size,
        "limits": limits,
        "pool": pool,
    }
    writing = {"folder": output, "config": config, "pool": pool}
    meter = ProgressMeter(progress)
    with EmbeddingJob(clips, folder, pipeline, postprocess, limits, pool) as job:
        meter.add(clips=job.skipped)
        if not job.pending:
            return job.finish()
        clips = [_absolute(clip) for clip in clips]
        with connected(ray, address):
            share = share_cluster(
                ray.cluster_resources(), num_actors, cpus_per_actor, gpus_per_actor
            )
            network["settings"] = {**settings, "device": "cuda" if share.gpus_per_actor else "cpu"}
            # A retried task may cut its part into other blocks than its first try, of which some
            # may have left already; a clip may then be in no block.
            while job.pending:
                before = len(job.pending)
                parts = [part_row(part) for part in cut_parts(clips, job.pending, part_clips)]
                dataset = (
                    ray.data.from_items(parts, override_num_blocks=len(parts))
                    .flat_map(
                        read_part,
                        fn_kwargs=reading,
                        num_cpus=share.cpus_per_reader,
                        memory=READER_BYTES,
                    )
                    .map(PartEmbedder, fn_constructor_kwargs=network, **actor_options(ray, share))
                    .map(write_part, fn_kwargs=writing, num_cpus=share.cpus_per_writer)
                )
                with closing(_rows(ray, dataset)) as rows:
                    _note_rows(rows, pipeline, job, meter)
                if len(job.pending) == before:
                    raise ClusterError(
                        f"Ray has done all tasks, but {before} clips are missing, such as "
                        f"{min(job.pending)!r}; run the command again"
                    )
        return job.finish()


def _note_rows(
    rows: Iterable[Row], pipeline: VGGishPipeline, job: EmbeddingJob, meter: ProgressMeter
) -> None:
    """Record written blocks, and write long clips whose pieces are complete."""
    joiner = ClipJoiner(pipeline.extractor)
    config = pipeline.extractor.config
    hop_seconds = config.example_hop_length / config.sampling_rate
    for row in rows:
        if (error := json.loads(row["error"])) is not None:
            raise OSError(*error)
        counts, failed = json.loads(row["counts"]), json.loads(row["failed"])
        seconds = sum(counts.values()) * hop_seconds
        if row["piece"] != "null":
            joined = joiner.add(embedded_block(row, pipeline.extractor))
            if joined is not None:
                joined.write(job.folder, job.pool)
            counts = {} if joined is None else joined.counts
        meter.add(clips=job.note(counts, failed) if counts or failed else 0, seconds=seconds)


def _same_everywhere(model: str | Path, pipeline: VGGishPipeline) -> str:
    """Name a model so that it is the same from the folders of Ray's processes.

    Loading decided what the name means: it is local if it was loaded from there.
    """
    found = pipeline.weights_path
    path = Path(model).expanduser()
    if found is not None and any(path.exists() and path.samefile(p) for p in (found, found.parent)):
        return os.path.abspath(path)
    return str(model)


def _rows(ray: Any, dataset: Any) -> Generator[Row, None, None]:
    """Run a dataset and yield its rows as they come."""
    try:
        yield from dataset.iter_rows()
    except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as error:
        raise ClusterError(
            "The Ray job failed; parts already written are complete. Fix the cause and run the "
            f"command again: {_last_error(error)}"
        ) from error


def _last_error(error: Exception) -> str:
    """Find the line that names the cause in Ray's text, which may go on with Ray's own errors."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    named = [line for line in lines if re.match(r"(?!ray\.)[\w.]+(?:Error|Exception): ", line)]
    return (named or lines)[-1]


def _absolute(clip: Clip) -> Clip:
    return clip if is_url(clip.path) else replace(clip, path=os.path.abspath(clip.path))
