"""Decode with soundfile."""

import sys
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import soundfile

from vggish_hf.audio.blocks import RawAudio, RawBlocks, block_length
from vggish_hf.audio.containers import is_media_container
from vggish_hf.audio.foreign import describe_foreign
from vggish_hf.audio.limits import AudioError, AudioLimits, UnknownFormatError
from vggish_hf.audio.parts import EncodedContent, FilePart
from vggish_hf.audio.streams import Stream, open_stream

# By libsndfile's names; FLAC compresses its samples.
_SAMPLE_BYTES = {
    "ALAW": 1,
    "ULAW": 1,
    "PCM_S8": 1,
    "PCM_U8": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
}

# Ogg pages are numbered by samples. An editor may cut up to so many samples, one packet, from the
# start or the end. In a file that is cut off, the last page that exists counts.
_MAX_TRIMMED_SAMPLES = 8192


class SequentialSoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from start to end, and opened without its name.

    libsndfile reads `._x.mp3` as belonging to `x.mp3`, and a name need not be UTF-8, so it gets
    an open file. If a file can seek, soundfile seeks to its own position after every read; in
    MP3 that loses what the next frame needs of earlier frames.
    """

    _opened: BinaryIO | None = None

    def __init__(self, file: Path | BinaryIO) -> None:
        self._opened = file.open("rb") if isinstance(file, Path) else file
        try:
            source = self._opened.fileno() if isinstance(file, Path) else file
            super().__init__(source, closefd=False)
        except BaseException:
            self._opened.close()
            raise

    def close(self) -> None:
        """Close the file."""
        super().close()
        if self._opened is not None:
            self._opened.close()

    def seekable(self) -> bool:
        """Keep soundfile from seeking."""
        return False


def open_sound(file: Path | EncodedContent, stream: Stream, limits: AudioLimits) -> RawAudio:
    """Open with soundfile, to read from start to end.

    Raises:
        UnknownFormatError: As `open_sound_file`.
        AudioError: As `open_sound_file`.
    """
    sound = open_sound_file(file, stream, limits)
    return RawAudio(sound.samplerate, _read_blocks(sound, stream.max_samples))


def open_sound_file(
    file: Path | EncodedContent, stream: Stream, limits: AudioLimits
) -> SequentialSoundFile:
    """Open with soundfile.

    Raises:
        UnknownFormatError: soundfile cannot open it, torchcodec may; with the reason.
        AudioError: FFmpeg may not open it either, or it exceeds the limits.
    """
    try:
        # libsndfile detects the format.
        sound = SequentialSoundFile(open_stream(file, stream))
    except (soundfile.SoundFileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
        with closing(FilePart(file, stream.start, stream.end)) as content:
            if is_media_container(content):
                raise UnknownFormatError(reason) from None
            foreign = describe_foreign(content)
        raise AudioError(
            f"not audio, but {foreign}"
            if foreign
            else f"not audio, or damaged: libsndfile cannot open it ({reason}), and FFmpeg does "
            "not get to see files of unknown formats; write audio without a header (raw PCM, GSM, "
            "VOX) as WAV"
        ) from None
    num_bytes = stream.end - stream.start
    width = _SAMPLE_BYTES.get(sound.subtype)
    try:
        limits.check_format(sound.samplerate, sound.channels)
        if width is not None and sound.frames * sound.channels * width <= num_bytes:
            limits.check_duration(sound.frames, sound.samplerate)
    except AudioError:
        sound.close()
        raise
    return sound


def _read_blocks(sound: SequentialSoundFile, max_samples: int | None) -> RawBlocks:
    length = block_length(sound.samplerate, sound.channels)
    remaining = sys.maxsize if max_samples is None else max_samples
    received = 0
    with sound:
        while received < remaining:
            try:
                block = sound.read(
                    min(length, remaining - received), dtype="float32", always_2d=True
                )
            except soundfile.SoundFileError as error:
                raise AudioError(f"decoding failed after {received} samples: {error}") from None
            if not len(block):
                break
            received += len(block)
            yield block
        missing = sound.frames - received
        is_known = sound.frames < sys.maxsize  # not if it is trimmed and its end is cut off
        if sound.format == "OGG" and is_known and missing > _MAX_TRIMMED_SAMPLES:
            raise AudioError(
                f"it is damaged: its pages announce {sound.frames} samples, of which {missing} are "
                "lost in the middle; fetch or encode it again"
            )
