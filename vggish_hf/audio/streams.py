"""Find the audio streams of a file: files that were joined end to end hold several.

Decoders stop at the end of the first, or read the next header as samples.
"""

import re
from collections.abc import Generator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from vggish_hf.audio import flac, mpeg, nist, sizes, voc, w64
from vggish_hf.audio.containers import skip_id3
from vggish_hf.audio.limits import AudioError
from vggish_hf.audio.parts import EncodedContent, FilePart

# How each kind of stream begins: a pattern to match, and bytes to search for.
_WAV = re.compile(rb"(?:RIFF|RIFX|RF64|BW64)....WAVE", re.DOTALL)
_AIFF = re.compile(rb"FORM....AIF[FC]", re.DOTALL)
_AU = re.compile(rb"\.snd\0\0...{4}\0\0\0[\x01-\x1d]\0[\0-\x0b]..\0\0\0[\x01-\x20]", re.DOTALL)
_CAF = re.compile(rb"caff\0\x01\0\0desc")
_W64 = re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb")
_VOC = re.compile(rb"Creative Voice File\x1a")
_NIST = re.compile(rb"NIST_1A\n +[0-9]{1,6}\n")
_FLAC = re.compile(rb"fLaC[\0\x80]\0\0\x22")
_OGG = re.compile(rb"OggS\0[\x02\x06]")
_MP4 = re.compile(rb"\0\0\0[\x0c-\x7f]ftyp[ -~]{4}")
_MATROSKA = re.compile(rb"\x1aE\xdf\xa3.{1,8}B[\x86\xf7\xf2\xf3\x82\x87\x85]", re.DOTALL)
_FLV = re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09")
_ASF = re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c")

