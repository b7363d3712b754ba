"""Search folders and globs, with one set of rules for links, litter and hidden files."""

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

#: Why a file in a folder or container was skipped. Litter is not reported.
SkipReason: TypeAlias = Literal[
    "a link that leads out of its folder",
    "an archive without audio",
    "an archive of a kind that is not read",
    "a hidden file",
    "a hidden folder",
]


SkipHandler: TypeAlias = Callable[[str, SkipReason], object]

# Litter of macOS, Windows and Jupyter, in small letters.
_LITTER = frozenset({"__macosx", ".ipynb_checkpoints", ".ds_store", "thumbs.db"})


def is_litter(name: str) -> bool:
    """Tell whether a name is litter of macOS, Windows or Jupyter.

    Args:
        name: Name of a file or folder, or a path in the searched folder: one litter name in it is
            enough.

    Example:
        >>> [is_litter(name) for name in ("._a.wav", "__MACOSX/a.wav", "a.wav")]
        [True, True, False]
    """
    parts = re.split(r"[/\\]", name)
    return any(part.startswith("._") or part.lower() in _LITTER for part in parts)


def is_hidden(name: str) -> bool:
    """Tell whether a name in a path begins with a dot."""
    return re.search(r"(?:^|[/\\])(?!\.\.?(?:[/\\]|$))\.", name) is not None


def links_guard(folder: str, on_skip: SkipHandler) -> Callable[[str], bool]:
    """Make a function that tells whether links stay in a folder, and reports others."""

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
    on_hidden: SkipHandler | None = None,
) -> Iterator[str]:
    """Search a folder of any depth: its files first, by name, then its subfolders.

    The paths begin with the folder's path, if it is not empty.

    Args:
        folder: The folder.
        is_wanted: Tells whether a path is wanted.
        follow_folders: Whether to follow links to folders.
        stays: Tells whether a link leads to a file of the folder.
        on_error: Called if a folder cannot be searched.
        on_hidden: Called with skipped hidden files; without it neither hidden files nor litter are
            skipped.
    """
    seen = set()
    waiting = [folder]  # no recursion: folders may be nested deeper than Python's stack
    while waiting:
        parent = waiting.pop()
        if follow_folders:  # each once, or links might loop forever
            place = os.path.realpath(parent or os.curdir)
            if place in seen:
                continue
            seen.add(place)
        try:
            with os.scandir(parent or os.curdir) as scanned:
                entries = sorted((entry.name, _is_folder(entry)) for entry in scanned)
        except OSError as error:
            if on_error is not None:
                on_error(error)
            continue
        folders = []
        for name, is_folder in entries:
            path = os.path.join(parent, name)
            if on_hidden is not None and is_litter(name):
                continue
            if on_hidden is not None and is_hidden(name):
                if is_folder or is_wanted(path):
                    on_hidden(path, "a hidden folder" if is_folder else "a hidden file")
            elif is_folder:
                folders.append(path)
            elif is_wanted(path) and (stays is None or not os.path.islink(path) or stays(path)):
                yield path
        if not follow_folders:
            links = [path for path in folders if os.path.islink(path)]
            folders = [path for path in folders if path not in links]
            if stays is not None:
                for path in links:
                    stays(path)  # never searched, but maybe reported
        waiting.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop
        return False


def is_glob(argument: str) -> bool:
    """Tell whether an argument is a pattern, not the name of an existing file."""
    return glob.has_magic(argument) and not os.path.exists(argument)


def literal_folder(pattern: str) -> str:
    """The folder before the first wildcard."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern


def wildcard_filter(pattern: str) -> Callable[[str], bool]:
    """Make a function that tells whether a pattern may match a name.

    Wildcards do not match litter; a pattern that names litter (`__MACOSX/*`, `._*`) matches it.
    """
    if any(is_litter(part.rstrip("*?")) for part in pattern.split("/")):
        return lambda _: True
    return lambda name: not is_litter(name)


def search_glob(
    pattern: str, follow_folders: bool, stays: Callable[[str], bool] | None
) -> Iterator[str]:
    """List the files of a pattern; `**` matches any folders, wildcards do not match litter."""
    folder = literal_folder(pattern)
    depth = len(Path(folder).parts)
    parts = Path(pattern).parts[depth:]
    may_find = wildcard_filter("/".join(parts))

    def is_taken(path: str) -> bool:
        return may_find("/".join(Path(path).parts[depth:]))

    if "**" in parts:  # in glob it follows every link, even in a loop

        def fits(path: str) -> bool:
            return (
                _fits(Path(path).parts[depth:], parts) and is_taken(path) and os.path.isfile(path)
            )

        yield from search_folder(folder, fits, follow_folders=follow_folders, stays=stays)
        return
    found = (path for path in glob.iglob(pattern) if is_taken(path) and os.path.isfile(path))
    if stays is None:
        yield from found
        return

    @cache
    def is_below_link(place: str) -> bool:
        if len(place) <= len(folder):
            return False
        if is_below_link(os.path.dirname(place)):
            return True
        if is_link := os.path.islink(place):
            stays(place)  # never followed, but maybe reported
        return is_link

    for path in found:
        if not is_below_link(os.path.dirname(path)) and (not os.path.islink(path) or stays(path)):
            yield path


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Match a path with a pattern like glob: wildcards do not match hidden names."""
    reached = {0}  # how many names the pattern so far may match
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
