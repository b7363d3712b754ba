"""Which file is which clip: audio files of a folder, members of tar shards, rows of Parquet files.

A clip's file is named `ID`, `YID`, `ID_START_END` or `YID_START_END` with the ending of an audio
file, where ID is the video's and the times are seconds or milliseconds.

Archives and tables may come from anywhere: no path in them is ever opened, links are not followed,
and a member's size is checked before it is read; of a table pyarrow holds a page at a time.
"""

import os
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias, cast

import pyarrow as pa
import pyarrow.parquet as pq

from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.audioset.segments import VIDEO_ID, Segment
from vggish_hf.inputs.tars import ARCHIVE_ERRORS, open_archive, read_member, read_members

#: Endings of the files that hold many clips.
ARCHIVE_EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".parquet")

#: The most bytes that a clip's file may have where it is held in memory.
MAX_CLIP_BYTES = 512 << 20

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_NAMES = [
    re.compile(rf"{prefix}(?P<id>{VIDEO_ID})(?:_(?P<start>{_NUMBER})_(?P<end>{_NUMBER}))?")
    for prefix in ("", "Y")
]
# By how much times may differ from the CSV's: names round them, and the release has ends that are
# a second earlier.
_TIME_TOLERANCE = 1.0
_BATCH_ROWS = 8  # in memory at once; a row may be a whole video
_PARQUET_BUFFER = 1 << 20

Load: TypeAlias = Callable[[], Path | bytes]

_DAMAGE = (*ARCHIVE_ERRORS, pa.ArrowException, OSError)


class ClipError(ValueError):
    """A file that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class ClipFile:
    """A file that is named for a clip.

    Args:
        name: The file's name, without its folder.
        segment: The clip.
        is_cut: Whether the name says that the file holds the segment alone.
        load: Returns the file's path, or what it holds; raises ClipError. To be called before the
            next file is asked for, or not at all.
    """

    name: str
    segment: Segment
    is_cut: bool
    load: Load


class ClipName(NamedTuple):
    """What the name of a clip's file says."""

    video_id: str
    times: tuple[float, float] | None
    """Start and end of the clip, seconds or milliseconds."""

    def fits(self, segment: Segment) -> bool:
        """Tell whether the times, if there are any, are those of the segment."""
        if self.times is None:
            return True
        start, end = self.times
        return any(
            abs(start / unit - segment.start_time_seconds) <= _TIME_TOLERANCE
            and abs(end / unit - segment.end_time_seconds) <= _TIME_TOLERANCE
            for unit in (1, 1000)
        )


def parse_name(name: str, video_ids: Container[str]) -> ClipName | None:
    """Read the name of a clip's file.

    Ids may hold underscores and start with `Y`: of a name's readings, the one that names a known
    video is taken.

    Args:
        name: Name of the file, with its ending or without, and without its folder.
        video_ids: The videos that are looked for.

    Returns:
        What it says; None for any other file.

    Example:
        >>> parse_name("Y_-aE2O5G_E1_30.000_40.000.wav", {"_-aE2O5G_E1"})
        ClipName(video_id='_-aE2O5G_E1', times=(30.0, 40.0))
    """
    stem, ending = os.path.splitext(name)
    if ending.lower() not in AUDIO_EXTENSIONS:
        stem = name
    for pattern in _NAMES:
        match = pattern.fullmatch(stem)
        if match is not None and match["id"] in video_ids:
            has_times = match["start"] is not None
            times = (float(match["start"]), float(match["end"])) if has_times else None
            return ClipName(match["id"], times)
    return None


def list_sources(source: str | os.PathLike[str]) -> list[Path]:
    """List the files that may hold clips: audio files and archives.

    Args:
        source: A folder, searched recursively, or one archive.

    Returns:
        Their paths, sorted.

    Raises:
        FileNotFoundError: There is no such folder or archive.
        ValueError: It holds no such file.
    """
    path = Path(source)
    if path.is_file() and path.name.endswith(ARCHIVE_EXTENSIONS):
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(
            f"Expected a folder, or one of {', '.join(ARCHIVE_EXTENSIONS)}, got {str(path)!r}"
        )
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if name.endswith(ARCHIVE_EXTENSIONS)
        or os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS
    ]
    if not found:
        raise ValueError(
            f"Expected audio files or archives ({', '.join(ARCHIVE_EXTENSIONS)}) in {str(path)!r}, "
            "found none"
        )
    return sorted(found)


