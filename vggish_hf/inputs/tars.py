"""Untrusted tar archives, read without writing anything to disk."""

import gzip
import os
import tarfile
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from vggish_hf.inputs.addresses import has_ending
from vggish_hf.inputs.stores import (
    Member,
    StoredFile,
    check_size,
    file_version,
    open_binary,
    read_range,
    storage_errors,
)

_MAX_HEADER_BYTES = 1 << 20  # a long name and extended attributes take a few hundred
# A header has 512 bytes; more is read with it, since a request to a store takes as long as a MiB.
_READAHEAD = 1 << 20
# How much of a gzipped file is kept before the newest bytes, and how many such files stay open.
_BLOCK_BYTES, _RECENT_BLOCKS = 1 << 20, 64
_OPEN_FILES = 2

#: Errors of reading a damaged archive.
ARCHIVE_ERRORS = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError)


def open_archive(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a tar archive, plain or gzipped, by its content."""
    with open(path, "rb") as file:
        is_gzipped = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if is_gzipped else open(path, "rb")


def read_members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """List the members of an archive in order; a gzipped one in one pass.

    Raises:
        tarfile.TarError: It is damaged; or another of `ARCHIVE_ERRORS`.
    """
    headers = _Headers(file)
    with tarfile.TarFile(fileobj=cast(BinaryIO, headers)) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined] # it keeps all that it has seen
            if member.size < 0:  # would lead back to this header, forever
                raise tarfile.ReadError(f"the member {member.name!r} claims {member.size} bytes")
            yield member
    # At a damaged header tarfile stops as at the archive's end.
    if headers.latest != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut short or damaged, the block that ends it is missing")


def check_member(member: tarfile.TarInfo, max_bytes: int) -> None:
    """Refuse members that no archive of data needs.

    Raises:
        tarfile.TarError: The member's path leads out of the archive, it is a link or anything else
            but a plain file or a folder, or it claims more than `max_bytes`.
    """
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.ReadError(f"the member {member.name!r} leads out of the archive")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise tarfile.ReadError(f"the member {member.name!r} is not a plain file or folder")
    if member.size > max_bytes:
        raise tarfile.ReadError(
            f"the member {member.name!r} claims {member.size} bytes, at most {max_bytes} are read"
        )


class _Headers:
    """Limits how much tarfile reads for headers, since a forged length could fill the memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.latest = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        self.latest = self._file.read(size)
        return self.latest


def list_members(file: StoredFile) -> Iterator[Member]:
    """List the plain files in a tar; a gzipped one in one pass over its content."""
    with storage_errors(file.name), open_binary(file.path, readahead=_READAHEAD) as content:
        is_gzipped = _is_gzipped(file.name)
        archive = cast(BinaryIO, gzip.GzipFile(fileobj=content)) if is_gzipped else content
        try:
            for member in read_members(archive):
                # A sparse member has holes, so its stored bytes are not a file.
                if member.isfile() and not member.issparse():
                    name = member.name.encode(errors="surrogateescape")
                    text = name.decode("utf-8", "backslashreplace").removeprefix("./")
                    yield Member(text, member.offset_data, member.size)
        except ARCHIVE_ERRORS as error:
            kind = "a complete tar, gzipped" if is_gzipped else "a complete, uncompressed tar"
            raise tarfile.ReadError(f"Not {kind}: {error}") from error


def read_member(file: StoredFile, member: Member, max_bytes: int) -> bytes:
    """Read a member; reading those of a gzipped tar in order takes one pass."""
    offset, size = cast(int, member.offset), cast(int, member.size)
    check_size(file.name, size, max_bytes)
    if not _is_gzipped(file.path):
        return read_range(file, offset, size)
    with storage_errors(file.name):
        content = _open_gzipped(file.path, file_version(file.path)).read(offset, size)
    if len(content) < size:
        raise OSError(f"{file.name!r} is cut short: {len(content)} of {size} bytes came")
    return content


def _is_gzipped(name: str) -> bool:
    return has_ending(name, {".tar.gz", ".tgz"})


class _GzippedFile:
    """A gzipped file, decompressed from its start, with its last bytes kept."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._open_files = ExitStack()
        self._restart()

    def _restart(self) -> None:
        self._open_files.close()
        self._open_files = ExitStack()
        packed = self._open_files.enter_context(open_binary(self._path, readahead=_READAHEAD))
        self._stream = gzip.GzipFile(fileobj=packed)
        self._blocks: deque[tuple[int, bytes]] = deque()  # with the position of each
        self._position = 0
        self._is_damaged = False

    def read(self, offset: int, size: int) -> bytes:
        """Read a range, forwards or from the kept bytes; from the start if it is before them."""
        with self._lock:
            if self._is_damaged or offset < (self._blocks[0][0] if self._blocks else 0):
                self._restart()
            self._is_damaged = True  # until it succeeds
            end = offset + size
            # No byte more: the file may be damaged after it.
            while block := self._stream.read(min(max(end - self._position, 0), _BLOCK_BYTES)):
                self._blocks.append((self._position, block))
                self._position += len(block)
                # Threads do not read in order, so some bytes before the range are kept.
                while len(self._blocks) > _RECENT_BLOCKS and self._blocks[1][0] <= offset:
                    self._blocks.popleft()
            self._is_damaged = False
            return b"".join(
                block[max(offset - start, 0) : max(end - start, 0)] for start, block in self._blocks
            )


@lru_cache(maxsize=_OPEN_FILES)
def _open_gzipped(path: str, _version: tuple[int, int] | None) -> _GzippedFile:
    return _GzippedFile(path)


if hasattr(os, "register_at_fork"):
    # A lock that another thread held, and the position in a file, do not survive a fork.
    os.register_at_fork(after_in_child=_open_gzipped.cache_clear)
