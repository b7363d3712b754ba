"""What must be so before a job writes: clips of different ids, and an output that is no input."""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from vggish_hf.inputs import Clip
from vggish_hf.inputs.addresses import is_url


def unique_ids(clips: Sequence[Clip]) -> set[str]:
    """Collect the clips' ids.

    Raises:
        ValueError: Two clips have the same.
    """
    ids: set[str] = set()
    for clip in clips:
        if clip.id in ids:
            raise ValueError(
                f"Expected clips of different ids, {clip.id!r} is there twice; rename one or leave "
                "it out"
            )
        ids.add(clip.id)
    return ids


def check_is_no_input(output: Path, clips: Iterable[Clip]) -> None:
    """Raise ValueError if a job would write over what it reads.

    That is an output which is a clip's file, or the tar or table that holds clips, by whatever name
    or link; or an output folder that holds one of these.
    """
    if not output.exists():
        return
    paths = {clip.path.removeprefix("file://") for clip in clips}
    paths = {path for path in paths if not is_url(path)}
    found = _in_folder(output, paths) if output.is_dir() else _same_file(output, paths)
    if found is not None:
        raise ValueError(
            f"Expected an output that is no input, {str(output)!r} is or holds the input "
            f"{found!r}; choose another output"
        )


def _same_file(output: Path, paths: Iterable[str]) -> str | None:
    for path in paths:
        try:
            if os.path.samefile(output, path):
                return path
        except (OSError, ValueError):  # it is not there, and fails later
            continue
    return None


def _in_folder(output: Path, paths: Iterable[str]) -> str | None:
    folder = os.path.realpath(output)
    real_folder = cache(os.path.realpath)  # of few folders, for very many files

    def holds(place: str) -> bool:
        return place == folder or place.startswith(os.path.join(folder, ""))

    for path in paths:
        is_link = os.path.islink(path)
        parent = os.path.dirname(os.path.realpath(path)) if is_link else os.path.dirname(path)
        if holds(real_folder(parent or os.curdir)):
            return path
    return None
