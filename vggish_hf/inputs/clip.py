"""A clip: a separate file, or a member of a container, local or at a URL."""

import os
from dataclasses import dataclass

from vggish_hf.audio import AudioLimits, Decoder, IsolatedDecoders
from vggish_hf.inputs.addresses import is_url
from vggish_hf.inputs.containers import read_member
from vggish_hf.inputs.stores import Member, StoredFile, read_file

#: Most bytes of a clip held in memory.
MAX_CLIP_BYTES = 1 << 30  # a decoding process holds it twice, and may have four of them


@dataclass(frozen=True, slots=True)
class Clip:
    """The place of a clip's audio, in a few texts and numbers.

    Args:
        id: Its name in outputs.
        path: Its file, a local path or a URL.
        member: The member's name in an archive, the row's id in a table.
        offset: Its place there: the content's first byte in a tar, that of the member's header in a
            zip, the row's number in a table.
        size: The member's bytes in an archive.
        problem: Why it cannot be read, if known already.
    """

    id: str
    path: str
    member: str | None = None
    offset: int | None = None
    size: int | None = None
    problem: str | None = None

    def load(self, max_bytes: int = MAX_CLIP_BYTES) -> str | bytes:
        """Load it for `open_audio`, in any thread or process.

        Args:
            max_bytes: Most bytes to hold in memory.

        Returns:
            The path of a local file, or the bytes of any other clip.

        Raises:
            OSError: It cannot be read.
            ValueError: It has more than `max_bytes`, or a problem.

        Example:
            >>> Clip("a.wav", "a.wav").load()
            'a.wav'
        """
        if self.problem is not None:
            raise ValueError(self.problem)
        file = StoredFile(self.path, self.id)
        if self.member is not None:
            return read_member(file, Member(self.member, self.offset, self.size), max_bytes)
        return read_file(file, max_bytes) if is_url(self.path) else self.path


def readable_id(path: str) -> str:
    r"""A path as text, with bytes that are not UTF-8 escaped.

    Example:
        >>> readable_id(os.fsdecode(b"caf\xe9.wav"))
        'caf\\xe9.wav'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def make_decoder(decoders: IsolatedDecoders, limits: AudioLimits) -> Decoder:
    """Make a function that opens a `Clip` in decoder processes.

    Args:
        decoders: The processes.
        limits: Limits of a clip.
    """
    return lambda clip: decoders.open(clip.load(), limits)
