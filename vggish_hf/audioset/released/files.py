"""Embeddings in the layout of AudioSet's release: `{split}/XX.tfrecord`.

XX are the first two characters of the video ids in a file. On disks that ignore case, `5v` and `5V`
are the same name; there both go to one file. Nothing is lost, since readers read all files of a
split.
"""

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vggish_hf.audioset.released.records import EMBEDDING_SIZE, AudioSetRecord, encode_audioset
from vggish_hf.tf_files.records import RecordWriter

_GROUP_RECORDS = 50_000  # in memory at once: 80 MB
_CONTEXT = ("video_id", "start_time_seconds", "end_time_seconds", "labels")


def write_release(
    tables: Sequence[Path], folder: Path, *, ignores_case: bool | None = None
) -> list[Path]:
    """Write embeddings as TFRecord files; each appears only when it is complete.

    Args:
        tables: Parquet files with the columns of `embedding_features()`; each is read once per
            50,000 of their records.
        folder: The split's folder, created if needed.
        ignores_case: Whether the folder's disk ignores case in names; by default it is tried.

    Returns:
        The files' paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if ignores_case is None:
        ignores_case = _ignores_case(folder)
    prefixes: Counter[str] = Counter()
    for table in tables:
        ids = pq.read_table(table, columns=["video_id"])["video_id"]
        prefixes.update(video_id[:2] for video_id in ids.to_pylist())
    # The prefixes of each file, by its name as the disk sees it.
    files: dict[str, list[str]] = {}
    for prefix in sorted(prefixes):
        files.setdefault(prefix.casefold() if ignores_case else prefix, []).append(prefix)
    written = []
    for group in _groups(list(files.values()), prefixes):
        records = _read_records(tables, [prefix for file in group for prefix in file])
        for file in group:
            path = folder / f"{file[0]}.tfrecord"
            with RecordWriter(path) as writer:
                for prefix in file:
                    for record in records.pop(prefix):
                        writer.write(record)
            written.append(path)
    return written


def _groups(files: list[list[str]], prefixes: Counter[str]) -> Iterator[list[list[str]]]:
    """Divide files into runs, each one file or as many as fit into memory."""
    group: list[list[str]] = []
    size = 0
    for file in files:
        records = sum(prefixes[prefix] for prefix in file)
        if group and size + records > _GROUP_RECORDS:
            yield group
            group, size = [], 0
        group.append(file)
        size += records
    if group:
        yield group


def _read_records(tables: Iterable[Path], prefixes: list[str]) -> dict[str, list[bytes]]:
    """Encode the records whose ids start with one of the prefixes, by prefix."""
    wanted = pa.array(prefixes)
    records: dict[str, list[bytes]] = {prefix: [] for prefix in prefixes}
    for path in tables:
        table = pq.read_table(path)
        starts = pc.utf8_slice_codeunits(table["video_id"], 0, 2)
        table = table.filter(pc.is_in(starts, wanted))
        lists = table["embedding"].combine_chunks()
        rows = lists.flatten().flatten().to_numpy().reshape(-1, EMBEDDING_SIZE)
        # The split after the last end is empty and not an embedding.
        *embeddings, _ = np.split(rows, np.cumsum(lists.value_lengths()))
        context = (table[name].to_pylist() for name in _CONTEXT)
        for video_id, start, end, labels, embedding in zip(*context, embeddings, strict=True):
            record = AudioSetRecord(video_id, start, end, tuple(labels), embedding)
            records[video_id[:2]].append(encode_audioset(record))
    return records


def _ignores_case(folder: Path) -> bool:
    name = f".{secrets.token_hex(8)}.case"
    (folder / name).touch()
    try:
        return (folder / name.upper()).exists()
    finally:
        (folder / name).unlink()
