"""The released AudioSet embeddings, exported to a folder that `datasets.load_dataset` opens."""

import os
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from vggish_hf.audioset.hub_folder import SplitWriter, add_to_card
from vggish_hf.audioset.released.shards import ShardOpener, digest_shards, find_shards, group_shards
from vggish_hf.audioset.released.tables import EmbeddingTables, embedding_features
from vggish_hf.tf_files.records import Errors

CONFIG = "embeddings"

_ABOUT = """\
## Embeddings

One row per clip: `video_id`, `start_time_seconds`, `end_time_seconds`, `labels` (indices into the
527 classes of AudioSet, whose names the features hold) and `embedding`: 128 uint8 per second,
VGGish embeddings, PCA-whitened, clipped to [-2, 2] and quantised; `q * 4 / 255 + 4 / 512 - 2`
undoes that.

The embeddings that Google released are licensed under CC BY 4.0:
https://research.google.com/audioset/download.html
"""


@dataclass(frozen=True, slots=True)
class ExportedSplit:
    """An exported split.

    Args:
        records: How many records its files hold.
        files: How many Parquet files it has.
        skipped: How many records were skipped, by the name of the TFRecord file.
    """

    records: int
    files: int
    skipped: dict[str, int]


def export_embeddings(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    errors: Errors = "raise",
    file_bytes: int = 256 << 20,
) -> dict[str, ExportedSplit]:
    """Write TFRecord files as Parquet, with a card that lists them as configuration `embeddings`.

    Each Parquet file appears only when it is complete; files of an earlier run are skipped. Splits
    and configurations of other exports in the folder stay.

    Args:
        source: See `AudioSetEmbeddings`.
        folder: The folder to write to, created if needed.
        errors: See `AudioSetEmbeddings`.
        file_bytes: How many bytes of TFRecord files make up one Parquet file.

    Returns:
        The splits, by name.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: The source has no shards, is damaged or hostile; or the folder has files from
            another source or other options.

    Example:
        >>> export_embeddings("features.tar.gz", "audioset/")  # doctest: +SKIP
        >>> datasets.load_dataset("audioset/", "embeddings", split="eval")  # doctest: +SKIP
    """
    folder = Path(folder)
    schema = embedding_features().arrow_schema
    exported: dict[str, ExportedSplit] = {}
    splits = find_shards(source)
    size = sum(shard.size for shards in splits.values() for shard in shards)
    with (
        ShardOpener() as opener,
        tqdm(total=size, unit="B", unit_scale=True, disable=None) as progress,
    ):
        for split, shards in splits.items():
            groups = group_shards(shards, file_bytes)
            made_from = {
                "shards": digest_shards(shards),
                "errors": errors,
                "file_bytes": file_bytes,
            }
            writer = SplitWriter(folder, CONFIG, split, schema, len(groups), made_from)
            for index, group in enumerate(groups):
                if index not in writer.finished:
                    tables = EmbeddingTables(group, opener, errors)
                    writer.write(index, tables, notes=tables.skipped)
                progress.update(sum(shard.size for shard in group))
            finished = writer.finished.values()
            exported[split] = ExportedSplit(
                records=sum(shard.rows for shard in finished),
                files=len(groups),
                skipped={k: v for shard in finished for k, v in shard.notes.items()},
            )
    add_to_card(folder, CONFIG, list(splits), _ABOUT)
    return exported
