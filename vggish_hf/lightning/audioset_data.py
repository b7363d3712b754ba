"""AudioSet in batches: its released embeddings, or its clips of audio."""

import json
import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as pq
from torch.utils.data import Dataset, Subset

from vggish_hf.audioset import (
    AudioSetClips,
    AudioSetClipsDataset,
    AudioSetEmbeddings,
    AudioSetLabels,
)
from vggish_hf.audioset._datasets import datasets
from vggish_hf.audioset.clips.export import CONFIG as CLIPS
from vggish_hf.audioset.clips.torch_dataset import AudioClip
from vggish_hf.audioset.released.export import CONFIG as EMBEDDINGS
from vggish_hf.lightning.data_module import ClipDataModule, identity_collate
from vggish_hf.lightning.embedding_batches import EmbeddingBatches
from vggish_hf.outputs.schema import METADATA_KEY
from vggish_hf.training.batches import (
    EmbeddingBatch,
    WaveformBatch,
    WaveformClip,
    collate_waveforms,
)
from vggish_hf.training.plain import to_plain
from vggish_hf.training.sampling import hold_out

AnyPath: TypeAlias = str | os.PathLike[str]

#: A pair of a segments CSV and its audio files; or a folder or an archive, by its path.
AudioSetSource: TypeAlias = tuple[AnyPath, AnyPath] | AnyPath


class AudioSetDataModule(ClipDataModule):
    """Trains on AudioSet; a subclass defines sources and their clips.

    A source may have several splits, so both sources may be the same.

    Args:
        train_source: The training source.
        test_source: The test source, if any.
        train_split: The split of `train_source`.
        test_split: The split of `test_source`.
        validation_fraction: The held-out share of the training clips, drawn evenly over the
            classes; 0 for none.
        seed: Decides the held-out clips.
        batch_size: Clips in a batch; the default is 256 of embeddings or 32 of audio.
        num_workers: Processes of each loader; 0 for none, which is enough for embeddings.
        balanced_sampling: See `ClipDataModule`.
        cache_dir: Folder for prepared data, instead of the Hub's cache.

    Attributes:
        classes: The names of the 527 classes.
        task: `"multi_label"`.

    Raises:
        ValueError: `batch_size` or `num_workers` is out of range.
    """

    _BATCH_SIZE: int

    def __init__(
        self,
        train_source: AudioSetSource,
        test_source: AudioSetSource | None = None,
        *,
        train_split: str = "bal_train",
        test_split: str = "eval",
        validation_fraction: float = 0.0,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
        balanced_sampling: bool = False,
        cache_dir: AnyPath | None = None,
    ) -> None:
        super().__init__(
            self._collate,
            batch_size=self._BATCH_SIZE if batch_size is None else batch_size,
            num_workers=num_workers,
            balanced_sampling=balanced_sampling,
        )
        self.classes = [known.name for known in AudioSetLabels().classes]
        self.task = "multi_label"
        self.train_source = train_source
        self.test_source = test_source
        self.train_split = train_split
        self.test_split = test_split
        self.validation_fraction: float = to_plain(validation_fraction)
        self.seed: int = to_plain(seed)
        self.cache_dir = None if cache_dir is None else os.fspath(cache_dir)

    @staticmethod
    @abstractmethod
    def _collate(clips: Any) -> Any:
        """Make a batch of clips."""

    @abstractmethod
    def _open(self, source: AudioSetSource, split: str) -> datasets.Dataset:
        """Prepare a split if needed, and open it."""

    @abstractmethod
    def _clips(self, opened: datasets.Dataset) -> Dataset[Any]:
        """Make clips of an opened split."""

    def prepare_data(self) -> None:
        """Prepare data that are not in the cache of `datasets`."""
        self._open(self.train_source, self.train_split)
        if self.test_source is not None:
            self._open(self.test_source, self.test_split)

    def setup(self, stage: str) -> None:
        """Open the stage's data."""
        if stage in ("fit", "validate"):
            opened = self._open(self.train_source, self.train_split)
            self.train = self._clips(opened)
            self.train_labels = _labels(opened)
            if self.validation_fraction:
                self._hold_out()
        if stage == "test" and self.test_source is not None:
            self.test = self._clips(self._open(self.test_source, self.test_split))

    def _hold_out(self) -> None:
        stay, held_out = hold_out(self.train_labels, self.validation_fraction, self.seed)
        self.validation = Subset(self.train, held_out)
        self.train = Subset(self.train, stay)
        self.train_labels = [self.train_labels[i] for i in stay]

    def _open_exported(self, folder: AnyPath, config: str, split: str) -> datasets.Dataset:
        return datasets.load_dataset(
            os.fspath(folder), config, split=split, cache_dir=self.cache_dir
        )


