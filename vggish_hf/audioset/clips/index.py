"""Which of a CSV's clips are there, found by their names before any of them is read."""

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from vggish_hf.audioset.clips.names import ClipError, ClipFile, read_clip_files
from vggish_hf.audioset.segments import Segment


class LeftOut(NamedTuple):
    """A clip, or an archive, that could not be used."""

    video_id: str
    """The clip's; empty for an archive."""
    reason: str
    """Why."""


@dataclass(frozen=True, slots=True)
class ClipIndex:
    """The clips that files and archives hold.

    Args:
        segments: The clips that were looked for, by video id.
        sources: Files and archives that hold some of them, sorted.
        counts: How many each of these holds, repeated ones among them.
        repeated: Clips of which an earlier file is used: position in `sources`, and position among
            the clips there.
        left_out: The clips of which there is no file, repeated ones, and damaged archives.
        are_cut: Whether all files are known to hold their clip alone.
    """

    segments: Mapping[str, Segment]
    sources: list[Path]
    counts: list[int]
    repeated: frozenset[tuple[int, int]]
    left_out: list[LeftOut]
    are_cut: bool

    @property
    def num_clips(self) -> int:
        """How many clips there are, each once."""
        return sum(self.counts) - len(self.repeated)

    def read(self, sources: Iterable[int] | None = None) -> Iterator[ClipFile]:
        """Go through the clips' files.

        Args:
            sources: Positions in `sources`; without it, all.

        Yields:
            A file a clip, in the same order every time; see `ClipFile.load` for when to load it.
        """
        for source in range(len(self.sources)) if sources is None else sources:
            try:
                for position, file in enumerate(
                    read_clip_files(self.sources[source], self.segments)
                ):
                    if (source, position) not in self.repeated:
                        yield replace(file, is_cut=True) if self.are_cut else file
            except ClipError:
                continue  # told in `left_out`

    def digest(self) -> str:
        """Compute a digest of clips and sources, which changes when any of them does."""
        digest = hashlib.sha256()
        for segment in self.segments.values():
            digest.update(f"{segment}\n".encode())
        for path in self.sources:
            status = path.stat()
            line = f"{path.name} {status.st_size} {status.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def index_clips(
    segments: Mapping[str, Segment], paths: Iterable[Path], *, are_cut: bool = False
) -> ClipIndex:
    """Look for clips by the names of files.

    Of a plain archive the headers are read, of a table the ids alone; a gzipped archive has to be
    decompressed for it.

    Args:
        segments: The clips, by video id; see `read_segments`.
        paths: Files and archives, see `list_sources`; of two files of a clip the first is used.
        are_cut: Whether all files are known to hold their clip alone.

    Raises:
        ValueError: They hold no clip of these.
    """
    sources: list[Path] = []
    counts: list[int] = []
    found: set[str] = set()
    repeated: set[tuple[int, int]] = set()
    left_out: list[LeftOut] = []
    for path in paths:
        count = 0
        try:
            for file in read_clip_files(path, segments):
                video_id = file.segment.video_id
                if video_id in found:
                    repeated.add((len(sources), count))
                    left_out.append(LeftOut(video_id, f"{path}: a second file of it, {file.name}"))
                found.add(video_id)
                count += 1
        except ClipError as error:
            left_out.append(LeftOut("", str(error)))
        if count:
            sources.append(path)
            counts.append(count)
    if not found:
        examples = ", ".join(list(segments)[:3])
        damaged = "".join(f"; {entry.reason}" for entry in left_out)
        raise ValueError(
            f"Expected files of the clips, named for their ids such as {examples}; there are "
            f"none{damaged}"
        )
    reason = "there is no file of it, or only one that is named for other times"
    left_out += [LeftOut(video_id, reason) for video_id in segments if video_id not in found]
    return ClipIndex(segments, sources, counts, frozenset(repeated), left_out, are_cut)


def write_left_out(path: str | os.PathLike[str], left_out: Iterable[LeftOut]) -> None:
    """Write a list of clips that were left out, as CSV."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "reason"])
        writer.writerows((entry.video_id, entry.reason) for entry in left_out)


def read_left_out(path: str | os.PathLike[str]) -> list[LeftOut]:
    """Read what `write_left_out` wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        return [LeftOut(row["video_id"], row["reason"]) for row in csv.DictReader(file)]
