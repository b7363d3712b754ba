"""List the clips of files, folders, globs, lists, archives, tables and URLs, with ids."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.inputs.addresses import ending_of, has_ending, is_url, without_secrets
from vggish_hf.inputs.clip import Clip, readable_id
from vggish_hf.inputs.containers import (
    CONTAINER_EXTENSIONS,
    OTHER_ARCHIVES,
    Contents,
    is_container,
    list_container,
)
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

_SEARCHED = AUDIO_EXTENSIONS | CONTAINER_EXTENSIONS | OTHER_ARCHIVES
# Each header in a store is a request, which mostly waits.
_CONTAINERS_AT_ONCE = 16
_MAX_LIST_BYTES = 1 << 30  # ten million URLs


def find_clips(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    follow_symlinks: bool = False,
    on_skip: SkipHandler | None = None,
) -> list[Clip]:
    """List the clips of inputs, each once, in order; the same in every process.

    A damaged archive or an unreadable folder becomes a clip with a problem; all others are listed.

    Litter of macOS, Windows and Jupyter (`._*`, `__MACOSX`, `.ipynb_checkpoints`, `.DS_Store`,
    `Thumbs.db`) and hidden files and folders are skipped in folders, globs and containers. An input
    that names such a file includes it.

    Args:
        inputs: One input or several: files; folders, searched recursively for endings of audio
            files; globs (`**` for any folders); text files (`.txt`) with a path per line; archives
            of audio files (`.tar`, `.tar.gz`, `.tgz`, `.zip`); Parquet files with a column of
            encoded
            audio (`.parquet`): `audio` or another of structs with `bytes`, as in the Hub's
            datasets, or a binary one named `audio`, `bytes`, `wav`, `flac`, `mp3` and so on. A
            folder is searched for all of these. URLs of all of these too: `s3://`, `gs://`,
            `https://` and others of fsspec, which also reads their settings from files and the
            environment; `hf://datasets/org/name` or `hf://datasets/org/name@revision` is a dataset
            on the Hub. A line of a list is a file or its URL; a list from a URL has only URLs.
        follow_symlinks: Whether to follow links in folders, and those that globs find after their
            first wildcard. By default links to files inside the same folder are read, others are
            skipped. An input that is a link is always followed.
        on_skip: Called with the path and the reason of each skipped file, except litter.

    Returns:
        The clips. The id of a local file is its path as given, that of another file its URL without
        user name, password and signature; that of an archive's member is `ARCHIVE/MEMBER`, that of
        a row `FILE/ID`, from the first of the columns `id`, `__key__`, `key`, `video_id`,
        `file_name`, `path` and the audio's `path` with a unique name for every row, else the first
        with a name for every row, else the row's number. Repeated ids in a container end in `#2`,
        `#3` and so on. A file that does not exist is a clip that cannot be read.

    Raises:
        ImportError: The package for a kind of URL is not installed.
        OSError: A store does not answer.
        ValueError: An input has no clip, a URL is of an unknown kind, a list from a URL has a local
            file, or two clips of different places would have the same id.

    Example:
        >>> find_clips(["b.wav", "a.wav", "b.wav"])[0].id
        'b.wav'
    """
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    arguments = [os.fspath(argument) for argument in given]
    skip = on_skip or _no_handler
    found = [_find(argument, follow_symlinks, skip) for argument in arguments]
    containers = {file: None for files in found for file in files.files if is_container(file.name)}
    with ThreadPoolExecutor(_CONTAINERS_AT_ONCE) as pool:
        contents = dict(zip(containers, pool.map(_contents, containers), strict=True))
    clips: dict[str, Clip] = {}
    for argument, (files, is_search, problems) in zip(arguments, found, strict=True):
        listed = list(problems)
        for file in files:
            if (content := contents.get(file)) is not None:
                listed += _members(file, content, is_search, skip)
            elif is_search and (ending_of(file.name, OTHER_ARCHIVES) is not None):
                skip(_shown(file), "an archive of a kind that is not read")
            else:
                listed.append(Clip(file.name, file.path, problem=_problem(file)))
        if not listed:
            raise ValueError(
                f"No audio files found in {without_secrets(argument)!r}; pass audio files, or "
                f"folders, globs, lists, archives ({', '.join(sorted(CONTAINER_EXTENSIONS))}) or "
                "URLs of them"
            )
        for clip in listed:
            if clips.setdefault(clip.id, clip) != clip:
                raise ValueError(
                    f"Expected clips of different ids, two files or URLs have {clip.id!r}; rename "
                    "one or leave it out"
                )
    return list(clips.values())


class _Found(NamedTuple):
    """The files of an argument."""

    files: list[StoredFile]
    is_search: bool
    """Whether a search found them."""
    problems: Sequence[Clip] = ()


def _find(argument: str, follow_symlinks: bool, on_skip: SkipHandler) -> _Found:
    argument = argument.removeprefix("file://")
    if is_url(argument):
        files, is_search = find_remote(argument, _SEARCHED, on_skip)
        if is_search or [has_ending(file.name, {".txt"}) for file in files] != [True]:
            return _Found(files, is_search)
        text = read_file(files[0], _MAX_LIST_BYTES)
        return _Found([_remote(line, files[0]) for line in _lines(text, files[0].name)], False)
    is_folder = os.path.isdir(argument)
    folder = argument if is_folder else literal_folder(argument)
    stays = None if follow_symlinks else links_guard(folder, on_skip)
    if not is_folder:
        named: Iterable[str] = [argument]
        if is_glob(argument):
            named = sorted(search_glob(argument, follow_symlinks, stays))
        elif has_ending(argument, {".txt"}) and os.path.isfile(argument):
            named = _lines(Path(argument).read_bytes(), argument)
        return _Found([_stored(path) for path in named], False)
    problems = []

    def note(error: OSError) -> None:
        name = str(error.filename)
        problems.append(Clip(readable_id(name), name, problem=f"Expected a folder: {error}"))

    paths = search_folder(
        argument,
        partial(has_ending, endings=_SEARCHED),
        follow_folders=follow_symlinks,
        stays=stays,
        on_error=note,
        on_hidden=on_skip,
    )
    return _Found([_stored(path) for path in paths], True, problems)


def _stored(path: str) -> StoredFile:
    path = path.removeprefix("file://")
    if is_url(path):
        return locate(path)
    name = readable_id(path)
    return StoredFile(path, path if name == path else name)  # one string in memory, not two


def _remote(line: str, source: StoredFile) -> StoredFile:
    file = _stored(line)
    # `local://` is another name of `file://`.
    if not is_url(file.path) or file.path.startswith("file://"):
        raise ValueError(
            f"Expected only URLs in a list from a URL, {source.name!r} has {line!r}; "
            "download the list to allow files of this machine"
        )
    return file


def _contents(file: StoredFile) -> Contents | NoAudioError:
    try:
        return list_container(file)
    except NoAudioError as error:
        return error


def _members(
    file: StoredFile, contents: Contents | NoAudioError, is_search: bool, on_skip: SkipHandler
) -> Iterator[Clip]:
    if isinstance(contents, NoAudioError):
        if is_search:
            on_skip(_shown(file), "an archive without audio")
        else:
            yield Clip(file.name, file.path, problem=str(contents))
        return
    for name in contents.hidden:
        on_skip(f"{file.name}/{name}", "a hidden file")
    for label, member in contents.members.items():
        yield Clip(f"{file.name}/{label}", file.path, *member)
    if contents.problem is not None:
        yield Clip(file.name, file.path, problem=contents.problem)


def _problem(file: StoredFile) -> str | None:
    ending = ending_of(file.name, OTHER_ARCHIVES)
    if ending is None:
        return None
    return (
        f"Expected audio, or one of {', '.join(sorted(CONTAINER_EXTENSIONS))}, got the {ending} "
        f"file {file.name!r}; unpack it first"
    )


def _shown(file: StoredFile) -> str:
    return file.name if is_url(file.path) else file.path


def _no_handler(_path: str, _reason: SkipReason) -> None:
    pass


def _lines(text: bytes, argument: str) -> Iterator[str]:
    try:
        lines = text.decode("utf-8-sig").splitlines()  # Windows writes a mark before the text
    except UnicodeDecodeError:
        raise ValueError(f"Not a list of paths in UTF-8: {argument!r}") from None
    return filter(None, map(str.strip, lines))