class AudioSetEmbeddingsDataModule(AudioSetDataModule):
    """Trains on the released AudioSet embeddings; batches are `EmbeddingBatch`, uint8.

    A source is a folder or a tar archive of TFRecord files, as for `AudioSetEmbeddings`, or a
    folder that `export_embeddings` wrote. The arguments are those of `AudioSetDataModule`.

    Example:
        >>> data = AudioSetEmbeddingsDataModule("features.tar.gz", validation_fraction=0.1)
        >>> len(data.classes), data.task
        (527, 'multi_label')
        >>> trainer.fit(model, datamodule=data)  # doctest: +SKIP
    """

    _BATCH_SIZE = 256

    @staticmethod
    def _collate(clips: EmbeddingBatch) -> EmbeddingBatch:
        return identity_collate(clips)

    @cached_property
    def provenance(self) -> dict[str, Any] | None:  # type: ignore[override] # of its files
        """How the training clips were embedded, if the files say so."""
        return (
            None
            if isinstance(self.train_source, tuple)
            else _read_provenance(Path(self.train_source), self.train_split)
        )

    def _open(self, source: AudioSetSource, split: str) -> datasets.Dataset:
        if isinstance(source, tuple):
            raise ValueError(f"Expected a folder or an archive of embeddings, got {source!r}")
        if Path(source, EMBEDDINGS).is_dir():
            return self._open_exported(source, EMBEDDINGS, split)
        builder = AudioSetEmbeddings(source, cache_dir=self.cache_dir)
        builder.download_and_prepare()
        return builder.as_dataset(split=split)

    def _clips(self, opened: datasets.Dataset) -> Dataset[Any]:
        return EmbeddingBatches(opened)


class AudioSetClipsDataModule(AudioSetDataModule):
    """Trains on AudioSet's clips of audio; batches are `WaveformBatch`, each clip at its own rate.

    A source is a pair of a segments CSV and its audio files, as for `AudioSetClips`, or a folder
    that `export_clips` wrote. The other arguments are those of `AudioSetDataModule`.

    Args:
        train_source: What to learn from.
        test_source: What to test with, if anything.
        isolated: As for `AudioSetClipsDataset`.
        **options: See `AudioSetDataModule`.

    Example:
        >>> data = AudioSetClipsDataModule(
        ...     ("balanced_train_segments.csv", "audio/"), ("eval_segments.csv", "audio/")
        ... )
        >>> len(data.classes), data.task
        (527, 'multi_label')
        >>> trainer.fit(model, datamodule=data)  # doctest: +SKIP
    """

    _BATCH_SIZE = 32

    def __init__(
        self,
        train_source: AudioSetSource,
        test_source: AudioSetSource | None = None,
        *,
        isolated: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(train_source, test_source, **options)
        self.isolated = isolated

    @staticmethod
    def _collate(clips: Sequence[AudioClip]) -> WaveformBatch:
        return collate_waveforms(
            [
                WaveformClip(
                    id=clip["video_id"],
                    waveform=clip["waveform"],
                    sampling_rate=clip["sampling_rate"],
                    target=clip["target"],
                )
                for clip in clips
            ]
        )

    def _open(self, source: AudioSetSource, split: str) -> datasets.Dataset:
        if not isinstance(source, tuple):
            if not Path(source, CLIPS).is_dir():
                raise FileNotFoundError(
                    "Expected a folder that `export_clips` wrote, or a pair of a segments CSV and "
                    f"the audio files; no folder {str(Path(source, CLIPS))!r} found"
                )
            return self._open_exported(source, CLIPS, split)
        segments, audio = source
        builder = AudioSetClips(segments, audio, split=split, cache_dir=self.cache_dir)
        builder.download_and_prepare()
        return builder.as_dataset(split=split)

    def _clips(self, opened: datasets.Dataset) -> Dataset[Any]:
        return AudioSetClipsDataset(opened, sampling_rate=None, isolated=self.isolated)


def _labels(opened: datasets.Dataset) -> list[list[int]]:
    column = opened.select_columns("labels").with_format("arrow")[:]
    labels: list[list[int]] = column["labels"].to_pylist()
    return labels


def _read_provenance(source: Path, split: str) -> dict[str, Any] | None:
    """Read the provenance that `audioset embed` wrote next to TFRecords or into Parquet files."""
    file = source / split / "provenance.json"
    if file.is_file():
        text = file.read_bytes()
    else:
        shards = sorted(Path(source, EMBEDDINGS).glob(f"{split}-*.parquet"))
        metadata = (pq.read_schema(shards[0]).metadata if shards else None) or {}
        text = metadata.get(METADATA_KEY.encode(), b"{}")
    found = json.loads(text)
    return found if isinstance(found, dict) and "weights_sha256" in found else None
