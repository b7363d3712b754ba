"""Which audio files names, folders, globs and lists mean, and the ids that they have in outputs."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vggish_hf.audio import AUDIO_EXTENSIONS


def find_inputs(arguments: Iterable[str]) -> list[str]:
    """List the audio files that arguments name, each once, in order.

    Args:
        arguments: Files; folders, searched recursively for endings of audio files; globs (`**` for
            any folders); text files (`.txt`) with a path a line.

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
        found = list(_expand(argument))
        if not found:
            raise ValueError(f"Expected audio files, {argument!r} names none")
        paths.update(dict.fromkeys(found))
    return list(paths)


def readable_id(path: str) -> str:
    r"""A path as text: bytes that are no UTF-8 are escaped.

    Example:
        >>> readable_id(os.fsdecode(b"caf\xe9.wav"))
        'caf\\xe9.wav'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _expand(argument: str) -> Iterator[str]:
    if os.path.isdir(argument):
        for folder, subfolders, files in os.walk(argument):
            subfolders.sort()
            for name in sorted(files):
                if os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS:
                    yield os.path.join(folder, name)
    elif not os.path.exists(argument) and glob.has_magic(argument):
        yield from sorted(filter(os.path.isfile, glob.iglob(argument, recursive=True)))
    elif argument.lower().endswith(".txt") and os.path.isfile(argument):
        try:
            lines = Path(argument).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"Expected a list of paths in UTF-8, {argument!r} is none") from None
        yield from filter(None, map(str.strip, lines))
    else:
        yield argument
