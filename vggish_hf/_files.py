"""Files that appear whole or not at all."""

import glob
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, which becomes `path` unless an exception leaves.

    What a killed process left behind under such a name is deleted; one that still lives, writing
    the same file, then fails.
    """
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        stale.unlink(missing_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
