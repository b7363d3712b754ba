"""TFRecord files, the container of the released AudioSet embeddings, without TensorFlow.

A record is the length of its data (uint64), the masked CRC-32C of that length, the data, and the
masked CRC-32C of the data; numbers are little-endian.
Source: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
"""

import gzip
import io
import os
import secrets
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, cast

from vggish_hf._checks import check_choice
from vggish_hf.tf_files.crc32c import masked_crc32c

Errors = Literal["raise", "skip"]

_HEADER = struct.Struct("<QI")  # length of the data, masked checksum of the length
_CHECKSUM = struct.Struct("<I")
_BUFFER_BYTES = 64 << 10  # Python's 8 KiB make large files a quarter slower


class RecordError(ValueError):
    """A record, or its file, is damaged or has unexpected content."""


def frame_record(data: bytes) -> bytes:
    """Add the length and the checksums to the data of one record, as in a file."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (
            length,
            _CHECKSUM.pack(masked_crc32c(length)),
            data,
            _CHECKSUM.pack(masked_crc32c(data)),
        )
    )


class RecordReader:
    """The records of a TFRecord file, plain or gzipped, in order, their checksums verified.

    Args:
        source: Path, or binary file object, which is read from its position and left open; its
            `read(n)` must return n bytes until its end (buffered files do).
        errors: `"raise"`: damage raises RecordError. `"skip"`: a record with damaged data is
            skipped; a damaged length, or a file cut short, ends the iteration, because the start of
            the next record is unknown. `skipped` counts both.
        max_record_bytes: A longer record counts as damaged, so that a forged length cannot fill the
            memory.

    Attributes:
        skipped: How often the latest iteration skipped a record, or the rest of the file.
        offset: Byte of the file (of its decompressed data, if gzipped) at which the latest record
            starts.

    Raises:
        ValueError: `errors` is neither of the two.

    Example:
        >>> file = io.BytesIO(frame_record(b"one") + frame_record(b"two"))
        >>> list(RecordReader(file))
        [b'one', b'two']
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        errors: Errors = "raise",
        max_record_bytes: int = 64 << 20,
    ) -> None:
        check_choice("errors", errors, Errors)
        self.source = source
        self.errors = errors
        self.max_record_bytes = max_record_bytes
        self.skipped = 0
        self.offset = 0

    def __iter__(self) -> Iterator[bytes]:
        """Read the file; a path is opened again on each call.

        Raises:
            RecordError: The file is damaged, and `errors` is `"raise"`; says file and byte.
        """
        self.skipped = 0
        with self._open() as file:
            try:
                yield from self._read(file)
            except (RecordError, EOFError, gzip.BadGzipFile, zlib.error) as error:
                if self.errors == "raise":
                    name = getattr(file, "name", repr(file))
                    raise RecordError(
                        f'{name}, byte {self.offset}: {error} (errors="skip" reads the rest)'
                    ) from error
                self.skipped += 1

    def _open(self) -> AbstractContextManager[BinaryIO]:
        if isinstance(self.source, (str, os.PathLike)):
            return open(self.source, "rb", buffering=_BUFFER_BYTES)
        return nullcontext(self.source)

    def _read(self, file: BinaryIO) -> Iterator[bytes]:
        self.offset, end = 0, sys.maxsize
        if file.seekable():
            self.offset = file.tell()
            end = file.seek(0, io.SEEK_END)
            file.seek(self.offset)
        header = file.read(_HEADER.size)
        if _is_gzip(header):
            file, self.offset, end = _gunzip(header, file), 0, sys.maxsize
            header = file.read(_HEADER.size)
        while header:
            if len(header) < _HEADER.size:
                raise RecordError(f"the file ends after {len(header)} bytes of a record's header")
            length, length_checksum = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != length_checksum:
                raise RecordError("the record's length does not match its checksum")
            if length > self.max_record_bytes:
                raise RecordError(
                    f"the record claims {length} bytes; if that is right, pass `max_record_bytes` "
                    f"above {self.max_record_bytes}"
                )
            stop = self.offset + _HEADER.size + length + _CHECKSUM.size
            if stop > end:
                raise RecordError(f"the record ends at byte {stop}, the file at byte {end}")
            data = file.read(length)
            checksum = file.read(_CHECKSUM.size)
            if len(checksum) < _CHECKSUM.size:
                raise RecordError(f"the file ends inside the record of {length} bytes")
            if masked_crc32c(data) == _CHECKSUM.unpack(checksum)[0]:
                yield data
            elif self.errors == "raise":
                raise RecordError("the record's data do not match their checksum")
            else:
                self.skipped += 1
            self.offset = stop
            header = file.read(_HEADER.size)


def _is_gzip(header: bytes) -> bool:
    # The magic number could also be a length (35,615 bytes), but then its checksum fits.
    return header[:2] == b"\x1f\x8b" and header[8:] != _CHECKSUM.pack(masked_crc32c(header[:8]))


def _gunzip(head: bytes, rest: BinaryIO) -> BinaryIO:
    """Decompress a file whose `head` has been read, and which may not seek."""
    return cast(BinaryIO, gzip.GzipFile(fileobj=io.BufferedReader(_Chain(head, rest))))


class _Chain(io.RawIOBase):
    """Bytes followed by a file."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or self._rest.read(len(buffer))
        self._head = b""
        buffer[: len(data)] = data
        return len(data)


class RecordWriter:
    """Write a TFRecord file, which appears under its name only when it is complete.

    Inside the `with` block the records go to a file of another name in the same folder. The end of
    the block renames it (replacing an older file); an exception deletes it.

    Args:
        path: The file to write; its folder must exist.

    Example:
        >>> with RecordWriter("clips.tfrecord") as writer:  # doctest: +SKIP
        ...     writer.write(encode_audioset(record))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(f".{secrets.token_hex(8)}.tfrecord.part")
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = open(self._partial, "xb")
        return self

    def write(self, data: bytes) -> None:
        """Append one record.

        Raises:
            ValueError: Called outside the `with` block.
        """
        if self._file is None or self._file.closed:
            raise ValueError("Expected `write` inside the `with` block of a RecordWriter")
        self._file.write(frame_record(data))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._file is not None  # __enter__ has run
        try:
            self._file.close()  # flushes, which fails on a full disk
            if kind is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)
