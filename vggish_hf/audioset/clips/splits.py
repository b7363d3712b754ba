"""A split of clips, or of their embeddings, as Parquet files, resumable."""

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
    """A written split.

    Args:
        clips: How many clips its files hold.
        files: The Parquet files.
        left_out: The clips that failed.
        report: The CSV that lists the failed clips.
        unmatched: Audio files whose names match no clip.
        skipped: What the search for audio files skipped, and why.
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
    """Write tables of clips, `file_clips` a file; existing files are skipped.

    Args:
        index: The clips.
        make_tables: Makes the tables of a file. It gets the clips' files, which it reads to their
            end, and a list, to which it appends the failed clips.
        folder: The folder to write to, created if needed.
        config: Name of the configuration.
        split: Name of the split.
        schema: Columns and features.
        made_from: The options that decide the content, besides the clips; JSON values.
        file_clips: Clips per file, including the failed ones.
        about: Markdown for the folder's card.

    Raises:
        ValueError: The split's name is invalid, `file_clips` is less than one, or the folder has
            files from another source or other options.
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
    report = folder / f"failed_{config}_{split}.csv"
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
