"""Search folders and globs, with one set of rules for links and hidden files."""

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

# What macOS, Windows and Jupyter leave beside files, in small letters.
_LITTER = frozenset({"__macosx", ".ipynb_checkpoints", ".ds_store", "thumbs.db"})

#: Why something in a folder was passed over.
SkipReason: TypeAlias = Literal["a link that leads out of its folder", "an archive without audio"]


SkipHandler: TypeAlias = Callable[[str, SkipReason], object]


def is_litter(name: str) -> bool:
    """Tell whether a name is one that macOS, Windows or Jupyter leave beside files.

    Args:
        name: Name of a file or folder, or a path below the folder that is searched: one such part
            is enough.

    Example:
        >>> [is_litter(name) for name in ("._a.wav", "__MACOSX/a.wav", "a.wav")]
        [True, True, False]
    """
    return any(
        part.startswith("._") or part.lower() in _LITTER for part in re.split(r"[/\\]", name)
    )


def links_guard(folder: str, on_skip: SkipHandler) -> Callable[[str], bool]:
    """Tell of links whether they stay in a folder, and of those that do not."""

    def stays(link: str) -> bool:
        root = os.path.join(os.path.realpath(folder), "")
        inside = os.path.join(os.path.realpath(link), "").startswith(root)
        if not inside:
            on_skip(link, "a link that leads out of its folder")
        return inside

    return stays


def search_folder(
    folder: str,
    is_wanted: Callable[[str], bool],
    *,
    follow_folders: bool = False,
    stays: Callable[[str], bool] | None = None,
    on_error: Callable[[OSError], object] | None = None,
) -> Iterator[str]:
    """Search a folder; `stays` is asked whether a link leads to what is in the folder anyway.

    The paths begin with the folder's, or with nothing where that is empty.
    """
    seen = set()
    for parent, subfolders, names in os.walk(
        folder or os.curdir, onerror=on_error, followlinks=follow_folders
    ):
        subfolders.sort()
        if follow_folders:  # each once, or links might lead around for ever
            place = os.path.realpath(parent)
            if place in seen:
                subfolders.clear()
                continue
            seen.add(place)
        if not folder:
            parent = parent[2:]  # of `.` and what follows
        for name in sorted(names):
            path = os.path.join(parent, name)
            if is_wanted(path) and (stays is None or not os.path.islink(path) or stays(path)):
                yield path
        if stays is not None:
            for path in (os.path.join(parent, name) for name in subfolders):
                if os.path.islink(path):  # is not searched in any case, and may have to be told
                    stays(path)


def is_glob(argument: str) -> bool:
    """Tell whether an argument is a pattern, and not the name of something that exists."""
    return glob.has_magic(argument) and not os.path.exists(argument)


def literal_folder(pattern: str) -> str:
    """The folder before the first wildcard."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern


def search_glob(
    pattern: str, follow_folders: bool, stays: Callable[[str], bool] | None
) -> Iterator[str]:
    """List the files that a pattern names; `**` stands for any folders."""
    folder = literal_folder(pattern)
    depth = len(Path(folder).parts)
    parts = Path(pattern).parts[depth:]
    if "**" in parts:  # which in glob follows every link, around and around

        def fits(path: str) -> bool:
            return _fits(Path(path).parts[depth:], parts) and os.path.isfile(path)

        yield from search_folder(folder, fits, follow_folders=follow_folders, stays=stays)
        return
    found = filter(os.path.isfile, glob.iglob(pattern))
    if stays is None:
        yield from found
        return

    @cache
    def is_behind_link(place: str) -> bool:
        if len(place) <= len(folder):
            return False
        if is_behind_link(os.path.dirname(place)):
            return True
        if is_link := os.path.islink(place):
            stays(place)  # is not followed in any case, and may have to be told
        return is_link

    for path in found:
        if not is_behind_link(os.path.dirname(path)) and (not os.path.islink(path) or stays(path)):
            yield path


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Match a path with a pattern as glob does: wildcards stand for no hidden names."""
    reached = {0}  # how many of the names the parts so far may stand for
    for part in parts:
        if part == "**":
            for number, name in enumerate(names):
                if number in reached and not name.startswith("."):
                    reached.add(number + 1)
        else:
            reached = {
                number + 1
                for number in reached
                if number < len(names)
                and fnmatch(names[number], part)
                and part.startswith(".") >= names[number].startswith(".")
            }
    return len(names) in reached
