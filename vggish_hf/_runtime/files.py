"""Files that appear only when complete, each written by one process at a time."""

import errno
import glob
import json
import os
import secrets
import socket
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# Long enough for another process to write a small file, and short next to a job.
_LOCK_SECONDS = 2.0
# Errors of file systems without locks, such as some mounted buckets.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name next to `path`; it becomes `path` unless the block raises.

    A file that a killed process left under such a name is deleted.

    Raises:
        OSError: Another process is writing the same file; the message names it.
    """
    with locked(path.with_name(f".{path.name}.lock"), path):
        for stale in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
            stale.unlink(missing_ok=True)
        unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def locked(lock_path: Path, target: Path) -> Iterator[None]:
    """Keep other processes from writing a file or folder during the block.

    The operating system releases the lock whenever the process ends.

    Args:
        lock_path: A file only for the lock, in an existing folder.
        target: The output.

    Raises:
        OSError: Another process holds the lock, or it cannot be made.
    """
    if not lock_path.parent.is_dir():  # the lock would create it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(lock_path.parent))
    taken: list[FileLock] = []
    try:
        _take(lock_path, target, taken)
        yield
    finally:
        for lock in taken:
            lock_path.unlink(missing_ok=True)  # first: a waiting process creates another
            lock.release()


def _take(lock_path: Path, target: Path, taken: list[FileLock]) -> None:
    """Add the lock to `taken` and write into its file who has it; see `locked`."""

    def take() -> None:
        lock = FileLock(lock_path, timeout=_LOCK_SECONDS, thread_local=False)
        lock.acquire(poll_interval=0.02)
        taken.append(lock)

    holder = _holder(lock_path)  # before filelock tries: below version 4 that empties the file
    try:
        # Python raises Ctrl-C in the main thread only: in another the lock is taken whole or not at
        # all, and no file stays that nobody knows of.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(int).result()  # starts it: from here on the block waits for its end
            thread.submit(take).result()
    except Timeout:
        raise OSError(
            f"{holder} is writing {str(target)!r}; wait for its end, or choose another output"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{str(target)!r} cannot be locked ({error.strerror}): make sure that no other process "
            "writes it",
            stacklevel=4,
        )
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lock_path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}")


def _holder(lock_path: Path) -> str:
    try:
        return lock_path.read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:
        return "another process"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file has other content.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a JSON object in {str(path)!r}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"Expected a JSON object in {str(path)!r}, got {type(values).__name__}")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object, indented, its keys in the given order."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
