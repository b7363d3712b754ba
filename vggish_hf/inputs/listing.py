"""Which clips files, folders, globs, lists, archives, tables and URLs mean, and their ids."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.inputs.addresses import has_ending, is_url, without_secrets
from vggish_hf.inputs.clip import MAX_CLIP_BYTES as MAX_CLIP_BYTES
from vggish_hf.inputs.clip import Clip as Clip
from vggish_hf.inputs.clip import readable_id as readable_id
from vggish_hf.inputs.containers import CONTAINER_EXTENSIONS as CONTAINER_EXTENSIONS
from vggish_hf.inputs.containers import is_container, list_container
from vggish_hf.inputs.search import (
    SkipHandler,
    SkipReason,
    is_glob,
    links_guard,
    literal_folder,
    search_folder,
    search_glob,
)
from vggish_hf.inputs.stores import NoAudioError, StoredFile, find_remote, locate, read_file

_CLIP_FILES = AUDIO_EXTENSIONS | CONTAINER_EXTENSIONS
# Each header in a store is a request; what takes the time is waiting.
_CONTAINERS_AT_ONCE = 16
_MAX_LIST_BYTES = 1 << 30  # ten million URLs


def find_inputs(arguments: Iterable[str]) -> list[str]:
    """List the audio files that arguments name, each once, in order.

    Args:
        arguments: Files; folders, searched recursively for endings of audio files; globs (`**` for
            any folders); text files (`.txt`) with a path a line. Of links in a folder, those to
            files are read and those to folders are not, nor does `**` stand for these.

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
            found = list(search_folder(argument, partial(has_ending, endings=AUDIO_EXTENSIONS)))
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
            dataset on the Hub. A line of a list is a file or a URL of one; of a list behind a URL,
            a URL.
        follow_symlinks: Whether links in folders are followed, and those that globs find behind
            their first wildcard. Without it those to files inside the same folder are read, all
            others are passed over. A link that is named is followed in any case.
        on_skip: Called with the path and the reason of what is passed over.

    Returns:
        The clips. The id of a local file is its path, that of any other its URL without user name,
        password and signature; that of a tar's member is `ARCHIVE/MEMBER`, with `#2`, `#3` and so
        on where the archive has had others of that name before, that of a row
        `FILE/ID`, by the first of the columns `id`, `__key__`, `key`, `file_name`, `path` and the
        audio's `path` that names every row, each once, or else the row's number.

    Raises:
        ImportError: The package for a kind of URL is not installed.
        OSError: A store cannot be asked.
        ValueError: An argument names no clip, a URL is of no known kind, a list behind a URL names
            a local file, or two clips of different places would have the same id.

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
        return _Found([_remote(line, files[0]) for line in _lines(text, files[0].name)], False)
    is_folder = os.path.isdir(argument)
    folder = argument if is_folder else literal_folder(argument)
    stays = None if follow_symlinks else links_guard(folder, on_skip)
    if not is_folder:
        named = _named(argument, follow_folders=follow_symlinks, stays=stays)
        return _Found([_stored(path) for path in named], False)
    problems = []

    def note(error: OSError) -> None:
        name = str(error.filename)
        problems.append(Clip(readable_id(name), name, problem=f"Expected a folder: {error}"))

    paths = search_folder(
        argument,
        partial(has_ending, endings=_CLIP_FILES),
        follow_folders=follow_symlinks,
        stays=stays,
        on_error=note,
    )
    return _Found([_stored(path) for path in paths], True, problems)


def _stored(path: str) -> StoredFile:
    path = path.removeprefix("file://")
    if is_url(path):
        return locate(path)
    name = readable_id(path)
    return StoredFile(path, path if name == path else name)  # one text in memory, not two


def _remote(line: str, source: StoredFile) -> StoredFile:
    file = _stored(line)
    # `local://` is another name of `file://`.
    if not is_url(file.path) or file.path.startswith("file://"):
        raise ValueError(
            f"Expected nothing but URLs in a list behind a URL, {source.name!r} has {line!r}; "
            "download the list if it may name files of this machine"
        )
    return file


def _content(file: StoredFile) -> list[Clip] | NoAudioError:
    try:
        return list_container(file)
    except NoAudioError as error:
        return error


def _place(clip: Clip) -> str:
    parts = [repr(without_secrets(clip.path)), clip.member and f"member {clip.member}"]
    return ", ".join(part for part in parts if part)


def _no_handler(_path: str, _reason: SkipReason) -> None:
    pass


def _named(
    argument: str,
    *,
    follow_folders: bool = False,
    stays: Callable[[str], bool] | None = None,
) -> Iterator[str]:
    if is_glob(argument):
        yield from sorted(search_glob(argument, follow_folders, stays))
    elif argument.lower().endswith(".txt") and os.path.isfile(argument):
        yield from _lines(Path(argument).read_bytes(), argument)
    else:
        yield argument


def _lines(text: bytes, argument: str) -> Iterator[str]:
    try:
        lines = text.decode("utf-8-sig").splitlines()  # Windows puts a mark before the text
    except UnicodeDecodeError:
        raise ValueError(f"Expected a list of paths in UTF-8, {argument!r} is none") from None
    return filter(None, map(str.strip, lines))
