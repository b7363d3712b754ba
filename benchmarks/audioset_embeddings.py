"""Export the released AudioSet embeddings to Parquet, and read them back: speed, memory, size.

Each export is a process of its own, whose peak memory is the system's count.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from benchmarks import describe_machine
from benchmarks.tfrecord import audioset_folder
from vggish_hf.audioset import AudioSetEmbeddings, AudioSetEmbeddingsDataset, collate_padded

RELEASED = 2_084_320  # records in the whole release
PASSES = 3

EXPORT = """
import json, sys, time
from pathlib import Path
from vggish_hf.audioset import export_embeddings

def peak():
    # Linux; ru_maxrss would begin with the peak of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

imported, start = peak(), time.perf_counter()
splits = export_embeddings(*sys.argv[1:])
seconds, records = time.perf_counter() - start, sum(split.records for split in splits.values())
print(json.dumps([records, records / seconds, imported, peak()]))
"""


def archive_copies(folder: Path, copies: int, path: Path) -> int:
    """Put a folder into an archive, so many times, and return the bytes of all the files."""
    files = sorted(folder.rglob("*.tfrecord"))
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for copy in range(copies):
            for file in files:
                archive.add(file, f"{copy}/{file.parent.name}/{file.name}")
    return copies * sum(file.stat().st_size for file in files)


def export(source: Path, output: Path) -> Any:
    """Export in a process of its own: records, records a second, MiB before and at the most."""
    command = [sys.executable, "-c", EXPORT, str(source), str(output)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def rate(read: Callable[[], Iterable[Any]], count: int) -> float:
    """Items a second, the best of several passes."""
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        for _ in read():
            pass
        seconds.append(time.perf_counter() - start)
    return count / min(seconds)


def measure_export(source: Path, scratch: Path) -> None:
    """Print what the export costs: the data, plain and gzipped, and ten times as much."""
    print(f"{'export of an archive':30}{'records/s':>12}{'peak MiB':>12}{'of it imports':>16}")
    for copies, suffix in ((1, ".tar"), (1, ".tar.gz"), (10, ".tar")):
        archive = scratch / f"{copies}{suffix}"
        size = archive_copies(source, copies, archive)
        runs = [export(archive, scratch / f"{archive.name}-{run}") for run in range(PASSES)]
        records, speed, imported, peak = max(runs, key=lambda run: run[1])
        name = f"{records:,} records, {suffix}"
        print(f"{name:30}{speed:12,.0f}{peak:12,.0f}{imported:16,.0f}")
    parquet = (scratch / f"{archive.name}-0").rglob("*.parquet")
    written = sum(path.stat().st_size for path in parquet) / records
    print(f"bytes a record: TFRecord {size / records:,.0f}, Parquet {written:,.0f}")
    time_and_size = f"{RELEASED / speed:.0f} s, {RELEASED * written / 1e9:.2f} GB of Parquet"
    print(f"all {RELEASED:,} records at the last rate: {time_and_size}\n")


def measure_reading(source: Path, exported: Path, scratch: Path) -> None:
    """Print how fast the records come back."""
    builder = AudioSetEmbeddings(source, cache_dir=scratch / "builder")
    start = time.perf_counter()
    builder.download_and_prepare()
    seconds = time.perf_counter() - start
    split = "bal_train"
    dataset = builder.as_dataset(split=split)
    count = len(dataset)
    parquet = {"path": str(exported), "name": "embeddings", "split": split, "cache_dir": scratch}
    streamed = datasets.load_dataset(**parquet, streaming=True)
    loaded = datasets.load_dataset(**parquet)
    clips = AudioSetEmbeddingsDataset(dataset)
    loader = DataLoader(clips, 256, shuffle=True, collate_fn=collate_padded)
    as_torch = DataLoader(dataset.with_format("torch"), 256, shuffle=True, collate_fn=list)
    total = sum(split.num_examples for split in builder.info.splits.values())
    print(f"{'reading, one process':52}{'records/s':>10}")
    for name, speed in {
        "AudioSetEmbeddings(...).download_and_prepare()": total / seconds,
        "AudioSetEmbeddings(...).as_streaming_dataset()": rate(
            lambda: builder.as_streaming_dataset(split=split), count
        ),
        "load_dataset(DIR, streaming=True), rows": rate(lambda: streamed, count),
        "load_dataset(DIR), rows": rate(lambda: loaded, count),
        "AudioSetEmbeddingsDataset, padded batches, uint8": rate(lambda: loader, count),
        'with_format("torch"), lists, int64': rate(lambda: as_torch, count),
    }.items():
        print(f"{name:52}{speed:10,.0f}")


def main() -> None:
    """Print the tables."""
    datasets.disable_progress_bars()
    print(describe_machine("python -m benchmarks audioset_embeddings", datasets, pa, torch))
    print()
    with audioset_folder() as source, tempfile.TemporaryDirectory() as scratch:
        measure_export(source, Path(scratch))
        measure_reading(source, Path(scratch, "1.tar-0"), Path(scratch))


if __name__ == "__main__":
    main()
