"""JSON Lines of the clips of a folder that have no rows."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.outputs.sources import Source, as_source

FAILED_NAME = ".failed.jsonl"


class NoRows(NamedTuple):
    """Why a clip has no rows."""

    reason: str | None
    """Why it failed; None if it did not fail, but holds no whole example."""
    source: Source | None = None
    """Its file at that time."""


def part_file(folder: Path, name: str) -> Path:
    """The file of a part's clips without rows, until `finish_failed` merges all."""
    return folder / f".failed.{name}.jsonl"


def read_failed(folder: Path) -> dict[str, NoRows]:
    """Read the clips without rows; the newest entry of a clip counts.

    Raises:
        ValueError: A line is something else; the message names it.
    """
    found: dict[str, NoRows] = {}
    for path in _files(folder):
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                clip, no_rows = _read_line(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"Expected an object with `id` and `reason` in line {number} of {str(path)!r}; "
                    f"delete the line or the file, and its clips are tried again: {error}"
                ) from error
            found[clip] = no_rows
    return found


def finish_failed(folder: Path, embedded: Iterable[str]) -> None:
    """Merge all files, without the clips that have rows now."""
    paths = _files(folder)
    if not paths:
        return
    no_rows = read_failed(folder)
    for clip in embedded:
        no_rows.pop(clip, None)
    target = folder / FAILED_NAME
    if no_rows:
        write_failed(target, no_rows)
    for path in paths:
        if path != target or not no_rows:
            path.unlink()


def _files(folder: Path) -> list[Path]:
    parts = folder.glob(part_file(folder, "part-*").name)
    newest_last = sorted(parts, key=lambda path: (path.stat().st_mtime_ns, path))
    return [*folder.glob(FAILED_NAME), *newest_last]


def _read_line(line: bytes) -> tuple[str, NoRows]:
    match json.loads(line):
        case {"id": str(clip), "reason": str() | None as reason, **rest}:
            return clip, NoRows(reason, as_source(rest.get("source")))
        case other:
            raise ValueError(f"got {str(other)[:80]!r}")


def write_failed(path: Path, clips: Mapping[str, NoRows]) -> None:
    """Write a line for each clip, sorted by id."""
    with unfinished_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for clip in sorted(clips):
            reason, source = clips[clip]
            line = {"id": clip, "reason": reason, **({"source": source} if source else {})}
            file.write(json.dumps(line) + "\n")
