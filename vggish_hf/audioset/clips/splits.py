"""A split of clips, or of what is made of clips, as Parquet files: in parts, to be resumed."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from tqdm import tqdm

from vggish_hf.audioset.clips.index import (
    ClipFile,
    ClipIndex,
    LeftOut,
    Unmatched,
    write_left_out,
)
from vggish_hf.audioset.hub_folder import SplitWriter, add_to_card, unfinished_file

MakeTables: TypeAlias = Callable[[Iterator[ClipFile], list[LeftOut]], Iterable[pa.Table]]


@dataclass(frozen=True, slots=True)
class ClipSplit:
    """A split that was written.

    Args:
        clips: How many clips its files hold.
        files: The Parquet files.
        left_out: The clips that are not among them.
        report: The CSV that lists these.
        unmatched: Audio files that are named for none of the clips.
        skipped: What was skipped in the search for audio files, and why.
    """

    clips: int
    files: list[Path]
    left_out: list[LeftOut]
    report: Path
    unmatched: Unmatched
    skipped: list[tuple[str, str]]


def write_split(
    index: ClipIndex,
    make_tables: MakeTables,
    folder: Path,
    config: str,
    split: str,
    *,
    schema: pa.Schema,
    made_from: Mapping[str, Any],
    file_clips: int,
    about: str,
) -> ClipSplit:
    """Make tables of clips, so many clips a file; files that are there already are skipped.

    Args:
        index: The clips.
        make_tables: Makes the tables of a file. It is given the clips' files, which it reads to
            their end, and a list to which it appends the clips that it cannot use.
        folder: The folder to write to, made if need be.
        config: Name of the configuration.
        split: Name of the split.
        schema: Columns and features.
        made_from: What decides the content besides the clips; JSON values.
        file_clips: How many clips make up one file, less those that are left out.
        about: Markdown for the folder's card.

    Raises:
        ValueError: The split has no proper name, `file_clips` is less than one, or the folder has
            files that were made from something else.
    """
    if re.fullmatch(r"\w+", split) is None:
        raise ValueError(f"Expected a split named by letters, digits and _, got {split!r}")
    if file_clips < 1:
        raise ValueError(f"Expected `file_clips` of at least 1, got {file_clips}")
    made_from = {"clips": index.digest(), "file_clips": file_clips, **made_from}
    shards = -(-index.num_clips // file_clips)
    writer = SplitWriter(folder, config, split, schema, shards, made_from)
    remaining = iter(tqdm(index.read(), total=index.num_clips, unit="clip", disable=None))
    for shard in range(shards):
        files = islice(remaining, file_clips)
        if shard in writer.finished:
            deque(files, maxlen=0)  # not loaded
        else:
            unusable: list[LeftOut] = []
            writer.write(shard, make_tables(files, unusable), {"left_out": unusable})
    finished = [writer.finished[shard] for shard in range(shards)]
    left_out = [*index.left_out]
    left_out += (LeftOut(*entry) for shard in finished for entry in shard.notes["left_out"])
    report = folder / f"left_out_{config}_{split}.csv"
    with unfinished_file(report) as unfinished:
        write_left_out(unfinished, left_out)
    add_to_card(folder, config, [split], about)
    return ClipSplit(
        sum(shard.rows for shard in finished),
        writer.paths,
        left_out,
        report,
        index.unmatched,
        index.skipped,
    )
