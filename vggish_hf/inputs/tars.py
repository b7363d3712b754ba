"""Tar archives from anywhere, read without unpacking: nothing of them is ever written to disk."""

import gzip
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.inputs.addresses import has_ending
from vggish_hf.inputs.clip import Clip, readable_id
from vggish_hf.inputs.stores import (
    StoredFile,
    open_binary,
    storage_errors,
)

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


# A header is 512 bytes; more comes with it, as a request to a store takes as long as a MiB.
_TAR_READAHEAD = 1 << 20


def list_tar(file: StoredFile) -> Iterator[Clip]:
    """List the audio files in an uncompressed tar; see `list_container`."""
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
