"""The records of AudioSet's embeddings as Arrow tables with the features of `datasets`."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice

import numpy as np
import pyarrow as pa

from vggish_hf._checks import check_choice
from vggish_hf.audioset._datasets import datasets
from vggish_hf.audioset.labels import AudioSetLabels
from vggish_hf.audioset.released.records import EMBEDDING_SIZE, AudioSetRecord, parse_audioset
from vggish_hf.audioset.released.shards import Shard, ShardOpener
from vggish_hf.tf_files.records import Errors, RecordError, RecordReader

_TABLE_ROWS = 4096  # 5 MB


def embedding_features() -> datasets.Features:
    """Describe the columns, those of `AudioSetRecord`."""
    names = [known.name for known in AudioSetLabels().classes]
    return datasets.Features(
        {
            "video_id": datasets.Value("string"),
            "start_time_seconds": datasets.Value("float32"),
            "end_time_seconds": datasets.Value("float32"),
            "labels": datasets.List(datasets.ClassLabel(names=names)),
            "embedding": datasets.List(
                datasets.List(datasets.Value("uint8"), length=EMBEDDING_SIZE)
            ),
        }
    )


class EmbeddingTables:
    """The records of shards as tables of a few megabytes.

    Args:
        shards: The shards, in this order.
        opener: Opens them.
        errors: `"raise"`: a damaged record, or one not of AudioSet's form, raises RecordError.
            `"skip"`: it is skipped and counted, with all that follows a damaged length or a cut;
            see `RecordReader`.

    Attributes:
        skipped: How many records, or rests of a file, were skipped so far, by the shard's name.
    """

    def __init__(
        self, shards: Iterable[Shard], opener: ShardOpener, errors: Errors = "raise"
    ) -> None:
        check_choice("errors", errors, Errors)
        self.shards = shards
        self.opener = opener
        self.errors = errors
        self.skipped: dict[str, int] = {}

    def __iter__(self) -> Iterator[pa.Table]:
        """Read the shards.

        Raises:
            RecordError: A record is damaged, and `errors` is `"raise"`; says file and byte.
        """
        self.skipped.clear()
        records = self._records()
        while batch := list(islice(records, _TABLE_ROWS)):
            yield record_table(batch)

    def _records(self) -> Iterator[AudioSetRecord]:
        for shard in self.shards:
            skipped = 0
            with self.opener.open(shard) as file:
                reader = RecordReader(file, errors=self.errors)
                for data in reader:
                    try:
                        yield _parse(data)
                    except RecordError as error:
                        if self.errors == "raise":
                            raise RecordError(
                                f"{shard.name}, byte {reader.offset}: {error} "
                                '(errors="skip" skips it)'
                            ) from error
                        skipped += 1
            if skipped + reader.skipped:
                self.skipped[shard.name] = skipped + reader.skipped


@cache  # streaming reads each shard by itself, and many have five records
def _schema() -> pa.Schema:
    return embedding_features().arrow_schema


@cache
def _class_count() -> int:
    return len(AudioSetLabels())


def _parse(data: bytes) -> AudioSetRecord:
    record = parse_audioset(data)
    if not all(0 <= label < _class_count() for label in record.labels):
        raise RecordError(f"Expected labels below {_class_count()}, got {record.labels}")
    return record


def record_table(records: Sequence[AudioSetRecord]) -> pa.Table:
    """Make a table of at least one record with the columns of `embedding_features`."""
    rows = np.concatenate([record.embedding for record in records])
    labels = [label for record in records for label in record.labels]
    columns = [
        [record.video_id for record in records],
        [record.start_time_seconds for record in records],
        [record.end_time_seconds for record in records],
        _lists([len(record.labels) for record in records], pa.array(labels, pa.int64())),
        _lists(
            [len(record.embedding) for record in records],
            pa.FixedSizeListArray.from_arrays(rows.reshape(-1), EMBEDDING_SIZE),
        ),
    ]
    return pa.table(columns, schema=_schema())


def _lists(lengths: list[int], values: pa.Array) -> pa.ListArray:
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, values)
