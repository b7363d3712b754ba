"""Name the kind of a file that is not audio, for the error message."""

import re

from vggish_hf.audio.parts import FilePart

_HEAD_BYTES = 1024

_IGNORING_CASE = re.IGNORECASE | re.DOTALL
# How such files begin; in text, after white space.
_KINDS = (
    (re.compile(rb"\Z"), "an empty file"),
    (re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype|html|head|body)\b", _IGNORING_CASE), "HTML"),
    (re.compile(rb"\s*<\?xml|\s*<[A-Za-z]+[ >]"), "XML"),
    (re.compile(rb"\s*[{\[]\s*[\"{\[\]}]"), "JSON"),
    (
        re.compile(rb"version https://git-lfs"),
        "a Git LFS pointer (run `git lfs pull`)",
    ),
    (re.compile(rb"#EXTM3U|\[playlist\]|ffconcat", _IGNORING_CASE), "a playlist"),
    (re.compile(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)"), "a zip archive"),
    (re.compile(rb"\x1f\x8b"), "gzip data"),
    (re.compile(rb"\xfd7zXZ\0"), "xz data"),
    (re.compile(rb"BZh[1-9]"), "bzip2 data"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "Zstandard data"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive"),
    (re.compile(rb"Rar!\x1a\x07"), "a RAR archive"),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive"),
    (re.compile(rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP", re.DOTALL), "an image"),
    (re.compile(rb"%PDF-"), "a PDF file"),
    (re.compile(rb"PAR1"), "a Parquet file"),
    (re.compile(rb"ARROW1"), "an Arrow file"),
    (re.compile(rb"\x93NUMPY"), "a NumPy array"),
    (re.compile(rb"\x89HDF\r\n"), "an HDF5 file"),
    (re.compile(rb"\0\x05\x16\x07"), "a resource fork of macOS (AppleDouble)"),
)
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]{16}[\t\n\r\x20-\x7e\x80-\xff]*")


def describe_foreign(content: FilePart) -> str | None:
    """Name the kind of a file that is not audio; None if unknown."""
    head = content.read_at(0, _HEAD_BYTES)
    for pattern, kind in _KINDS:
        if pattern.match(head):
            return kind
    return "text" if _TEXT.fullmatch(head) else None
