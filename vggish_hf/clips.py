"""A clip: a file of its own, a member of a tar or a row of a Parquet file, here or behind a URL."""

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from vggish_hf._stores import (
    NoAudioError,
    StoredFile,
    check_size,
    has_ending,
    is_url,
    open_binary,
    read_file,
    read_range,
    storage_errors,
)
from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.audioset.archives import ARCHIVE_ERRORS, read_members

#: The most bytes that a clip may have where it is held in memory.
MAX_CLIP_BYTES = 1 << 30  # a process that decodes holds it twice, and may have four of these

#: Endings of the files that hold many clips. A member of a compressed tar cannot be read without
#: all that stands before it: such a tar is refused.
CONTAINER_EXTENSIONS = frozenset({".tar", ".tar.gz", ".tgz", ".parquet"})

# A header is 512 bytes; more comes with it, as a request to a store takes as long as a MiB.
_TAR_READAHEAD = 1 << 20


@dataclass(frozen=True, slots=True)
class Clip:
    """Where the audio of a clip lies; small, and made of nothing but text and numbers.

    Args:
        id: Its name in outputs.
        path: The file that holds it, a local path or a URL.
        member: In a tar the member's name, in a Parquet file the row's number.
        offset: In a tar, the byte where the member's content starts.
        size: In a tar, the bytes that the member has.
        problem: Why it cannot be read, where that is known already.
    """

    id: str
    path: str
    member: str | None = None
    offset: int | None = None
    size: int | None = None
    problem: str | None = None

    def load(self, max_bytes: int = MAX_CLIP_BYTES) -> str | bytes:
        """Make it ready for `open_audio`; in any thread or process.

        Args:
            max_bytes: The most that is held in memory.

        Returns:
            The path of a local file, and of any other clip what the file would hold.

        Raises:
            OSError: It cannot be read.
            ValueError: It has more than `max_bytes`, or a problem.

        Example:
            >>> Clip("a.wav", "a.wav").load()
            'a.wav'
        """
        if self.problem is not None:
            raise ValueError(self.problem)
        file = StoredFile(self.path, self.id)
        if self.member is None:
            return read_file(file, max_bytes) if is_url(self.path) else self.path
        if self.offset is None or self.size is None:
            from vggish_hf._clip_tables import read_row

            return read_row(file, int(self.member), max_bytes)
        check_size(self.id, self.size, max_bytes)
        return read_range(file, self.offset, self.size)


def readable_id(path: str) -> str:
    r"""A path as text: bytes that are no UTF-8 are escaped.

    Example:
        >>> readable_id(os.fsdecode(b"caf\xe9.wav"))
        'caf\\xe9.wav'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_container(path: str) -> bool:
    """Tell whether a file holds many clips, by its name."""
    return has_ending(path, CONTAINER_EXTENSIONS)


def list_container(file: StoredFile) -> list[Clip]:
    """List the clips in a tar or a Parquet file.

    Of a tar these are the plain files whose names end as audio files do, without those in hidden
    folders and hidden themselves. A member's name is part of an id, and never a path on disk. Of
    several members of one name, as appending makes them, all are clips: the ids of the second and
    those behind it end in `#2`, `#3` and so on.

    Returns:
        The clips, in order. Where the file is damaged or cannot be read, the last of them is the
        file itself, with the problem.

    Raises:
        NoAudioError: It holds no audio.
    """
    if not (is_url(file.path) or os.path.isfile(file.path)):  # a pipe would be waited for
        return [_damaged(file, f"Expected a file, there is none at {file.name!r}")]
    clips = []
    members = _table_clips(file) if has_ending(file.name, {".parquet"}) else _tar_clips(file)
    try:
        # Piece by piece: what was found before the damage stays.
        for clip in members:
            clips.append(clip)  # noqa: PERF402
    except OSError as error:
        return [*clips, _damaged(file, str(error))]
    if not clips:
        raise NoAudioError(f"Expected audio in {file.name!r}, it holds none")
    return clips


def _damaged(file: StoredFile, problem: str) -> Clip:
    return Clip(file.name, file.path, problem=problem)


def _table_clips(file: StoredFile) -> Iterator[Clip]:
    from vggish_hf._clip_tables import list_rows

    for row, row_id in enumerate(list_rows(file)):
        yield Clip(f"{file.name}/{row_id}", file.path, str(row))


def _tar_clips(file: StoredFile) -> Iterator[Clip]:
    copies: Counter[str] = Counter()
    with storage_errors(file.name), open_binary(file.path, readahead=_TAR_READAHEAD) as archive:
        try:
            for member in read_members(archive):
                name = readable_id(member.name).removeprefix("./")
                # A sparse member has holes, and what is stored of it is no file.
                if member.isfile() and not member.issparse() and _is_audio(name):
                    copies[name] += 1
                    number = f"#{copies[name]}" if copies[name] > 1 else ""
                    clip_id = f"{file.name}/{name}{number}"
                    yield Clip(clip_id, file.path, name, member.offset_data, member.size)
        except ARCHIVE_ERRORS as error:
            raise tarfile.ReadError(
                f"no uncompressed tar that is whole: {error}; unpack it if it is compressed"
            ) from error


def _is_audio(name: str) -> bool:
    # macOS puts a `._a.wav` that is no audio beside `a.wav`.
    hidden = any(part[0] == "." and part != ".." for part in PurePosixPath(name).parts)
    return has_ending(name, AUDIO_EXTENSIONS) and not hidden
