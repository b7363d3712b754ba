"""Files that appear whole or not at all."""

import glob
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file holds something else.
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
