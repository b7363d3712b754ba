"""AudioSet in batches: its released embeddings, or its clips of audio."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

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
from vggish_hf.lightning.data_module import ClipDataModule
from vggish_hf.lightning.embedding_batches import EmbeddingBatches, as_it_is
from vggish_hf.training.batches import WaveformBatch, WaveformClip, collate_waveforms
from vggish_hf.training.sampling import hold_out

AnyPath: TypeAlias = str | os.PathLike[str]

#: A folder that `export_clips` wrote, or a segments CSV and the audio files that belong to it.
ClipsSource: TypeAlias = tuple[AnyPath, AnyPath] | AnyPath


class _AudioSetDataModule(ClipDataModule):
    """What both have in common.

    Args:
        open_train: Prepares what to learn from, unless that is done, and opens it.
        open_test: The same for what to test with.
        make_dataset: Makes clips of what was opened.
        validation_fraction: How much of what to learn from is held out.
        seed: Decides which clips that is.
        **loading: See `ClipDataModule`.
    """

    def __init__(
        self,
        open_train: Callable[[], datasets.Dataset],
        open_test: Callable[[], datasets.Dataset] | None,
        make_dataset: Callable[[datasets.Dataset], Dataset[Any]],
        *,
        validation_fraction: float,
        seed: int,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.classes = [known.name for known in AudioSetLabels().classes]
        self.task = "multi_label"
        self.validation_fraction = validation_fraction
        self.seed = seed
        self._open_train = open_train
        self._open_test = open_test
        self._make_dataset = make_dataset

    def prepare_data(self) -> None:
        """Prepare what `datasets` has not in its cache."""
        self._open_train()
        if self._open_test is not None:
            self._open_test()

    def setup(self, stage: str) -> None:
        """Open what the stage needs."""
        if stage in ("fit", "validate"):
            opened = self._open_train()
            self.train = self._make_dataset(opened)
            self.train_labels = _labels(opened)
            if self.validation_fraction:
                self._hold_out()
        if stage == "test" and self._open_test is not None:
            self.test = self._make_dataset(self._open_test())

    def _hold_out(self) -> None:
        stay, held_out = hold_out(self.train_labels, self.validation_fraction, self.seed)
        self.validation = Subset(self.train, held_out)
        self.train = Subset(self.train, stay)
        self.train_labels = [self.train_labels[i] for i in stay]


class AudioSetEmbeddingsDataModule(_AudioSetDataModule):
    """Trains on the released AudioSet embeddings; batches are `EmbeddingBatch`, uint8.

    A source is a folder or a tar archive of TFRecord files, as for `AudioSetEmbeddings`, or a
    folder that `export_embeddings` wrote. It may hold several splits, so that both sources may be
    one and the same.

    Args:
        train_source: What to learn from.
        test_source: What to test with, if anything.
        train_split: The split of `train_source`.
        test_split: The split of `test_source`.
        validation_fraction: How much of the clips to learn from is held out, drawn evenly over the
            classes; 0 for nothing.
        seed: Decides which clips that is.
        batch_size: Clips in a batch.
        num_workers: Processes of each loader; the balanced training set is read in less than a
            second without any.
        balanced_sampling: See `ClipDataModule`.
        cache_dir: Where prepared data are kept, in place of the Hub's own cache.

    Attributes:
        classes: The names of the 527 classes.
        task: `"multi_label"`.

    Raises:
        ValueError: `batch_size` or `num_workers` is out of its range.

    Example:
        >>> data = AudioSetEmbeddingsDataModule("features.tar.gz", validation_fraction=0.1)
        >>> len(data.classes), data.task
        (527, 'multi_label')
        >>> trainer.fit(model, datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        train_source: AnyPath,
        test_source: AnyPath | None = None,
        *,
        train_split: str = "bal_train",
        test_split: str = "eval",
        validation_fraction: float = 0.0,
        seed: int = 0,
        batch_size: int = 256,
        num_workers: int = 0,
        balanced_sampling: bool = False,
        cache_dir: AnyPath | None = None,
    ) -> None:
        super().__init__(
            partial(_open_embeddings, train_source, train_split, cache_dir),
            None
            if test_source is None
            else partial(_open_embeddings, test_source, test_split, cache_dir),
            EmbeddingBatches,
            validation_fraction=validation_fraction,
            seed=seed,
            collate=as_it_is,
            batch_size=batch_size,
            num_workers=num_workers,
            balanced_sampling=balanced_sampling,
        )


