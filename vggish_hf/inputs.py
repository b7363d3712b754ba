"""Which clips files, folders, globs, lists, archives, tables and URLs mean, and their ids."""

import glob
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from vggish_hf._stores import (
    NoAudioError,
    StoredFile,
    find_remote,
    has_ending,
    is_url,
    locate,
    read_file,
    url_name,
)
from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.clips import CONTAINER_EXTENSIONS as CONTAINER_EXTENSIONS
from vggish_hf.clips import MAX_CLIP_BYTES as MAX_CLIP_BYTES
from vggish_hf.clips import Clip as Clip
from vggish_hf.clips import is_container, list_container
from vggish_hf.clips import readable_id as readable_id

#: Why something in a folder was passed over.
SkipReason: TypeAlias = Literal["a link that leads out of its folder", "an archive without audio"]
SkipHandler: TypeAlias = Callable[[str, SkipReason], object]

_CLIP_FILES = AUDIO_EXTENSIONS | CONTAINER_EXTENSIONS
# Each header in a store is a request; what takes the time is waiting.
_CONTAINERS_AT_ONCE = 16
_MAX_LIST_BYTES = 1 << 30  # ten million URLs


def find_inputs(arguments: Iterable[str]) -> list[str]:
    """List the audio files that arguments name, each once, in order.

    Args:
        arguments: Files; folders, searched recursively for endings of audio files; globs (`**` for
            any folders); text files (`.txt`) with a path a line. Of links in a folder, those to
            files are read and those to folders are not.

    Returns:
        The paths as given, those in a folder behind the folder's. A file that is named but does
        not exist is among them.

    Raises:
        ValueError: A folder, glob or list names no file.

    Example:
        >>> find_inputs(["b.wav", "a.wav", "b.wav"])
        ['b.wav', 'a.wav']
    """
    paths: dict[str, None] = {}
    for argument in arguments:
        if os.path.isdir(argument):
            found = list(_search(argument, AUDIO_EXTENSIONS))
        else:
            found = list(_named(argument))
        if not found:
            raise ValueError(f"Expected audio files, {argument!r} names none")
        paths.update(dict.fromkeys(found))
    return list(paths)


def find_clips(
    arguments: Iterable[str],
    *,
    follow_symlinks: bool = False,
    on_skip: SkipHandler | None = None,
) -> list[Clip]:
    """List the clips that arguments name, each once, in order; the same in every process.

    What cannot be listed (a damaged archive, an unreadable folder) is a clip with a problem, and
    keeps no other clip from being listed.

    Args:
        arguments: Files, folders, globs and lists, as for `find_inputs`; tars with audio files in
            them (`.tar`); Parquet files with a column of encoded audio (`.parquet`): `audio` or
            another of structs with `bytes`, as the Hub's datasets have, or a binary one named
            `audio`, `bytes`, `wav`, `flac`, `mp3` and so on. A folder is searched for all of
            these: shards mostly lie in folders. URLs of all of these as well: `s3://`, `gs://`,
            `https://` and whatever fsspec knows, which also reads their settings from files and
            the environment; `hf://datasets/org/name` or `hf://datasets/org/name@revision` is a
            dataset on the Hub. A line of a list is a file or a URL of one.
        follow_symlinks: Whether links in folders are followed. Without it those to files inside
            the same folder are read, all others are passed over. A link that is named is followed
            in any case, and so is what a glob finds.
        on_skip: Called with the path and the reason of what is passed over.

    Returns:
        The clips. The id of a local file is its path, that of any other its URL without user name,
        password and signature; that of a tar's member is `ARCHIVE/MEMBER`, that of a row
        `FILE/ID`, by the first of the columns `id`, `__key__`, `key`, `file_name`, `path` and the
        audio's `path` that names every row, each once, or else the row's number.

    Raises:
        ImportError: The package for a kind of URL is not installed.
        OSError: A store cannot be asked.
        ValueError: An argument names no clip, a URL is of no known kind, or two clips would have
            the same id.

    Example:
        >>> find_clips(["b.wav", "a.wav", "b.wav"])[0].id
        'b.wav'
    """
    arguments = list(arguments)
    found = [_find(argument, follow_symlinks, on_skip or _no_handler) for argument in arguments]
    containers = {file: None for files in found for file in files.files if is_container(file.name)}
    with ThreadPoolExecutor(_CONTAINERS_AT_ONCE) as pool:
        contents = dict(zip(containers, pool.map(_content, containers), strict=True))
    clips: dict[str, Clip] = {}
    for argument, (files, is_search, problems) in zip(arguments, found, strict=True):
        listed = list(problems)
        for file in files:
            content = contents.get(file, [Clip(file.name, file.path)])
            if not isinstance(content, NoAudioError):
                listed += content
            elif is_search:
                (on_skip or _no_handler)(file.path, "an archive without audio")
            else:
                listed.append(Clip(file.name, file.path, problem=str(content)))
        if not listed:
            raise ValueError(f"Expected audio files, {argument!r} names none")
        for clip in listed:
            if clips.setdefault(clip.id, clip) != clip:
                raise ValueError(
                    f"Expected clips of different ids, {clip.id!r} is that of "
                    f"{_place(clips[clip.id])} and of {_place(clip)}; rename one or leave it out"
                )
    return list(clips.values())