_NEEDLES: dict[re.Pattern[bytes], tuple[bytes, ...]] = {
    _WAV: (b"RIFF", b"RIFX", b"RF64", b"BW64"),
    _AIFF: (b"FORM",),
    _AU: (b".snd\0\0",),
    _CAF: (b"caff\0\1\0\0",),
    _W64: (b"riff\x2e\x91\xcf\x11",),
    _VOC: (b"Creative Voice File\x1a",),
    _NIST: (b"NIST_1A\n",),
    _FLAC: (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22"),
    _OGG: (b"OggS\0\2", b"OggS\0\6"),
    _MP4: (b"ftyp",),
    _MATROSKA: (b"\x1aE\xdf\xa3",),
    _FLV: (b"FLV\1",),
    _ASF: (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",),
}
_NEEDLE_OFFSETS = {_MP4: 4}
_HEAD_BYTES = 32
# These kinds may follow one another. Others may contain files of these kinds, so only their own
# kind may follow them.
_PLAIN = (_WAV, _AIFF, _AU, _CAF, _W64, _VOC, _NIST, _FLAC, _OGG)
# Kinds whose decoder reads what follows the samples as samples.
_ENDLESS = {
    _VOC: ("VOC", voc.find_ends),
    _W64: ("W64", w64.find_ends),
    _NIST: ("NIST", nist.find_ends),
}

_MAX_STREAMS = 10_000
# From the smallest frame of MPEG audio to the largest one.
_MPEG_CLAIM = 64


class Stream(NamedTuple):
    """A section of a file that a decoder can read from start to end."""

    start: int
    end: int
    replaced: Mapping[int, int] = {}
    """Bytes of its header to correct, by their position in it."""
    claimed_bytes: int | None = None
    """The size to report, if the decoder derives too few samples from the true size."""
    max_samples: int | None = None
    """How many samples to ask the decoder for; None for all."""


def find_streams(file: Path | EncodedContent) -> Generator[Stream, None, None]:
    """Find the streams of a file, one after the other; at least one.

    Raises:
        AudioError: A header announces fewer samples than follow it, or there are too many streams.
    """
    position: int | None = 0
    count = 0
    while position is not None:
        # Close the file while the streams are read.
        with closing(FilePart(file)) as content:
            streams, position = _streams_at(content, position)
        count += len(streams)
        if count > _MAX_STREAMS:
            raise AudioError(f"it holds more than {_MAX_STREAMS} joined files")
        yield from streams


def open_stream(file: Path | EncodedContent, stream: Stream) -> Path | BinaryIO:
    """Return what the decoder reads: the file itself if possible, as that is fastest."""
    is_whole = stream.start == 0 and stream.end == _file_size(file)
    if is_whole and not stream.replaced and stream.claimed_bytes is None:
        return file if isinstance(file, Path) else EncodedContent(file.getvalue())  # no copy
    part = FilePart(
        file,
        stream.start,
        stream.end,
        replaced=stream.replaced,
        claimed_bytes=stream.claimed_bytes,
    )
    return cast(BinaryIO, part)


def _file_size(file: Path | EncodedContent) -> int:
    """Return the size of a file in bytes."""
    return file.stat().st_size if isinstance(file, Path) else len(file.getvalue())


def _streams_at(content: FilePart, position: int) -> tuple[list[Stream], int | None]:
    """Find the stream at a position (several for MPEG audio) and the next position."""
    start = skip_id3(content, position)
    head = content.read_at(start, _HEAD_BYTES)
    kind = next((kind for kind in _NEEDLES if kind.match(head)), None)
    if kind is None and mpeg.SYNC.match(head):
        return _mpeg_streams(content, start)
    if kind in _ENDLESS:
        return _stream_up_to_samples(content, start, kind)
    size = sizes.find_sample_size(content, start)
    is_whole = size is not None and sizes.ends_with_chunks(content, size, content.size)
    following = None
    if size is not None and content.size - start > sizes.MAX_BYTES_OF_32_BITS and not is_whole:
        sizes.correct_size(content, size, content.size)  # raises early: a search takes long
    if kind is not None and not is_whole:
        following = _find_next(content, _skip_first_pages(content, start), kind)
    end = content.size if following is None else following
    replaced = {} if size is None else sizes.correct_size(content, size, end)
    if size is not None and not size.has_chunks and not size.is_unknown:
        end = min(end, size.end)  # some AU decoders read what follows as samples
    if kind in (_FLAC, _OGG) and mpeg.ends_with_frames(content, start, end):
        raise AudioError("MP3 data follow its FLAC or Ogg data, and are not read; split the file")
    stream = Stream(
        position,
        end,
        {place - position: byte for place, byte in replaced.items()},
        max_samples=flac.count_samples(content, start, end) if kind is _FLAC else None,
    )
    return [stream], following


def _mpeg_streams(content: FilePart, start: int) -> tuple[list[Stream], int | None]:
    runs = list(islice(mpeg.find_runs(content, start), _MAX_STREAMS + 1))
    following = _find_next(content, runs[-1].end, _WAV) if runs else None
    if not runs or (len(runs) == 1 and runs[0].has_info and following is None):
        return [Stream(0, content.size)], None
    streams = [
        Stream(start, end, claimed_bytes=None if has_info else _MPEG_CLAIM * (end - start))
        for start, end, has_info in runs
    ]
    return streams, following


def _stream_up_to_samples(
    content: FilePart, start: int, kind: re.Pattern[bytes]
) -> tuple[list[Stream], int | None]:
    """Find a stream that ends with its samples: its decoder reads what follows as samples."""
    name, find_ends = _ENDLESS[kind]
    ends = find_ends(content, start)
    is_whole = ends is not None and ends[1] == content.size
    following = None if is_whole else _find_next(content, start + 8, kind)
    end = content.size if following is None else following
    if ends is None:
        return [Stream(start, end)], following
    sound_end, last_end = ends
    sizes.check_rest(content, name, last_end, end)
    end = min(end, sound_end)
    # libsndfile drops the last byte of VOC, which may be missing.
    claimed_bytes = end + 1 - start if kind is _VOC else None
    return [Stream(start, end, claimed_bytes=claimed_bytes)], following


def _find_next(content: FilePart, start: int, kind: re.Pattern[bytes]) -> int | None:
    """Return the start of the next stream that may follow this kind; None if no more."""
    kinds = _PLAIN if kind in _PLAIN else (kind,)
    needles = tuple(needle for other in kinds for needle in _NEEDLES[other])
    offset = _NEEDLE_OFFSETS.get(kind, 0)
    while (place := content.find(needles, start)) is not None:
        head = content.read_at(place - offset, _HEAD_BYTES)
        if any(other.match(head) for other in kinds):
            return place - offset
        start = place + 1
    return None


def _skip_first_pages(content: FilePart, start: int) -> int:
    """Return a position after the header; in Ogg, after those of all multiplexed streams."""
    position = start
    while _OGG.match(head := content.read_at(position, 27)) and len(head) == 27:
        lengths = content.read_at(position + 27, head[26])
        position += 27 + len(lengths) + sum(lengths)
    return max(position, start + 8)
