"""Which clips files, folders, globs, lists, archives, tables and URLs mean, and their ids."""

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
# Each header in a store is a request; what takes the time is waiting.
_CONTAINERS_AT_ONCE = 16
_MAX_LIST_BYTES = 1 << 30  # ten million URLs


def find_clips(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    follow_symlinks: bool = False,
    on_skip: SkipHandler | None = None,
) -> list[Clip]:
    """List the clips that inputs name, each once, in order; the same in every process.

    What cannot be listed (a damaged archive, an unreadable folder) is a clip with a problem, and
    keeps no other clip from being listed.

    What macOS, Windows and Jupyter leave beside files (`._*`, `__MACOSX`, `.ipynb_checkpoints`,
    `.DS_Store`, `Thumbs.db`) is skipped in folders, globs and containers, and so are hidden files
    and folders. An input that names such a file takes it.

    Args:
        inputs: One input or several: files; folders, searched recursively for endings of audio
            files; globs (`**` for any folders); text files (`.txt`) with a path a line; archives of
            audio files (`.tar`, `.tar.gz`, `.tgz`, `.zip`); Parquet files with a column of encoded
            audio (`.parquet`): `audio` or another of structs with `bytes`, as the Hub's datasets
            have, or a binary one named `audio`, `bytes`, `wav`, `flac`, `mp3` and so on. A folder
            is searched for all of these: shards mostly lie in folders. URLs of all of these as
            well: `s3://`, `gs://`, `https://` and whatever fsspec knows, which also reads their
            settings from files and the environment; `hf://datasets/org/name` or
            `hf://datasets/org/name@revision` is a dataset on the Hub. A line of a list is a file or
            a URL of one; of a list behind a URL, a URL.
        follow_symlinks: Whether links in folders are followed, and those that globs find after
            their first wildcard. Without it links to files inside the same folder are read, all
            others are skipped. A link that is named is followed in any case.
        on_skip: Called with the path and the reason of what is skipped, litter apart.

    Returns:
        The clips. The id of a local file is its path as given, that of any other its URL without
        user name, password and signature; that of an archive's member is `ARCHIVE/MEMBER`, that of
        a row `FILE/ID`, by the first of the columns `id`, `__key__`, `key`, `video_id`,
        `file_name`, `path` and the audio's `path` that names every row, each once, or else the
        first that names every row, or else the row's number. Where a container has an id again, the
        second and later ones end in `#2`, `#3` and so on. A file that does not exist is a clip that
        cannot be read.

    Raises:
        ImportError: The package for a kind of URL is not installed.
        OSError: A store cannot be asked.
        ValueError: An input names no clip, a URL is of no known kind, a list behind a URL names
            a local file, or two clips of different places would have the same id.

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
    """What an argument names."""

    files: list[StoredFile]
    is_search: bool
    """Whether they were searched for, and not named."""
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
        lines = text.decode("utf-8-sig").splitlines()  # Windows puts a mark before the text
    except UnicodeDecodeError:
        raise ValueError(f"Not a list of paths in UTF-8: {argument!r}") from None
    return filter(None, map(str.strip, lines))