class AudioSetClipsDataModule(_AudioSetDataModule):
    """Trains on AudioSet's clips of audio; batches are `WaveformBatch`, each clip at its own rate.

    A source is a pair of a segments CSV and its audio files, as for `AudioSetClips`, or a folder
    that `export_clips` wrote.

    Args:
        train_source: What to learn from.
        test_source: What to test with, if anything.
        train_split: The split of `train_source`.
        test_split: The split of `test_source`.
        validation_fraction: As for `AudioSetEmbeddingsDataModule`.
        seed: Decides which clips are held out.
        batch_size: Clips in a batch.
        num_workers: Processes of each loader, which decode; 0 for none.
        balanced_sampling: See `ClipDataModule`.
        cache_dir: Where prepared data are kept, in place of the Hub's own cache.

    Attributes:
        classes: The names of the 527 classes.
        task: `"multi_label"`.

    Raises:
        ValueError: `batch_size` or `num_workers` is out of its range.

    Example:
        >>> data = AudioSetClipsDataModule(
        ...     ("balanced_train_segments.csv", "audio/"), ("eval_segments.csv", "audio/")
        ... )
        >>> len(data.classes), data.task
        (527, 'multi_label')
        >>> trainer.fit(model, datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        train_source: ClipsSource,
        test_source: ClipsSource | None = None,
        *,
        train_split: str = "bal_train",
        test_split: str = "eval",
        validation_fraction: float = 0.0,
        seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        balanced_sampling: bool = False,
        cache_dir: AnyPath | None = None,
    ) -> None:
        super().__init__(
            partial(_open_clips, train_source, train_split, cache_dir),
            None
            if test_source is None
            else partial(_open_clips, test_source, test_split, cache_dir),
            partial(AudioSetClipsDataset, sampling_rate=None),
            validation_fraction=validation_fraction,
            seed=seed,
            collate=_collate_clips,
            batch_size=batch_size,
            num_workers=num_workers,
            balanced_sampling=balanced_sampling,
        )


def _open_embeddings(source: AnyPath, split: str, cache_dir: AnyPath | None) -> datasets.Dataset:
    if Path(source, EMBEDDINGS).is_dir():
        return _open_exported(source, EMBEDDINGS, split, cache_dir)
    builder = AudioSetEmbeddings(source, cache_dir=cache_dir)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def _open_clips(source: ClipsSource, split: str, cache_dir: AnyPath | None) -> datasets.Dataset:
    if not isinstance(source, tuple):
        if not Path(source, CLIPS).is_dir():
            raise FileNotFoundError(
                "Expected a folder that `export_clips` wrote, or a pair of a segments CSV and the "
                f"audio files; there is no folder {str(Path(source, CLIPS))!r}"
            )
        return _open_exported(source, CLIPS, split, cache_dir)
    segments, audio = source
    builder = AudioSetClips(segments, audio, split=split, cache_dir=cache_dir)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def _open_exported(
    folder: AnyPath, config: str, split: str, cache_dir: AnyPath | None
) -> datasets.Dataset:
    cache = None if cache_dir is None else str(cache_dir)
    return datasets.load_dataset(os.fspath(folder), config, split=split, cache_dir=cache)


def _labels(opened: datasets.Dataset) -> list[list[int]]:
    column = opened.select_columns("labels").with_format("arrow")[:]
    labels: list[list[int]] = column["labels"].to_pylist()
    return labels


def _collate_clips(clips: Sequence[AudioClip]) -> WaveformBatch:
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