def read_clip_files(path: Path, segments: Mapping[str, Segment]) -> Iterator[ClipFile]:
    """Find the clips in one of the files that `list_sources` lists.

    Args:
        path: An audio file or an archive.
        segments: The clips that are looked for; other files are passed over.

    Yields:
        The clips' files, in order.

    Raises:
        ClipError: The archive is damaged, or something else than its ending says.
    """
    if path.name.endswith(".parquet"):
        entries = _parquet_entries(path)
    elif path.name.endswith(ARCHIVE_EXTENSIONS):
        entries = _tar_entries(path)
    else:
        entries = iter([(path.name, lambda: path)])
    try:
        for name, load in entries:
            parsed = parse_name(name, segments)
            if parsed is not None and parsed.fits(segment := segments[parsed.video_id]):
                yield ClipFile(name, segment, parsed.times is not None, partial(_load, name, load))
    except _DAMAGE as error:
        raise ClipError(f"{path} cannot be read to its end: {error}") from error


def _load(name: str, load: Load) -> Path | bytes:
    try:
        return load()
    except _DAMAGE as error:
        raise ClipError(f"{name}: {error}") from error


def _tar_entries(path: Path) -> Iterator[tuple[str, Load]]:
    with open_archive(path) as file:
        for member in read_members(file):
            load = partial(read_member, file, member, MAX_CLIP_BYTES)
            yield PurePosixPath(member.name).name, load


def _parquet_entries(path: Path) -> Iterator[tuple[str, Load]]:
    # Without a buffer whole columns are held; with it, a page.
    with pq.ParquetFile(path, buffer_size=_PARQUET_BUFFER) as table:
        kinds = {field.name: field.type for field in table.schema_arrow}
        audio = kinds.get("audio", pa.null())
        fields = {field.name: field.type for field in audio} if pa.types.is_struct(audio) else {}
        if "video_id" not in kinds or fields.get("bytes") not in (pa.binary(), pa.large_binary()):
            raise ClipError(
                "expected the columns `video_id` and `audio` with `bytes` and `path`, found "
                f"{', '.join(f'{name}: {kind}' for name, kind in kinds.items())}"
            )
        columns = ["video_id", *["audio.path"] * ("path" in fields)]
        for group in range(table.num_row_groups):
            column = _AudioColumn(table, group)
            rows = table.read_row_group(group, columns=columns).to_pylist()
            for number, row in enumerate(rows):
                # Of the path, which is not to be trusted, the format.
                ending = PurePosixPath(str((row.get("audio") or {}).get("path"))).suffix
                known = ending if ending.lower() in AUDIO_EXTENSIONS else ""
                yield f"{row['video_id']}{known}", partial(column.load, number)


class _AudioColumn:
    """The column `audio` of a row group, read when a row of it is asked for, and no earlier."""

    def __init__(self, table: pq.ParquetFile, group: int) -> None:
        self._batches = table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=["audio"])
        self._cells = pa.array([], pa.struct([("bytes", pa.binary())]))
        self._start = 0  # row of the first of these

    def load(self, row: int) -> bytes:
        """Return the bytes of a row, which must not lie before the row of an earlier call."""
        while row >= self._start + len(self._cells):
            self._start += len(self._cells)
            batch = next(self._batches, None)
            if batch is None:
                raise ClipError("the table's columns are of unequal lengths")
            self._cells = batch.column(0)
        cell = self._cells[row - self._start]
        content = cell["bytes"] if cell.is_valid else cell
        if not content.is_valid:
            raise ClipError("the table holds no bytes of it, and a path in a table is not followed")
        if (size := content.as_buffer().size) > MAX_CLIP_BYTES:
            raise ClipError(f"it has {size} bytes, at most {MAX_CLIP_BYTES} are read")
        return cast(bytes, content.as_py())
