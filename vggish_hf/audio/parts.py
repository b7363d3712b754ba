"""A part of an encoded file, read as if it were a file of its own."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

_TAG_BYTES = 128  # of ID3v1, at the end

#: Bytes that are read at once where a file is searched.
CHUNK_BYTES = 1 << 20


class EncodedContent(io.BytesIO):
    """A file's content, in which a damaged header may seek to before the start."""

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
        start: Its first byte.
        end: The byte after its last; None for the end of the file.
        replaced: What to read in place of the file's bytes, by the byte's position in the part.
        claimed_bytes: The size that seeking to the end pretends; None for the true one.
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
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the position in the part."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move, or stay where there is nowhere to move to."""
        end = self.size if self._claimed_bytes is None else self._claimed_bytes
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: end}[whence]
        if 0 <= origin + offset < 1 << 63:
            self._position = origin + offset
        return self._position

    def readinto(self, buffer: "memoryview | bytearray", /) -> int:  # type: ignore[override]
        """Fill a buffer as far as the part goes, and return the number of bytes."""
        content = self.read_at(self._position, len(buffer))
        if self._claimed_bytes is not None and self._position >= self.size:
            # A decoder looks for a tag at the claimed end, and reads on to the true one.
            is_tag = self._position >= self._claimed_bytes - _TAG_BYTES
            content = bytes(min(len(buffer), _TAG_BYTES)) if is_tag else b""
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def read_at(self, position: int, size: int) -> bytes:
        """Return bytes from a position, fewer where the part ends."""
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
        """Return where the first of some byte strings begins, from a position on; None if nowhere.

        Only what is searched at once is in memory.
        """
        overlap = max(map(len, needles)) - 1
        size = 1 << 12  # little where the next one is near, as in a file of thousands of small ones
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
