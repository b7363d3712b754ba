"""Embed clips on a cluster, by Ray Data, as `embed_clips_to_folder` does on one machine.

    parts of the listing -> examples -> embeddings -> files
       from the driver    CPU tasks  actors, GPUs  CPU tasks

What moves between machines are log-mel examples: a seventh of the bytes of the PCM they are made
of. Ray retries what dies with a process or a machine, holds the tasks back when the network cannot
follow, and spills to disk what its memory does not hold.
"""

import json
import logging
import math
import os
import signal
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch

from vggish_hf import hub
from vggish_hf._part_stages import PartEmbedder, Row, part_row, read_part, write_part
from vggish_hf._stores import is_url
from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits
from vggish_hf.clips import Clip
from vggish_hf.configuration import Padding
from vggish_hf.embedding_job import (
    EmbeddingJob,
    EmbeddingSummary,
    Progress,
    check_at_least_one,
    cut_parts,
)
from vggish_hf.pipeline import Postprocess, VGGishPipeline

# Actors that die one after the other while they load the model.
_MAX_FAILED_STARTS = 3
_WRITER_CPUS = 0.25
# A block of examples, the copies of it on its way out, and the libraries. Tasks that take the same
# as the actors, Ray would let the actors do: no clip would be read while the network computes.
_READER_BYTES = 1 << 30
# Far more than a part, or a clip of half a day, takes from a slow store; what hangs ends, too.
_STALLED_SECONDS = 6 * 3600.0


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
    ray = _import_ray()
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
    with _connected(ray, address):
        actors = _actor_options(ray, num_actors, cpus_per_actor, gpus_per_actor)
        network["settings"] = {**settings, "device": "cuda" if actors["num_gpus"] else "cpu"}
        # A task that is tried again may cut its part into other blocks than its first try, of which
        # some are on their way already; a clip may then be in none of them.
        while job.pending:
            before = len(job.pending)
            parts = [part_row(part) for part in cut_parts(clips, job.pending, part_clips)]
            dataset = (
                ray.data.from_items(parts, override_num_blocks=len(parts))
                .flat_map(read_part, fn_kwargs=reading, num_cpus=1, memory=_READER_BYTES)
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


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
        import ray.data.exceptions
    except ImportError as error:
        raise ImportError(
            "Embedding on a cluster needs `ray`: pip install 'vggish-hf[ray]'"
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Join a cluster for the length of the block, and keep Ray's progress and its log quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here
    is_ours = not ray.is_initialized()
    if is_ours:
        with _own_signals():
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1  # bytes: every row leaves when it is made
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = _MAX_FAILED_STARTS
    context.execution_no_progress_timeout_s = _STALLED_SECONDS
    loggers = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in loggers}
    for name, level in loggers.items():
        logging.getLogger(name).setLevel(level)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        if is_ours:
            ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Undo what the block, `ray.init`, makes of SIGTERM, which is its caller's."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main and before is not None:
            signal.signal(signal.SIGTERM, before)


def _actor_options(
    ray: Any, num_actors: int | None, cpus_per_actor: float, gpus_per_actor: float | None
) -> dict[str, Any]:
    count, gpus = fit_actors(ray.cluster_resources(), num_actors, cpus_per_actor, gpus_per_actor)
    # One that runs is enough: when a machine is lost for good, the others go on.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=count, initial_size=count)
    return {"compute": pool, "num_cpus": cpus_per_actor, "num_gpus": gpus}


def fit_actors(
    have: Mapping[str, float],
    num_actors: int | None,
    cpus_per_actor: float,
    gpus_per_actor: float | None,
) -> tuple[int, float]:
    """How many actors there may be, and how many GPUs each takes.

    Args:
        have: What the cluster has, by Ray's names.
        num_actors: As for `embed_dataset`.
        cpus_per_actor: As for `embed_dataset`.
        gpus_per_actor: As for `embed_dataset`.

    Raises:
        ValueError: The cluster is too small for them, or for the tasks beside them.
    """
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    if gpus_per_actor is None:
        gpus_per_actor = min(gpus, 1.0)
    if cpus_per_actor <= 0 or gpus_per_actor < 0:
        raise ValueError(
            "Expected `cpus_per_actor` above 0 and `gpus_per_actor` of at least 0, got "
            f"{cpus_per_actor:g} and {gpus_per_actor:g}"
        )
    if num_actors is None:
        fitting = cpus / 2 / cpus_per_actor
        if gpus_per_actor:
            fitting = min(gpus / gpus_per_actor, (cpus - 1) / cpus_per_actor)
        num_actors = max(int(fitting), 1)
    check_at_least_one(num_actors=num_actors)
    for unit, there, needed in (
        ("CPUs", cpus, num_actors * cpus_per_actor + 1),
        ("GPUs", gpus, num_actors * gpus_per_actor),
        ("bytes of memory", have.get("memory", math.inf), _READER_BYTES),
    ):
        if needed > there:
            raise ValueError(
                f"Expected a cluster of at least {needed:.10g} {unit} for {num_actors} actors of "
                f"{cpus_per_actor:g} CPUs and {gpus_per_actor:g} GPUs and a CPU to read with, got "
                f"{there:.10g}; let more machines join it, or pass fewer `num_actors`"
            )
    return num_actors, gpus_per_actor


def _absolute(clip: Clip) -> Clip:
    return clip if is_url(clip.path) else replace(clip, path=os.path.abspath(clip.path))
