"""What the files that rows were made of looked like, so that a changed one is noticed."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.inputs.addresses import is_url
from vggish_hf.outputs.parts import open_part
from vggish_hf.outputs.schema import SOURCES_KEY

#: Size and time of change in nanoseconds; of a clip in a tar or a table those of the whole file.
Source: TypeAlias = tuple[int, int]


def file_source(path: str) -> Source | None:
    """Look at a local file; None of a URL, and of a file that is not there."""
    local = path.removeprefix("file://")
    if is_url(local):
        return None
    try:
        state = os.stat(local)
    except (OSError, ValueError):
        return None
    return state.st_size, state.st_mtime_ns


def pack_sources(sources: Mapping[str, Source]) -> str | None:
    """Sources of clips as JSON, None if there are none."""
    return json.dumps(dict(sorted(sources.items()))) if sources else None


def read_sources(part: Path) -> dict[str, Source]:
    """Read the sources that a part's metadata hold, or the file beside one that was merged.

    Raises:
        ValueError: They hold something else.
    """
    beside = _beside(part)
    if beside.exists():
        return _parse(beside.read_bytes(), beside)
    with open_part(part) as file:
        text = (file.schema_arrow.metadata or {}).get(SOURCES_KEY.encode())
    return {} if text is None else _parse(text, part)


def merge_sources(parts: Iterable[Path], merged: Path) -> None:
    """Write what is known of the clips of several parts beside the file that they become."""
    sources: dict[str, Source] = {}
    for part in parts:
        sources.update(read_sources(part))
    packed = pack_sources(sources)
    if packed is not None:
        with unfinished_file(_beside(merged)) as unfinished:
            unfinished.write_text(packed, encoding="utf-8")


def _beside(part: Path) -> Path:
    # Readers take no metadata of hundreds of megabytes.
    return part.with_name(f".sources.{part.stem}.json")


def _parse(text: bytes, path: Path) -> dict[str, Source]:
    try:
        found = {clip: as_source(value) for clip, value in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"Expected the sizes and times of clips' files in {str(path)!r}; delete it, so that "
            f"its clips are embedded again: {error}"
        ) from error
    return {clip: source for clip, source in found.items() if source is not None}


def as_source(value: Any) -> Source | None:
    """Take a source from JSON.

    Raises:
        ValueError: It is something else.
    """
    if value is None:
        return None
    match value:
        case [int(size), int(time)]:
            return size, time
    raise ValueError(f"Expected a size and a time, got {value!r}")
