"""Handle closed or full standard streams: they do not fail a command."""

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO


class _LossyFile(io.FileIO):
    """A file that drops what it cannot write."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except OSError:
            return len(content)


def keep_going_without_listeners() -> None:
    """Ignore a standard error that is closed or full."""
    file = io.BufferedWriter(_LossyFile(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(
        file, sys.stderr.encoding, errors="backslashreplace", line_buffering=True
    )


def is_unread(stream: TextIO) -> bool:
    """Tell whether a stream is a pipe whose reader has gone (`| head`)."""
    poll = select.poll()
    try:
        poll.register(stream, 0)
    except (OSError, ValueError):  # no file at all
        return False
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def flush_output() -> None:
    """Write what the standard output still holds, if it can be written."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()


def discard_output() -> None:
    """Discard what the standard output still holds, or its flush at exit fails."""
    with open(os.devnull, "w") as nowhere, suppress(OSError, ValueError):
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
