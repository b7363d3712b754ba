"""Checks before a job writes: the ids are unique, and the output is not an input."""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from vggish_hf.inputs import Clip
from vggish_hf.inputs.addresses import is_url


def unique_ids(clips: Sequence[Clip]) -> set[str]:
    """Collect the clips' ids.

    Raises:
        ValueError: Two clips have the same id.
    """
    ids: set[str] = set()
    for clip in clips:
        if clip.id in ids:
            raise ValueError(
                f"Expected clips of different ids, got {clip.id!r} twice; rename one or leave "
                "it out"
            )
        ids.add(clip.id)
    return ids


def check_is_no_input(output: Path, clips: Iterable[Clip]) -> None:
    """Raise ValueError if a job would write over its input.

    The output must not be a clip's file, or a tar or table with clips, by any name or link, nor a
    folder that contains one.
    """
    if not output.exists():
        return
    paths = {clip.path.removeprefix("file://") for clip in clips}
    paths = {path for path in paths if not is_url(path)}
    found = _in_folder(output, paths) if output.is_dir() else _same_file(output, paths)
    if found is not None:
        raise ValueError(
            f"The output {str(output)!r} is or contains the input {found!r}; choose another output"
        )


def _same_file(output: Path, paths: Iterable[str]) -> str | None:
    for path in paths:
        try:
            if os.path.samefile(output, path):
                return path
        except (OSError, ValueError):  # it is missing, and fails later
            continue
    return None


def _in_folder(output: Path, paths: Iterable[str]) -> str | None:
    folder = os.path.realpath(output)
    real_folder = cache(os.path.realpath)  # few folders, very many files

    def holds(place: str) -> bool:
        return place == folder or place.startswith(os.path.join(folder, ""))

    for path in paths:
        is_link = os.path.islink(path)
        parent = os.path.dirname(os.path.realpath(path)) if is_link else os.path.dirname(path)
        if holds(real_folder(parent or os.curdir)):
            return path
    return None
