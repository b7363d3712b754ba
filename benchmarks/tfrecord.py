"""Read, verify and parse the released AudioSet embeddings: records a second.

We run on one thread. Where TensorFlow is importable it takes turns with us, in its fastest way
(batches of 512) and in its plain one (a record at a time), its thread pools set to one thread
each, beside which it has threads of its own: hence the column of processor time. Then every record
is compared.
"""

import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import describe_machine
from vggish_hf.audioset.released.records import AudioSetRecord, parse_audioset
from vggish_hf.tf_files.records import RecordReader

ROOT = Path(__file__).parents[1]
PASSES = 9

Candidate = Callable[[list[str]], Iterator[Any]]


def read(paths: list[str]) -> Iterator[bytes]:
    """Read and verify, without parsing."""
    for path in paths:
        yield from RecordReader(path)


def read_and_parse(paths: list[str]) -> Iterator[AudioSetRecord]:
    """Read, verify and parse."""
    for path in paths:
        for data in RecordReader(path):
            yield parse_audioset(data)


def tensorflow_ways() -> tuple[Candidate, Candidate, ModuleType]:
    """Return TensorFlow's ways, by the batch and a record at a time, and TensorFlow."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    context = {
        "video_id": tf.io.FixedLenFeature([], tf.string),
        "start_time_seconds": tf.io.FixedLenFeature([], tf.float32),
        "end_time_seconds": tf.io.FixedLenFeature([], tf.float32),
        "labels": tf.io.VarLenFeature(tf.int64),
    }
    lists = {"audio_embedding": tf.io.FixedLenSequenceFeature([], tf.string)}

    def parse_batch(batch: Any) -> Any:
        features, rows, _ = tf.io.parse_sequence_example(batch, context, lists)
        return features, tf.io.decode_raw(rows["audio_embedding"], tf.uint8, fixed_length=128)

    def by_batch(paths: list[str]) -> Iterator[Any]:
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        data = tf.data.TFRecordDataset(paths).with_options(options)
        yield from data.batch(512).map(parse_batch)

    def by_record(paths: list[str]) -> Iterator[Any]:
        for data in tf.data.TFRecordDataset(paths):
            features, rows = tf.io.parse_single_sequence_example(data, context, lists)
            yield features, tf.io.decode_raw(rows["audio_embedding"], tf.uint8)

    return by_batch, by_record, tf


def count_differences(by_record: Candidate, paths: list[str]) -> int:
    """Count the records that TensorFlow reads otherwise than we do."""
    return sum(
        (
            ours.video_id.encode(),
            ours.start_time_seconds,
            ours.end_time_seconds,
            ours.labels,
            ours.embedding.tolist(),
        )
        != (
            features["video_id"].numpy(),
            features["start_time_seconds"].numpy(),
            features["end_time_seconds"].numpy(),
            tuple(features["labels"].values.numpy().tolist()),
            embedding.numpy().tolist(),
        )
        for ours, (features, embedding) in zip(read_and_parse(paths), by_record(paths), strict=True)
    )


@contextmanager
def audioset_folder() -> Iterator[Path]:
    """Give a folder of released files: all that the shared data have, or the few of the tests."""
    archives = sorted((ROOT.parent / "shared/data/audioset").glob("*.tar"))
    if not archives:
        yield ROOT / "tests/data/audioset"
        return
    with tempfile.TemporaryDirectory() as folder:
        for archive in archives:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        yield Path(folder)


def main() -> None:
    """Measure and print."""
    candidates: dict[str, Candidate] = {"read": read, "read and parse": read_and_parse}
    modules: list[ModuleType] = [np]
    if find_spec("tensorflow"):
        by_batch, by_record, tensorflow = tensorflow_ways()
        candidates |= {"TensorFlow, batches": by_batch, "TensorFlow, one by one": by_record}
        modules.append(tensorflow)
    with audioset_folder() as folder:
        paths = sorted(map(str, folder.rglob("*.tfrecord")))
        records = sum(1 for _ in read(paths))
        rates: dict[str, list[float]] = {name: [] for name in candidates}
        processor_time: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(PASSES):
            for name, candidate in candidates.items():
                start, start_processor = time.perf_counter(), time.process_time()
                for _ in candidate(paths):
                    pass
                rates[name].append(records / (time.perf_counter() - start))
                processor_time[name].append((time.process_time() - start_processor) / records)
        print(describe_machine("python -m benchmarks tfrecord", *modules))
        print(f"{records:,} records in {len(paths):,} files; records/s, {PASSES} passes\n")
        print(f"{'':24}{'best':>10}{'median':>10}{'CPU us/record':>16}")
        for name, measured in rates.items():
            figures = f"{max(measured):10,.0f}{statistics.median(measured):10,.0f}"
            print(f"{name:24}{figures}{1e6 * statistics.median(processor_time[name]):16.1f}")
        if find_spec("tensorflow"):
            print(f"records that TensorFlow reads otherwise: {count_differences(by_record, paths)}")


if __name__ == "__main__":
    main()
