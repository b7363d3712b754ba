"""Files with many clips: their endings, and the module for each kind.

To add a kind, write a module with the two functions of `Reader`, and add a line to `_KINDS`.
"""

import os
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.inputs.addresses import ending_of, has_ending, is_url
from vggish_hf.inputs.search import is_hidden, is_litter
from vggish_hf.inputs.signatures import describe_content
from vggish_hf.inputs.stores import Member, NoAudioError, StoredFile, open_binary


class Reader(Protocol):
    """The functions of a module that reads a kind of container."""

    def list_members(self, file: StoredFile) -> Iterator[Member]:
        """List all files or rows in it, in order; damage raises an OSError."""

    def read_member(self, file: StoredFile, member: Member, max_bytes: int) -> bytes:
        """Read one of them in any thread; raise OSError, or ValueError above `max_bytes`."""


class _Kind(NamedTuple):
    module: str
    holds_files: bool = True  # files by name; else rows by id


_KINDS = {
    ".tar": _Kind("tars"),
    ".tar.gz": _Kind("tars"),
    ".tgz": _Kind("tars"),
    ".zip": _Kind("zips"),
    ".parquet": _Kind("tables", holds_files=False),
}

#: Endings of files with many clips.
CONTAINER_EXTENSIONS = frozenset(_KINDS)

#: Endings of unsupported archives.
OTHER_ARCHIVES = frozenset(
    f".{ending}"
    for ending in (
        *("tar.bz2", "tbz", "tbz2", "tar.xz", "txz", "tar.lz4", "tar.zst", "tzst", "tar.z"),
        *("7z", "rar"),
    )
)


class Contents(NamedTuple):
    """The clips of a container.

    Args:
        members: The files or rows, by the end of their ids after the container's name.
        hidden: Names of hidden audio files, which are not members.
        problem: Why the rest of the container cannot be read, if it cannot.
    """

    members: dict[str, Member]
    hidden: list[str]
    problem: str | None


def is_container(name: str) -> bool:
    """Tell by a file's name whether it holds many clips."""
    return has_ending(name, CONTAINER_EXTENSIONS)


def list_container(file: StoredFile) -> Contents:
    """List the clips in a container.

    In an archive these are the plain files with the ending of an audio file; in a table all rows.
    Litter and hidden files are skipped, as in a folder. A name in a container is part of an id,
    never a path on disk. Several members with one name, made by appending, are all clips: the later
    ones end in `#2`, `#3` and so on.

    Raises:
        NoAudioError: It holds no audio.
    """
    if not (is_url(file.path) or os.path.isfile(file.path)):  # a pipe would block
        return Contents({}, [], f"No such file: {file.name!r}")
    kind = _KINDS[str(ending_of(file.name, CONTAINER_EXTENSIONS))]
    contents = Contents({}, [], None)
    copies: Counter[str] = Counter()
    try:
        for member in _reader(kind).list_members(file):
            # One by one: clips found before the damage stay.
            if is_litter(member.name) or (
                kind.holds_files and not has_ending(member.name, AUDIO_EXTENSIONS)
            ):
                continue
            if kind.holds_files and is_hidden(member.name):
                contents.hidden.append(member.name)
                continue
            label = member.name
            while label in contents.members:
                copies[member.name] += 1
                label = f"{member.name}#{copies[member.name] + 1}"
            contents.members[label] = member
    except OSError as error:
        return contents._replace(problem=_explain(file, str(error)))
    if not contents.members and not contents.hidden:
        raise NoAudioError(f"No audio found in {file.name!r}")
    return contents


def read_member(file: StoredFile, member: Member, max_bytes: int) -> bytes:
    """Read a member from `list_container`; the file's name is for messages.

    Raises:
        OSError: It cannot be read.
        ValueError: It has more than `max_bytes`, or the file is not a container.
    """
    ending = ending_of(file.path, CONTAINER_EXTENSIONS)
    if ending is None:
        raise ValueError(
            f"Expected a clip in one of {', '.join(sorted(CONTAINER_EXTENSIONS))}, "
            f"{file.name!r} is in a file of another kind"
        )
    return _reader(_KINDS[ending]).read_member(file, member, max_bytes)


def _reader(kind: _Kind) -> Reader:
    # Imported when needed: pyarrow takes a while.
    return cast(Reader, import_module(f"vggish_hf.inputs.{kind.module}"))


def _explain(file: StoredFile, problem: str) -> str:
    """Say what a file is that is not a container of its kind, if known."""
    try:
        with open_binary(file.path) as content:
            found = describe_content(content.read(512))
    except Exception:  # noqa: BLE001 - of any file system; `problem` says what went wrong
        return problem
    if found is None or has_ending(file.name, found.endings):
        return problem
    wanted = ending_of(file.name, CONTAINER_EXTENSIONS)
    return f"Expected a {wanted} file, {file.name!r} is {found.name}; {found.advice}"
