"""Read a section of an encoded file as if it were a file."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

_TAG_BYTES = 128  # of ID3v1, at the end

#: Bytes to read at once when searching a file.
CHUNK_BYTES = 1 << 20


class EncodedContent(io.BytesIO):
    """A file's content that ignores a seek before its start (damaged headers)."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move, or stay where there is nowhere to move to."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):  # cannot pass through libsndfile
            return self.tell()


class FilePart(io.RawIOBase):
    """The bytes of a file from `start` to `end`.

    Args:
        file: The file.
        start: The first byte.
        end: The byte after the last; None for the end of file.
        replaced: Bytes to read instead of the file's, by their position in the section.
        claimed_bytes: The size that seeking to the end reports; None for the true one.
    """

    def __init__(
        self,
        file: Path | EncodedContent,
        start: int = 0,
        end: int | None = None,
        *,
        replaced: Mapping[int, int] | None = None,
        claimed_bytes: int | None = None,
    ) -> None:
        super().__init__()
        opened = file.open("rb", 0) if isinstance(file, Path) else io.BytesIO(file.getvalue())
        self._content = opened
        file_bytes = opened.seek(0, os.SEEK_END)
        self._start = start
        #: Its size in bytes.
        self.size = (file_bytes if end is None else min(end, file_bytes)) - start
        self._replaced = replaced or {}
        self._claimed_bytes = claimed_bytes
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Return the position, bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move, or stay where there is nowhere to move to."""
        end = self.size if self._claimed_bytes is None else self._claimed_bytes
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: end}[whence]
        if 0 <= origin + offset < 1 << 63:
            self._position = origin + offset
        return self._position

    def readinto(self, buffer: "memoryview | bytearray", /) -> int:  # type: ignore[override]
        """Read into a buffer, up to the end; return the number of bytes."""
        content = self.read_at(self._position, len(buffer))
        if self._claimed_bytes is not None and self._position >= self.size:
            # Decoders look for a tag at the claimed end and read to the true end.
            is_tag = self._position >= self._claimed_bytes - _TAG_BYTES
            content = bytes(min(len(buffer), _TAG_BYTES)) if is_tag else b""
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def read_at(self, position: int, size: int) -> bytes:
        """Return bytes from a position, fewer at the end."""
        size = min(size, self.size - position)
        if size <= 0 or position < 0:
            return b""
        self._content.seek(self._start + position)
        content = self._content.read(size)
        for place, byte in self._replaced.items():
            if 0 <= (index := place - position) < len(content):
                content = content[:index] + bytes([byte]) + content[index + 1 :]
        return content

    def find(self, needles: "tuple[bytes, ...]", start: int) -> int | None:
        """Return where the first of the byte strings begins, from `start` on; None if absent.

        Only the chunk being searched is in memory.
        """
        overlap = max(map(len, needles)) - 1
        size = 1 << 12  # small at first: a file may hold thousands of small files
        while chunk := self.read_at(start, size + overlap):
            found = [place for needle in needles if (place := chunk.find(needle)) >= 0]
            if found:
                return start + min(found)
            start += size
            size = min(2 * size, CHUNK_BYTES)
        return None

    def close(self) -> None:
        """Close the file."""
        self._content.close()
        super().close()
