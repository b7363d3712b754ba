"""A clip: a file of its own, or a member of a container, on this machine or behind a URL."""

import os
from dataclasses import dataclass

from vggish_hf.audio import AudioLimits, Decoder, IsolatedDecoders
from vggish_hf.inputs.addresses import is_url
from vggish_hf.inputs.containers import read_member
from vggish_hf.inputs.stores import Member, StoredFile, read_file

#: The most bytes that a clip may have where it is held in memory.
MAX_CLIP_BYTES = 1 << 30  # a process that decodes holds it twice, and may have four of these


@dataclass(frozen=True, slots=True)
class Clip:
    """Where the audio of a clip lies; small, and made of nothing but text and numbers.

    Args:
        id: Its name in outputs.
        path: The file that holds it, a local path or a URL.
        member: In an archive the member's name, in a table the row's id.
        offset: Where it is in there: of a tar the byte at which the content starts, of a zip that
            of the member's header, of a table the number of the row.
        size: In an archive, the bytes that the member has.
        problem: Why it cannot be read, where that is known already.
    """

    id: str
    path: str
    member: str | None = None
    offset: int | None = None
    size: int | None = None
    problem: str | None = None

    def load(self, max_bytes: int = MAX_CLIP_BYTES) -> str | bytes:
        """Make it ready for `open_audio`; in any thread or process.

        Args:
            max_bytes: The most that is held in memory.

        Returns:
            The path of a local file, and of any other clip what the file would hold.

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
    r"""A path as text: bytes that are no UTF-8 are escaped.

    Example:
        >>> readable_id(os.fsdecode(b"caf\xe9.wav"))
        'caf\\xe9.wav'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def make_decoder(decoders: IsolatedDecoders, limits: AudioLimits) -> Decoder:
    """Make what opens a `Clip` in decoder processes.

    Args:
        decoders: The processes.
        limits: What a clip may be at most.
    """
    return lambda clip: decoders.open(clip.load(), limits)
