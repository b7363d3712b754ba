"""Detect a file's format by its first bytes, ignoring its name."""

from typing import NamedTuple


class Format(NamedTuple):
    """A format of files that contain others."""

    name: str
    """The name with its article."""
    endings: tuple[str, ...]
    """The endings of this format."""
    advice: str
    """What to do with a file of another name."""


_UNPACK = "unpack it first"
_FORMATS = (
    (0, b"PK\x03\x04", Format("a zip", (".zip",), "name it .zip")),
    (0, b"PK\x05\x06", Format("a zip without members", (".zip",), "name it .zip")),
    (0, b"\x1f\x8b", Format("compressed by gzip", (".tar.gz", ".tgz"), "name it .tar.gz")),
    (0, b"PAR1", Format("a Parquet file", (".parquet",), "name it .parquet")),
    (0, b"BZh", Format("compressed by bzip2", (), _UNPACK)),
    (0, b"\xfd7zXZ\0", Format("compressed by xz", (), _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Format("compressed by zstd", (), _UNPACK)),
    (0, b"\x04\x22\x4d\x18", Format("compressed by lz4", (), _UNPACK)),
    (0, b"\x5d\0\0", Format("compressed by lzma", (), _UNPACK)),
    (0, b"\x1f\x9d", Format("compressed by compress", (), _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Format("a 7z archive", (), _UNPACK)),
    (0, b"Rar!\x1a\x07", Format("a rar archive", (), _UNPACK)),
    (257, b"ustar", Format("an uncompressed tar", (".tar",), "name it .tar")),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
_PAGE = Format("a web page", (), "download the file itself")


def describe_content(head: bytes) -> Format | None:
    """Find the format of a file.

    Args:
        head: Its first 512 bytes, or fewer of a shorter file.

    Returns:
        None for any other file.

    Example:
        >>> describe_content(b"BZh91AY&SY").name
        'compressed by bzip2'
    """
    if head.lstrip().lower().startswith(_PAGES):
        return _PAGE
    for position, magic, found in _FORMATS:
        if head[position:].startswith(magic):
            return found
    return None
