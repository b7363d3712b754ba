"""Size and time of clips' files, to notice changed ones."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.inputs.addresses import is_url
from vggish_hf.outputs.parts import open_part
from vggish_hf.outputs.schema import SOURCES_KEY

#: Size, and time of change in nanoseconds; a clip in a tar or a table has those of the whole file.
Source: TypeAlias = tuple[int, int]


def file_source(path: str) -> Source | None:
    """Inspect a local file; None for a URL or a missing file."""
    local = path.removeprefix("file://")
    if is_url(local):
        return None
    try:
        state = os.stat(local)
    except (OSError, ValueError):
        return None
    return state.st_size, state.st_mtime_ns


def pack_sources(sources: Mapping[str, Source]) -> str | None:
    """Sources of clips as JSON, None if empty."""
    return json.dumps(dict(sorted(sources.items()))) if sources else None


def read_sources(part: Path) -> dict[str, Source]:
    """Read the sources from a part's metadata, or from the file next to a merged one.

    Raises:
        ValueError: They have other content.
    """
    separate = _sources_file(part)
    if separate.exists():
        return _parse(separate.read_bytes(), separate)
    with open_part(part) as file:
        text = (file.schema_arrow.metadata or {}).get(SOURCES_KEY.encode())
    return {} if text is None else _parse(text, part)


def merge_sources(parts: Iterable[Path], merged: Path) -> None:
    """Write the sources of several parts next to their merged file."""
    sources: dict[str, Source] = {}
    for part in parts:
        sources.update(read_sources(part))
    packed = pack_sources(sources)
    if packed is not None:
        with unfinished_file(_sources_file(merged)) as unfinished:
            unfinished.write_text(packed, encoding="utf-8")


def _sources_file(part: Path) -> Path:
    # Readers reject metadata of hundreds of megabytes.
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
    """Parse a source from JSON.

    Raises:
        ValueError: It has another form.
    """
    if value is None:
        return None
    match value:
        case [int(size), int(time)]:
            return size, time
    raise ValueError(f"Expected a size and a time, got {value!r}")
