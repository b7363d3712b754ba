"""Join a Ray cluster, and compute how many actors fit on it."""

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from vggish_hf._checks import check_at_least_one

# Consecutive actors that may die while they load the model.
_MAX_FAILED_STARTS = 3


# A block of examples, its outgoing copies, and the libraries. Ray would run tasks with the actors'
# resources in the actors, and read no clip while the network computes.
READER_BYTES = 1 << 30


# Far more than a part, or a clip of half a day, takes from a slow store; also ends hanging tasks.
_STALLED_SECONDS = 6 * 3600.0


# For a connection to a cluster anywhere in the world, and for its first answer.
_ANSWER_SECONDS = 10.0

# Ray speaks gRPC, which is HTTP/2: both sides begin with a frame of settings, of type 4.
_HTTP2_SETTINGS = b"\x04"
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _HTTP2_SETTINGS + bytes(5)


class ClusterError(RuntimeError):
    """The cluster is unreachable or failed; parts already written are complete."""


def import_ray() -> Any:
    """Import Ray.

    Raises:
        ImportError: Ray is not installed.
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
    """Join a cluster for the duration of the block, and silence Ray's progress and log."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # for a cluster started here
    is_ours = not ray.is_initialized()
    if is_ours:
        check_answers(find_address(address))
        with _own_signals():
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1  # bytes: every row leaves at once
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


def find_address(address: str | None) -> str | None:
    """Return the address that Ray would use: `auto` and None stand for what it remembers.

    That is the environment's `RAY_ADDRESS`, or a file that `ray start` writes and that stays when
    a cluster dies.
    """
    if address not in (None, "", "auto"):
        return address
    # Moved or gone in another version of Ray, it leaves the question to `ray.init`; so does
    # ConnectionError, by which it says that it remembers nothing.
    with suppress(ImportError, AttributeError, ConnectionError):
        from ray._private.services import get_ray_address_from_environment

        found: str | None = get_ray_address_from_environment(address or None, None)
        return found
    return os.environ.get("RAY_ADDRESS")


def check_answers(address: str | None) -> None:
    """Raise ClusterError if no cluster answers, since Ray would wait for minutes.

    Args:
        address: `host:port`, with or without `ray://`; others are not checked.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        place = host.strip("[]"), int(port)
        with socket.create_connection(place, _ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(_HTTP2_HELLO)
                if connection.makefile("rb").read(4)[3:] != _HTTP2_SETTINGS:
                    raise OSError("something else answers there")
    except (OSError, OverflowError, UnicodeError) as error:
        raise ClusterError(
            f"No Ray cluster answers at {address!r} ({error}); start one there with `ray start "
            "--head`, or pass another address; if you passed none, Ray has it from RAY_ADDRESS or "
            "from a cluster that has died (`ray stop` makes it forget)"
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the caller's SIGTERM handler after the block, `ray.init`."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main and before is not None:
            signal.signal(signal.SIGTERM, before)


class Share(NamedTuple):
    """The division of a cluster's processors."""

    num_actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    cpus_per_reader: float = 1.0
    cpus_per_writer: float = 0.25


def actor_options(ray: Any, share: Share) -> dict[str, Any]:
    """Arguments of Ray Data for the actors."""
    # One actor is enough: if a machine is lost, the others continue.
    pool = ray.data.ActorPoolStrategy(
        min_size=1, max_size=share.num_actors, initial_size=share.num_actors
    )
    return {
        "compute": pool,
        "num_cpus": share.cpus_per_actor,
        "num_gpus": share.gpus_per_actor,
    }


def share_cluster(
    have: Mapping[str, float],
    num_actors: int | None,
    cpus_per_actor: float,
    gpus_per_actor: float | None,
) -> Share:
    """Decide the number of actors, and the resources of actors and tasks.

    Args:
        have: The cluster's resources, by Ray's names.
        num_actors: As for `embed_to_folder`.
        cpus_per_actor: As for `embed_to_folder`.
        gpus_per_actor: As for `embed_to_folder`.

    Raises:
        ValueError: The cluster is too small for them and the tasks.
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
    share = Share(num_actors, cpus_per_actor, gpus_per_actor)
    if num_actors == 1 and 1 <= cpus < 2 and cpus_per_actor <= cpus:
        # Actors and tasks share the processor and take turns.
        share = Share(1, cpus / 2, gpus_per_actor, cpus / 4, cpus / 4)
    for unit, there, needed in (
        ("CPUs", cpus, num_actors * share.cpus_per_actor + share.cpus_per_reader),
        ("GPUs", gpus, num_actors * gpus_per_actor),
        ("bytes of memory", have.get("memory", math.inf), READER_BYTES),
    ):
        if needed > there:
            raise ValueError(
                f"Expected a cluster of at least {needed:.10g} {unit} for {num_actors} actors of "
                f"{cpus_per_actor:g} CPUs and {gpus_per_actor:g} GPUs and a CPU to read with, got "
                f"{there:.10g}; let more machines join it, or pass fewer `num_actors`"
            )
    return share
