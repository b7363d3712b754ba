"""Embed clips on a cluster, by Ray Data, as `embed_clips_to_folder` does on one machine.

    parts of the listing -> examples -> embeddings -> files
       from the driver    CPU tasks  actors, GPUs  CPU tasks

What moves between machines are log-mel examples: a seventh of the bytes of the PCM they are made
of. Ray retries what dies with a process or a machine, holds the tasks back when the network cannot
follow, and spills to disk what its memory does not hold.
"""

import json
import os
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch

from vggish_hf import hub
from vggish_hf._checks import check_at_least_one
from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits
from vggish_hf.configuration import Padding
from vggish_hf.distributed.cluster import READER_BYTES, actor_options, connected, import_ray
from vggish_hf.distributed.stages import PartEmbedder, Row, part_row, read_part, write_part
from vggish_hf.inputs import Clip
from vggish_hf.inputs.addresses import is_url
from vggish_hf.jobs.job import EmbeddingJob, EmbeddingSummary, Progress, cut_parts
from vggish_hf.pipeline import Postprocess, VGGishPipeline

_WRITER_CPUS = 0.25


class ClusterError(RuntimeError):
    """A cluster that gave up; what was written is whole, and the next run does the rest."""


def embed_dataset(
    clips: Sequence[Clip],
    folder: str | Path,
    *,
    model: str | Path,
    dtype: torch.dtype = torch.float32,
    padding: Padding | None = None,
    example_hop_seconds: float | None = None,
    postprocess: Postprocess = "none",
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

    Files and rows are as `embed_clips_to_folder` makes them, and a run of either goes on with what
    the other has left. Every machine must have this package, and must reach the clips, the model
    and the folder under the same names: a folder that all share, or a Hub id for the model.

    A process or machine that dies costs the parts that it was at, which are made again, as often
    as need be; a job in which no part goes on for six hours ends. When this process dies, the job
    does, and is repeated.

    Args:
        clips: As for `embed_clips_to_folder`; paths are relative to this process's folder.
        folder: As for `embed_clips_to_folder`.
        model: As for `VGGishPipeline.from_pretrained`.
        dtype: In which precision the network runs.
        padding: As for `VGGishPipeline.from_pretrained`.
        example_hop_seconds: As for `VGGishPipeline.from_pretrained`.
        postprocess: As for calling a pipeline.
        batch_size: Examples that the network takes at once.
        num_workers: Clips that a task decodes at once; more where the store is slow.
        part_clips: Clips of a task and of a file; of long ones a file has fewer.
        limits: What a clip may be at most.
        address: The cluster's, `"auto"` for the one that this machine belongs to; without it, what
            the variable RAY_ADDRESS says, or a new one on this machine. Where `ray.init` was
            called before, its cluster is taken.
        num_actors: Copies of the network at most; without it, one for each `gpus_per_actor` of the
            cluster, or without GPUs one for every second CPU.
        cpus_per_actor: CPUs that each takes.
        gpus_per_actor: GPUs that each takes; without it, one if the cluster has any, and else none.
        progress: Called with how many more clips are done, or have failed.
        **options: How to fetch from the Hub, see `HubOptions`.

    Raises:
        ImportError: Ray is not installed.
        ValueError: As `embed_clips_to_folder`; or the cluster is too small for the actors.
        OSError: The folder cannot be written to, for example since the disk is full.
        ClusterError: Parts were lost again and again.
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
    job = EmbeddingJob(clips, folder, pipeline, postprocess, limits, progress)
    if not job.pending:
        return job.finish()
    clips = [_absolute(clip) for clip in clips]
    output = os.path.abspath(folder)
    config = pipeline.extractor.config
    reading = {"config": config, "dtype": dtype, "limits": limits, "num_workers": num_workers}
    network: dict[str, Any] = {
        "model": os.path.abspath(model) if Path(model).is_dir() else str(model),
        "folder": output,
        "postprocess": postprocess,
        "batch_size": batch_size,
        "limits": limits,
    }
    with connected(ray, address):
        actors = actor_options(ray, num_actors, cpus_per_actor, gpus_per_actor)
        network["settings"] = {**settings, "device": "cuda" if actors["num_gpus"] else "cpu"}
        # A task that is tried again may cut its part into other blocks than its first try, of which
        # some are on their way already; a clip may then be in none of them.
        while job.pending:
            before = len(job.pending)
            parts = [part_row(part) for part in cut_parts(clips, job.pending, part_clips)]
            dataset = (
                ray.data.from_items(parts, override_num_blocks=len(parts))
                .flat_map(read_part, fn_kwargs=reading, num_cpus=1, memory=READER_BYTES)
                .map(PartEmbedder, fn_constructor_kwargs=network, **actors)
                .map(
                    write_part,
                    fn_kwargs={"folder": output, "config": config},
                    num_cpus=_WRITER_CPUS,
                )
            )
            with closing(_rows(ray, dataset)) as rows:
                for row in rows:
                    if (error := json.loads(row["error"])) is not None:
                        raise OSError(*error)
                    job.note(json.loads(row["counts"]), json.loads(row["failed"]))
            if len(job.pending) == before:
                raise ClusterError(
                    f"Ray has done all of its tasks, and {before} clips are missing, such as "
                    f"{min(job.pending)!r}; run the same again"
                )
    return job.finish()


def _rows(ray: Any, dataset: Any) -> Generator[Row, None, None]:
    """Run a dataset and give its rows as they come."""
    try:
        yield from dataset.iter_rows()
    except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as error:
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ClusterError(
            f"Ray has given up, what was written before is whole; mend what it says and run the "
            f"same again: {last}"
        ) from error


def _absolute(clip: Clip) -> Clip:
    return clip if is_url(clip.path) else replace(clip, path=os.path.abspath(clip.path))
