"""The released AudioSet embeddings as a `datasets` builder.

To stream from the Hub, `datasets` replaces `open`, `os.path` and `Path` in the module of a builder:
hence this one uses none of them.
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
    """What decides the content, besides the source; see `AudioSetEmbeddings`."""

    errors: Errors = "raise"


class AudioSetEmbeddings(datasets.ArrowBasedBuilder):  # type: ignore[misc] # untyped
    """Builder of the released AudioSet embeddings, or of files laid out like them.

    It does all that builders do: `download_and_prepare(num_proc=...)`, `as_dataset(split=...)`,
    `as_streaming_dataset(split=...)`. The columns are those of `AudioSetRecord`; `labels` are
    `ClassLabel`, `embedding` is uint8, which `with_format("torch")` would turn into int64 and
    `AudioSetEmbeddingsDataset` does not. A gzipped archive is one piece, since it can only be
    read from its start: neither `num_proc` nor `shuffle` divides it.

    Args:
        source: A folder, or a tar archive, plain or gzipped, with TFRecord files in folders named
            `bal_train`, `eval` or `unbal_train`, which are the splits.
        errors: `"raise"`: a damaged record, or one that is none of AudioSet's, raises RecordError
            (`datasets` puts a DatasetGenerationError around it). `"skip"`: it is left out, and a
            warning says how many were.
        cache_dir: Where prepared data are kept, in place of the Hub's own cache.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ValueError: `source` has no shards, or is a damaged or a hostile archive; `errors` is
            neither of the two.

    Example:
        >>> builder = AudioSetEmbeddings("features.tar.gz")  # doctest: +SKIP
        >>> builder.download_and_prepare()  # doctest: +SKIP
        >>> builder.as_dataset(split="eval")[0]["video_id"]  # doctest: +SKIP
        '--4gqARaEJE'
    """

    VERSION = "1.0.0"  # of the columns: another one, and what the cache holds is made anew
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
            # The name of the cache's folder: what has changed is prepared anew.
            hash=digest_shards(shard for shards in self._shards.values() for shard in shards),
            data_dir=str(source),
            errors=errors,
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=embedding_features())

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        """List the splits, for `datasets`, which divides the lists among processes."""
        return [
            datasets.SplitGenerator(split, gen_kwargs={"pieces": _pieces(shards)})
            for split, shards in self._shards.items()
        ]

    def _generate_tables(self, pieces: list[list[Shard]]) -> Iterator[tuple[int, pa.Table]]:
        with ShardOpener() as opener:
            tables = EmbeddingTables(chain.from_iterable(pieces), opener, self.config.errors)
            yield from enumerate(tables)
        for name, count in tables.skipped.items():
            warnings.warn(f"{name}: left out {count} damaged records", stacklevel=2)


def _pieces(shards: list[Shard]) -> list[list[Shard]]:
    """Divide shards into what may be read apart."""
    return [shards] if is_gzipped(shards[0]) else [[shard] for shard in shards]
