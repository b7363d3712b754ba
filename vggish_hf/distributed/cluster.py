"""Join a Ray cluster, and find how many actors fit on it."""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vggish_hf._checks import check_at_least_one

# Actors that die one after the other while they load the model.
_MAX_FAILED_STARTS = 3


# A block of examples, the copies of it on its way out, and the libraries. Tasks that take the same
# as the actors, Ray would let the actors do: no clip would be read while the network computes.
READER_BYTES = 1 << 30


# Far more than a part, or a clip of half a day, takes from a slow store; what hangs ends, too.
_STALLED_SECONDS = 6 * 3600.0


def import_ray() -> Any:
    """Import Ray.

    Raises:
        ImportError: It is not installed.
    """
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
def connected(ray: Any, address: str | None) -> Iterator[None]:
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


def actor_options(
    ray: Any, num_actors: int | None, cpus_per_actor: float, gpus_per_actor: float | None
) -> dict[str, Any]:
    """Arguments of Ray Data for the actors, see `fit_actors`."""
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
        ("bytes of memory", have.get("memory", math.inf), READER_BYTES),
    ):
        if needed > there:
            raise ValueError(
                f"Expected a cluster of at least {needed:.10g} {unit} for {num_actors} actors of "
                f"{cpus_per_actor:g} CPUs and {gpus_per_actor:g} GPUs and a CPU to read with, got "
                f"{there:.10g}; let more machines join it, or pass fewer `num_actors`"
            )
    return num_actors, gpus_per_actor
