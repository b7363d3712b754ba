"""Tar archives from anywhere, read without unpacking: nothing of them is ever written to disk."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, cast

_MAX_HEADER_BYTES = 1 << 20  # a long name and extended attributes take a few hundred

#: What reading a damaged archive raises.
ARCHIVE_ERRORS = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError)


def open_archive(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a tar archive, plain or gzipped, which is told by its content."""
    with open(path, "rb") as file:
        is_gzipped = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if is_gzipped else open(path, "rb")


def read_members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """List the members of an archive, in order; of a gzipped one, in one pass.

    Raises:
        tarfile.TarError: It is damaged; or another of `ARCHIVE_ERRORS`.
    """
    headers = _Headers(file)
    with tarfile.TarFile(fileobj=cast(BinaryIO, headers)) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined] # it keeps all that it has seen
            if member.size < 0:  # would lead back to this header, for ever
                raise tarfile.ReadError(f"the member {member.name!r} claims {member.size} bytes")
            yield member
    # At a damaged header tarfile stops as if the archive had ended.
    if headers.latest != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut short or damaged, the block that ends it is missing")


def check_member(member: tarfile.TarInfo, max_bytes: int) -> None:
    """Refuse what no archive of data needs.

    Raises:
        tarfile.TarError: The member's path leads out of the archive, it is a link or anything else
            but a plain file or a folder, or it claims more than `max_bytes`.
    """
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.ReadError(f"the member {member.name!r} leads out of the archive")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise tarfile.ReadError(f"the member {member.name!r} is no plain file or folder")
    if member.size > max_bytes:
        raise tarfile.ReadError(
            f"the member {member.name!r} claims {member.size} bytes, at most {max_bytes} are read"
        )


def read_member(file: BinaryIO, member: tarfile.TarInfo, max_bytes: int) -> bytes:
    """Read a member that is a plain file.

    Raises:
        tarfile.TarError: It is something else, see `check_member`, or is cut short.
    """
    check_member(member, max_bytes)
    file.seek(member.offset_data)
    content = file.read(member.size)
    if not member.isfile() or len(content) < member.size:
        raise tarfile.ReadError(f"the member {member.name!r} is no file, or is cut short")
    return content


class _Headers:
    """What tarfile reads headers through, so that a forged length cannot fill the memory."""

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
