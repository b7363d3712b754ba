"""Audio files in zips, read one at a time, never unpacked to disk."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from vggish_hf.inputs.stores import Member, StoredFile, check_size, open_binary, storage_errors

# The list of members is at the end: this allows a million, and 1 GB in memory.
_MAX_DIRECTORY_BYTES = 64 << 20
_READAHEAD = 1 << 18
_PIECE_BYTES = 1 << 16

_HEADER = struct.Struct("<4s2xHH4xL8xHH")  # before a member: flags, method, checksum
_ENCRYPTED, _HAS_DESCRIPTOR = 0x1, 0x8
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


def list_members(file: StoredFile) -> Iterator[Member]:
    """List the plain files in a zip."""
    with storage_errors(file.name), open_binary(file.path, readahead=_READAHEAD) as content:
        with zipfile.ZipFile(cast(BinaryIO, _Directory(content))) as archive:
            members = archive.infolist()
        overlapping = _find_overlapping(members)
        for member in members:
            if not (member.is_dir() or stat.S_ISLNK(member.external_attr >> 16)):
                problem = _find_problem(file, member, member.header_offset in overlapping)
                name = member.filename.removeprefix("./")
                yield Member(name, member.header_offset, member.file_size, problem)


def read_member(file: StoredFile, member: Member, max_bytes: int) -> bytes:
    """Read a member by the `offset` of its header, and check its checksum."""
    size = cast(int, member.size)
    check_size(file.name, size, max_bytes)
    with storage_errors(file.name), open_binary(file.path, readahead=_READAHEAD) as content:
        content.seek(cast(int, member.offset))
        header = content.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile("its header is not where the zip says")
        _, flags, method, checksum, name_bytes, extra_bytes = _HEADER.unpack(header)
        if flags & _ENCRYPTED or method not in _METHODS:
            raise zipfile.BadZipFile("its header is not that of a member that can be read")
        content.read(name_bytes + extra_bytes)
        deflated = method == zipfile.ZIP_DEFLATED
        data, rest = (_inflate if deflated else _copy)(content, size)
        if flags & _HAS_DESCRIPTOR:
            rest += content.read(8 - len(rest)) if len(rest) < 8 else b""
            (checksum,) = struct.unpack("<L", rest.removeprefix(b"PK\x07\x08")[:4])
        if zlib.crc32(data) != checksum:
            raise zipfile.BadZipFile("it is damaged, its checksum is another one")
        return data


def _copy(content: BinaryIO, size: int) -> tuple[bytes, bytes]:
    pieces = []
    missing = size
    while missing and (piece := content.read(min(missing, _PIECE_BYTES))):
        pieces.append(piece)
        missing -= len(piece)
    if missing:
        raise zipfile.BadZipFile(f"it is cut short: {size - missing} of {size} bytes came")
    return b"".join(pieces), b""


def _inflate(content: BinaryIO, size: int) -> tuple[bytes, bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces = []
    received = 0
    while not inflater.eof and received <= size:
        packed = inflater.unconsumed_tail or content.read(_PIECE_BYTES)
        if not packed:
            break
        # One byte more than the zip declares already shows that it declares too few.
        pieces.append(inflater.decompress(packed, min(size + 1 - received, 16 * _PIECE_BYTES)))
        received += len(pieces[-1])
    if received > size:
        raise zipfile.BadZipFile(f"it unpacks to more than the {size} bytes that the zip declares")
    if received < size or not inflater.eof:
        raise zipfile.BadZipFile(f"it is cut short: {received} of {size} bytes came")
    return b"".join(pieces), inflater.unused_data


def _find_problem(file: StoredFile, member: zipfile.ZipInfo, overlaps: bool) -> str | None:
    name = f"{file.name}/{member.filename}"
    if member.flag_bits & _ENCRYPTED:
        return f"Expected a member without a password, {name!r} is encrypted; unpack the zip"
    if member.compress_type not in _METHODS:
        return (
            f"Expected a member that is {' or '.join(_METHODS.values())}, {name!r} is compressed "
            f"by another method, number {member.compress_type}; unpack the zip"
        )
    if overlaps:
        return f"Expected separate members, {name!r} overlaps another one"
    return None


def _find_overlapping(members: list[zipfile.ZipInfo]) -> set[int]:
    """Find headers inside another member, a trick by which small zips unpack to a lot."""
    overlapping = set()
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            overlapping.add(member.header_offset)
        end = max(end, member.header_offset + _HEADER.size + member.compress_size)
    return overlapping


class _Directory:
    """Limits how much zipfile reads for the list of members, which could fill the memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(
                f"its list of members has {size} bytes, at most {_MAX_DIRECTORY_BYTES} are read"
            )
        return self._file.read(size if size >= 0 else _MAX_DIRECTORY_BYTES)
