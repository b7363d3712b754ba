"""Parquet files of whole clips, each sorted by `id`, inspected without loading them.

Memory holds at most a block of rows of a file, and a number per clip.
"""

import heapq
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vggish_hf._runtime.files import unfinished_file

_BLOCK_ROWS = 4096  # 2 MiB of float32
_READ_BYTES = 1 << 20  # of a column at once
_GROUP_ROWS = 16_384  # of a merged file
_OPEN_FILES = 16


def read_ids(path: Path) -> Iterator[str]:
    """Read the ids of a file's clips, each once, from the column `id` only."""
    for clip, _ in groupby(_read_runs(path, ["id"]), key=_id_of):
        yield clip


def find_repeated(paths: Sequence[Path]) -> tuple[int, dict[Path, set[str]]]:
    """Find clips that are in several files.

    Returns:
        The number of distinct clips, and for each file the clips that an earlier file has too.
    """
    # Eight bytes per clip, instead of hundreds for ids; a hash that occurs once is of one clip.
    hashes = np.fromiter((hash(clip) for path in paths for clip in read_ids(path)), np.int64)
    hashes.sort()
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not suspects:
        return len(hashes), {}
    seen: set[str] = set()
    repeated: dict[Path, set[str]] = {}
    for path in paths:
        found = {clip for clip in read_ids(path) if hash(clip) in suspects}
        if found & seen:
            repeated[path] = found & seen
        seen |= found
    return len(hashes) - sum(map(len, repeated.values())), repeated


def drop_clips(path: Path, clips: set[str]) -> None:
    """Rewrite a file without some of its clips, or delete it if no clip is left.

    It keeps its time of change, which tells the newer of two parts.
    """
    state = path.stat()
    dropped = pa.array(sorted(clips), pa.string())
    kept = 0
    with (
        unfinished_file(path) as unfinished,
        open_part(path) as file,
        pq.ParquetWriter(unfinished, file.schema_arrow) as writer,
    ):
        for block in file.iter_batches(_BLOCK_ROWS):
            rest = block.filter(pc.invert(pc.is_in(block["id"], dropped)))
            writer.write_batch(rest)
            kept += len(rest)
        writer.close()
        os.utime(unfinished, ns=(state.st_atime_ns, state.st_mtime_ns))
    if not kept:
        path.unlink()


def merge_parts(paths: Sequence[Path], target: Path) -> None:
    """Merge files into one, sorted like them; the files stay.

    Args:
        paths: The files, at least one, without common clips.
        target: The new file; it appears only when it is complete.
    """
    remaining = list(paths)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=".merged.", suffix=".unfinished"
    ) as folder:
        for number in count():
            group, remaining = remaining[:_OPEN_FILES], remaining[_OPEN_FILES:]
            if not remaining:
                break
            merged = Path(folder, f"{number}.parquet")
            _merge(group, merged)
            remaining.append(merged)
        with unfinished_file(target) as unfinished:
            _merge(group, unfinished)


def _merge(paths: Sequence[Path], target: Path) -> None:
    runs = heapq.merge(*(_read_runs(path) for path in paths), key=_id_of)
    with open_part(paths[0]) as part:
        schema = part.schema_arrow
    with pq.ParquetWriter(target, schema) as writer:
        group: list[pa.RecordBatch] = []
        num_rows = 0
        for _, rows in runs:
            group.append(rows)
            num_rows += len(rows)
            if num_rows >= _GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(group, schema))
                group, num_rows = [], 0
        if group:
            writer.write_table(pa.Table.from_batches(group, schema))


def _id_of(run: tuple[str, pa.RecordBatch]) -> str:
    return run[0]


def _read_runs(
    path: Path, columns: list[str] | None = None
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Cut a file into runs of rows of one clip; a clip in several blocks has several."""
    with open_part(path) as file:
        for block in file.iter_batches(_BLOCK_ROWS, columns=columns):
            runs = pc.run_end_encode(block["id"])
            start = 0
            for clip, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                yield clip, block.slice(start, end - start)
                start = end


@contextmanager
def open_part(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a file, or say how to replace a damaged one."""
    try:
        # Buffered, else a column of a whole row group would be read at once.
        file = pq.ParquetFile(path, buffer_size=_READ_BYTES)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"Expected a Parquet file in {str(path)!r}; delete it, so that its clips are embedded "
            f"again: {error}"
        ) from error
    with file:
        yield file
