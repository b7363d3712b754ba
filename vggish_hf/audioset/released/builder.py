"""The released AudioSet embeddings as a `datasets` builder.

This module does not use `open`, `os.path` or `Path`, because `datasets` replaces them in a
builder's module to stream from the Hub.
"""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa

from vggish_hf._checks import check_choice
from vggish_hf.audioset._datasets import datasets
from vggish_hf.audioset.released.shards import (
    Shard,
    ShardOpener,
    digest_shards,
    find_shards,
    is_gzipped,
)
from vggish_hf.audioset.released.tables import EmbeddingTables, embedding_features
from vggish_hf.tf_files.records import Errors


@dataclass
class AudioSetEmbeddingsConfig(datasets.BuilderConfig):  # type: ignore[misc] # untyped
    """The options that decide the content; see `AudioSetEmbeddings`."""

    errors: Errors = "raise"


class AudioSetEmbeddings(datasets.ArrowBasedBuilder):  # type: ignore[misc] # untyped
    """Builder of the released AudioSet embeddings, or of files laid out like them.

    It has the methods of all builders: `download_and_prepare(num_proc=...)`,
    `as_dataset(split=...)`, `as_streaming_dataset(split=...)`. The columns are those of
    `AudioSetRecord`; `labels` are `ClassLabel`, `embedding` is uint8, which `with_format("torch")`
    turns into int64; `AudioSetEmbeddingsDataset` keeps uint8. Neither `num_proc` nor `shuffle`
    divides a gzipped archive, since it can only be read from its start.

    Args:
        source: A folder, or a tar archive, plain or gzipped, with TFRecord files in a folder per
            split: `bal_train`, `eval` or `unbal_train`.
        errors: `"raise"`: a damaged record, or one not of AudioSet's form, raises RecordError
            (`datasets` wraps it in a DatasetGenerationError). `"skip"`: it is skipped, and a
            warning gives the number.
        cache_dir: Folder for prepared data, instead of the Hub's cache.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: `source` has no shards, or is a damaged or hostile archive; `errors` has another
            value.

    Example:
        >>> builder = AudioSetEmbeddings("features.tar.gz")  # doctest: +SKIP
        >>> builder.download_and_prepare()  # doctest: +SKIP
        >>> builder.as_dataset(split="eval")[0]["video_id"]  # doctest: +SKIP
        '--4gqARaEJE'
    """

    VERSION = "1.0.0"  # of the columns; a new one makes the cached data anew
    BUILDER_CONFIG_CLASS = AudioSetEmbeddingsConfig

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        errors: Errors = "raise",
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        check_choice("errors", errors, Errors)
        self._shards = find_shards(source)
        super().__init__(
            cache_dir=cache_dir,
            dataset_name="audioset_embeddings",
            # The name of the cache's folder, so that changed data are prepared anew.
            hash=digest_shards(shard for shards in self._shards.values() for shard in shards),
            data_dir=str(source),
            errors=errors,
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=embedding_features())

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        """List the splits; `datasets` divides the lists among processes."""
        return [
            datasets.SplitGenerator(split, gen_kwargs={"pieces": _pieces(shards)})
            for split, shards in self._shards.items()
        ]

    def _generate_tables(self, pieces: list[list[Shard]]) -> Iterator[tuple[int, pa.Table]]:
        with ShardOpener() as opener:
            tables = EmbeddingTables(chain.from_iterable(pieces), opener, self.config.errors)
            yield from enumerate(tables)
        for name, count in tables.skipped.items():
            warnings.warn(f"{name}: skipped {count} damaged records", stacklevel=2)


def _pieces(shards: list[Shard]) -> list[list[Shard]]:
    """Divide shards into pieces that can be read independently."""
    return [shards] if is_gzipped(shards[0]) else [[shard] for shard in shards]
