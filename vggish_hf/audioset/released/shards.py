"""The TFRecord files of AudioSet's release, in folders or inside a tar archive.

Nothing is unpacked: names that differ only in case (`5v.tfrecord`, `5V.tfrecord`) stay apart on
every disk, and no member of a hostile archive is written.
"""

import gzip
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self

from vggish_hf.inputs.search import is_litter, search_folder
from vggish_hf.inputs.tars import ARCHIVE_ERRORS, check_member, open_archive, read_members
from vggish_hf.tf_files.records import RecordError

SPLITS = ("bal_train", "eval", "unbal_train")

_SUFFIX = ".tfrecord"
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
_MAX_MEMBER_BYTES = 64 << 30  # all of AudioSet's embeddings are 3 GB
_BUFFER_BYTES = 64 << 10  # the reader's size, which suits small records


@dataclass(frozen=True, slots=True)
class Shard:
    """A TFRecord file, alone or inside an archive.

    Args:
        path: The file, or its archive.
        member: Its name in the archive; None for a file alone.
        offset: Byte of the archive, decompressed, at which it starts.
        size: Its bytes.
        modified: Time of the last change, in seconds since 1970.
    """

    path: Path
    member: str | None
    offset: int
    size: int
    modified: float

    @property
    def name(self) -> str:
        """Its place, for people."""
        return str(self.path if self.member is None else self.path / self.member)


def find_shards(source: str | os.PathLike[str]) -> dict[str, list[Shard]]:
    """Find the shards of each split; their folder has the split's name.

    Args:
        source: A folder, searched recursively for TFRecord files, and for tar archives if there are
            none; or such an archive, plain or gzipped. Files in an archive outside of a split's
            folder belong to the split of the archive's name (`bal_train.tar`).

    Returns:
        The shards by split, in the order of `SPLITS`: sorted by name in a folder, in order in an
        archive.

    Raises:
        FileNotFoundError: `source` does not exist.
        RecordError: The archive is damaged, or has links, devices or names that lead out of it.
        ValueError: It has no shard.
    """
    path = Path(source).absolute()
    found = _in_folder(path) if path.is_dir() else _in_archive(path)
    splits: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    for split, shard in found:
        if split in splits:
            splits[split].append(shard)
    if not any(splits.values()):
        raise ValueError(
            f"No *{_SUFFIX} found in folders named {', '.join(SPLITS)} of {str(source)!r}"
        )
    return {split: shards for split, shards in splits.items() if shards}


def digest_shards(shards: Iterable[Shard]) -> str:
    """Compute a digest of names (with the folder's), sizes and times.

    It is the same for an archive and its unpacked files, except for the order.
    """
    lines = (
        f"{'/'.join(Path(shard.name).parts[-2:])} {shard.size} {shard.modified:.6f}\n"
        for shard in shards
    )
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


def is_gzipped(shard: Shard) -> bool:
    """Tell whether a shard can only be read after all that precedes it in its archive."""
    if shard.member is None:
        return False
    with open_archive(shard.path) as archive:
        return isinstance(archive, gzip.GzipFile)


def group_shards(shards: Sequence[Shard], group_bytes: int) -> list[list[Shard]]:
    """Divide shards into runs of one shard, or of several with at most so many bytes."""
    groups: list[list[Shard]] = []
    size = 0
    for shard in shards:
        if not groups or size + shard.size > group_bytes:
            groups.append([])
            size = 0
        groups[-1].append(shard)
        size += shard.size
    return groups


class ShardOpener:
    """Opens shards, and keeps the latest archive open.

    A gzipped archive can only be read forwards; opening its shards in order takes one pass.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._archive: BinaryIO = io.BytesIO()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._archive.close()

    @contextmanager
    def open(self, shard: Shard) -> Iterator[BinaryIO]:
        """Open a shard for reading, one at a time per archive."""
        if shard.member is None:
            with open(shard.path, "rb", _BUFFER_BYTES) as file:
                yield file
            return
        if self._path != shard.path:
            self._archive.close()
            self._archive = open_archive(shard.path)
            self._path = shard.path
        yield io.BufferedReader(_Member(self._archive, shard), _BUFFER_BYTES)


def _in_folder(folder: Path) -> Iterator[tuple[str, Shard]]:
    def find(endings: tuple[str, ...]) -> list[Path]:
        paths = map(Path, search_folder(str(folder), lambda path: path.endswith(endings)))
        return sorted(path for path in paths if not is_litter(str(path.relative_to(folder))))

    shards = find((_SUFFIX,))
    for path in shards:
        status = path.stat()
        yield path.parent.name, Shard(path, None, 0, status.st_size, status.st_mtime)
    for path in find(_ARCHIVES) if not shards else ():
        yield from _in_archive(path)


def _in_archive(path: Path) -> Iterator[tuple[str, Shard]]:
    shards: dict[PurePosixPath, Shard] = {}
    try:
        with open_archive(path) as file:
            for member in read_members(file):
                check_member(member, _MAX_MEMBER_BYTES)
                name = PurePosixPath(member.name)
                if name.suffix == _SUFFIX and member.isfile() and not is_litter(member.name):
                    shards.pop(name, None)  # tar uses the later of two with one name
                    shards[name] = Shard(
                        path, member.name, member.offset_data, member.size, member.mtime
                    )
    except ARCHIVE_ERRORS as error:
        raise RecordError(f"Expected a folder, .tar or .tar.gz, {path}: {error}") from error
    stem = path.name.partition(".")[0]
    for name, shard in shards.items():
        yield name.parent.name if name.parent.name in SPLITS else stem, shard


class _Member(io.RawIOBase):
    """A shard of an open archive, as a file."""

    def __init__(self, archive: BinaryIO, shard: Shard) -> None:
        self.name = shard.name
        self._archive = archive
        self._start = shard.offset
        self._size = shard.size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._archive.seek(self._start + self._position)
        data = self._archive.read(min(len(buffer), self._size - self._position))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
