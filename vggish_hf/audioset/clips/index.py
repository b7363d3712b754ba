"""Find files of a CSV's clips by their names, before reading any of them."""

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote

from vggish_hf.audioset.clips.names import ClipError, parse_name
from vggish_hf.audioset.segments import Segment
from vggish_hf.inputs import Clip, find_clips, without_secrets
from vggish_hf.inputs.addresses import is_url, is_web_url
from vggish_hf.inputs.search import is_glob
from vggish_hf.inputs.stores import describe_version

#: Inputs of `find_clips`.
AudioInputs: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_SHOWN = 10


class LeftOut(NamedTuple):
    """A clip, or an archive, that failed."""

    video_id: str
    """The clip's video id; empty for an archive."""
    reason: str
    """Why."""


@dataclass(frozen=True, slots=True)
class ClipFile:
    """A file that is named for a clip.

    Args:
        clip: Its place.
        segment: The clip.
        is_cut: Whether the name says that the file holds only the segment.
    """

    clip: Clip
    segment: Segment
    is_cut: bool

    @property
    def name(self) -> str:
        """The file's name, without its folder; the id of a table's row."""
        return _file_name(self.clip)

    def load(self) -> Path | bytes:
        """Return the file's absolute path, or its bytes.

        Load the files of a gzipped archive in their order; others are slow.

        Raises:
            ClipError: It cannot be read.
        """
        try:
            loaded = self.clip.load()
        except (OSError, ValueError) as error:
            raise ClipError(str(error)) from error
        return loaded if isinstance(loaded, bytes) else Path(os.path.abspath(loaded))


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Files whose names match no clip.

    Args:
        count: How many there are.
        examples: The ids of the first ten.
    """

    count: int
    examples: list[str]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.examples)} more" * (self.count > len(self.examples))
        files = "file is" if self.count == 1 else "files are"
        return f"{self.count} {files} named for none of the clips: {', '.join(self.examples)}{more}"


@dataclass(frozen=True, slots=True)
class ClipIndex:
    """The clips in files and archives.

    Args:
        segments: The wanted clips, by video id.
        files: A file for each clip found, in the order of `find_clips`.
        left_out: The clips without a file, second files of a clip, and damaged archives.
        unmatched: The files whose names match no clip.
        skipped: What was skipped, such as links out of a folder, and why.
    """

    segments: Mapping[str, Segment]
    files: list[ClipFile]
    left_out: list[LeftOut]
    unmatched: Unmatched
    skipped: list[tuple[str, str]]

    @property
    def num_clips(self) -> int:
        """The number of distinct clips."""
        return len(self.files)

    @property
    def sources(self) -> list[str]:
        """The paths and URLs of files and archives with clips."""
        return [path for path, _ in groupby(self.files, lambda file: file.clip.path)]

    def read(self, sources: Iterable[int] | None = None) -> Iterator[ClipFile]:
        """Yield the clips' files.

        Args:
            sources: Positions in `sources`; the default is all.

        Yields:
            One file per clip, always in the same order.
        """
        if sources is None:
            yield from self.files
            return
        runs = [list(run) for _, run in groupby(self.files, lambda file: file.clip.path)]
        for source in sources:
            yield from runs[source]

    def digest(self) -> str:
        """Compute a digest of clips and sources; it changes when they do."""
        digest = hashlib.sha256()
        for segment in self.segments.values():
            digest.update(f"{segment}\n".encode())
        for path in self.sources:
            name = PurePosixPath(without_secrets(path) if is_url(path) else path).name
            line = f"{name} {describe_version(path)}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def index_clips(
    segments: Mapping[str, Segment], audio: AudioInputs, *, are_cut: bool = False
) -> ClipIndex:
    """Look for clips by the names of files.

    This reads the headers of a plain archive, the ids of a table, and all of a gzipped archive.

    Args:
        segments: The clips, by video id; see `read_segments`.
        audio: Files, folders, archives and other inputs of `find_clips`; the first file of a clip
            counts.
        are_cut: Whether all files are known to hold only their clip.

    Raises:
        FileNotFoundError: A file or folder does not exist.
        ValueError: They hold none of the clips.
    """
    inputs = [audio] if isinstance(audio, (str, os.PathLike)) else list(audio)
    for argument in (os.fspath(entry) for entry in inputs):
        if not (is_url(argument) or is_glob(argument) or os.path.exists(argument)):
            raise FileNotFoundError(f"No such file or folder: {argument!r}")
    skipped: list[tuple[str, str]] = []
    found: dict[str, ClipFile] = {}
    left_out: list[LeftOut] = []
    count, examples = 0, []
    for clip in find_clips(inputs, on_skip=lambda path, reason: skipped.append((path, reason))):
        if clip.problem is not None and clip.member is None:
            left_out.append(LeftOut("", clip.problem))
            continue
        parsed = parse_name(_file_name(clip), segments)
        if parsed is None or not parsed.fits(segments[parsed.video_id]):
            count += 1
            examples += [clip.id] if count <= _SHOWN else []
            continue
        segment = segments[parsed.video_id]
        file = ClipFile(clip, segment, are_cut or parsed.times is not None)
        if found.setdefault(segment.video_id, file) is not file:
            left_out.append(LeftOut(segment.video_id, f"{clip.id}: a second file of it"))
    unmatched = Unmatched(count, examples)
    if not found:
        names = ", ".join(list(segments)[:3])
        reasons = [entry.reason for entry in left_out]
        reasons += [f"skipped: {path}: {reason}" for path, reason in skipped[:_SHOWN]]
        reasons += [str(unmatched)] if count else []
        raise ValueError(
            f"No files found that are named for the clips' ids, such as {names}"
            + "".join(f"; {reason}" for reason in reasons)
        )
    reason = "there is no file of it, or only one that is named for other times"
    left_out += [LeftOut(video_id, reason) for video_id in segments if video_id not in found]
    return ClipIndex(segments, list(found.values()), left_out, unmatched, skipped)


def _file_name(clip: Clip) -> str:
    if clip.member is not None:
        return PurePosixPath(clip.member.replace("\\", "/")).name
    return PurePosixPath(
        unquote(clip.id.partition("?")[0]) if is_web_url(clip.id) else clip.id
    ).name


def write_left_out(path: str | os.PathLike[str], left_out: Iterable[LeftOut]) -> None:
    """Write a list of failed clips as CSV."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "reason"])
        writer.writerows((entry.video_id, entry.reason) for entry in left_out)


def read_left_out(path: str | os.PathLike[str]) -> list[LeftOut]:
    """Read a CSV of `write_left_out`."""
    with open(path, encoding="utf-8", newline="") as file:
        return [LeftOut(row["video_id"], row["reason"]) for row in csv.DictReader(file)]