class _Found(NamedTuple):
    """What an argument names."""

    files: list[StoredFile]
    is_search: bool
    """Whether they were searched for, and not named."""
    problems: Sequence[Clip] = ()


def _find(argument: str, follow_symlinks: bool, on_skip: SkipHandler) -> _Found:
    argument = argument.removeprefix("file://")
    if is_url(argument):
        files, is_search = find_remote(argument, _CLIP_FILES)
        if is_search or [has_ending(file.name, {".txt"}) for file in files] != [True]:
            return _Found(files, is_search)
        text = read_file(files[0], _MAX_LIST_BYTES)
        return _Found([_stored(line) for line in _lines(text, argument)], False)
    if not os.path.isdir(argument):
        return _Found([_stored(path) for path in _named(argument)], False)
    root = os.path.realpath(argument)
    problems = []

    def stays(link: str) -> bool:
        inside = os.path.join(os.path.realpath(link), "").startswith(os.path.join(root, ""))
        if not inside:
            on_skip(link, "a link that leads out of its folder")
        return inside

    def note(error: OSError) -> None:
        name = str(error.filename)
        problems.append(Clip(readable_id(name), name, problem=f"Expected a folder: {error}"))

    paths = _search(
        argument,
        _CLIP_FILES,
        follow_folders=follow_symlinks,
        stays=None if follow_symlinks else stays,
        on_error=note,
    )
    return _Found([_stored(path) for path in paths], True, problems)


def _stored(path: str) -> StoredFile:
    path = path.removeprefix("file://")
    if is_url(path):
        return locate(path, _CLIP_FILES)
    name = readable_id(path)
    return StoredFile(path, path if name == path else name)  # one text in memory, not two


def _content(file: StoredFile) -> list[Clip] | NoAudioError:
    try:
        return list_container(file)
    except NoAudioError as error:
        return error


def _place(clip: Clip) -> str:
    parts = [repr(url_name(clip.path, ())), clip.member and f"member {clip.member}"]
    parts.append(None if clip.offset is None else f"byte {clip.offset}")
    return ", ".join(part for part in parts if part)


def _no_handler(_path: str, _reason: SkipReason) -> None:
    pass


def _search(
    folder: str,
    endings: Collection[str],
    *,
    follow_folders: bool = False,
    stays: Callable[[str], bool] | None = None,
    on_error: Callable[[OSError], object] | None = None,
) -> Iterator[str]:
    """Search a folder; `stays` is asked whether a link leads to what is in the folder anyway."""
    seen = set()
    for parent, subfolders, names in os.walk(folder, onerror=on_error, followlinks=follow_folders):
        subfolders.sort()
        if follow_folders:  # each once, or links might lead around for ever
            place = os.path.realpath(parent)
            if place in seen:
                subfolders.clear()
                continue
            seen.add(place)
        for name in sorted(names):
            path = os.path.join(parent, name)
            if has_ending(name, endings) and (
                stays is None or not os.path.islink(path) or stays(path)
            ):
                yield path
        if stays is not None:
            for path in (os.path.join(parent, name) for name in subfolders):
                if os.path.islink(path):  # is not searched in any case, and may have to be told
                    stays(path)


def _named(argument: str) -> Iterator[str]:
    if not os.path.exists(argument) and glob.has_magic(argument):
        yield from sorted(filter(os.path.isfile, glob.iglob(argument, recursive=True)))
    elif argument.lower().endswith(".txt") and os.path.isfile(argument):
        yield from _lines(Path(argument).read_bytes(), argument)
    else:
        yield argument


def _lines(text: bytes, argument: str) -> Iterator[str]:
    try:
        lines = text.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"Expected a list of paths in UTF-8, {argument!r} is none") from None
    return filter(None, map(str.strip, lines))
