"""Labelled audio files of any rate and format, in batches."""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from vggish_hf.audio import WorkerDecoders, open_excerpt
from vggish_hf.lightning.data_module import ClipDataModule
from vggish_hf.training.batches import WaveformClip, collate_waveforms
from vggish_hf.training.crops import load_random_crop, load_start
from vggish_hf.training.labelled_files import (
    LabelledFile,
    TableLayout,
    read_folder,
    read_table,
)
from vggish_hf.training.sampling import hold_out


class AudioFolderDataModule(ClipDataModule):
    r"""Trains on a folder with one sub-folder per class, or on a table of files.

    Batches are `WaveformBatch`: files are decoded and cut here, each at its own rate, and the
    model's device does the rest. Only the batches that are being prepared are in memory.

    Args:
        source: The folder; or a table, CSV or Parquet, with the columns `path` (relative to the
            table's own folder), `label` and optionally `fold`. A label may have several classes,
            separated by `;` or as a list; then the task is `"multi_label"`.
        path_column: The name of a table's column of paths: for ESC-50 `filename`, for UrbanSound8K
            `slice_file_name`.
        label_column: The name of its column of classes: `category`, and `class`.
        fold_column: The name of its column of folds.
        audio_folder: The folder of a table's paths, if it is not the table's own. It
            may name columns: `ESC-50/audio`, and `UrbanSound8K/audio/fold{fold}`.
        clip_seconds: Train on random crops of this length, a new one each time.
            Default: as much as in evaluation.
        max_seconds: How much of a file is used in validation and test, from its start; it bounds
            the memory of a batch.
        fold_pattern: A regular expression with one group, searched for in each file's name: the
            group is the file's fold, as `r"^(\d)-"` for ESC-50.
        validation_folds: The folds that are held out for validation.
        test_folds: The folds to test with.
        validation_fraction: Without `validation_folds`: the fraction of the clips outside the
            test folds to hold out, drawn evenly over the classes; 0 for nothing. One clip of
            each class always stays for training.
        seed: Decides which files are held out.
        batch_size: Clips in a batch.
        num_workers: Processes of each loader, which decode; 0 for none.
        balanced_sampling: See `ClipDataModule`.
        isolated: Whether to decode files in separate processes, for untrusted audio: a file that
            breaks a decoder raises an error with its name, and no worker dies.

    Attributes:
        classes: The classes, sorted.
        task: `"multi_label"` where files may have several classes.

    Raises:
        FileNotFoundError: There is no such folder or table, or a file of the table is missing.
        ValueError: The source has fewer than two classes or another layout, a fold is empty, or an
            argument is out of its range.

    Example:
        >>> import soundfile, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("dog", "rain"):
        ...         Path(folder, name).mkdir()
        ...         soundfile.write(f"{folder}/{name}/1-a.wav", [0.0] * 800, 8_000)
        ...         soundfile.write(f"{folder}/{name}/2-b.wav", [0.0] * 800, 8_000)
        ...     data = AudioFolderDataModule(folder, fold_pattern=r"^(\d)-", test_folds=[2])
        >>> data.classes, data.task
        (['dog', 'rain'], 'single_label')
        >>> trainer.fit(model, datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        path_column: str = "path",
        label_column: str = "label",
        fold_column: str = "fold",
        audio_folder: str | os.PathLike[str] | None = None,
        clip_seconds: float | None = None,
        max_seconds: float = 30.0,
        fold_pattern: str | None = None,
        validation_folds: Collection[str | int] = (),
        test_folds: Collection[str | int] = (),
        validation_fraction: float = 0.0,
        seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        balanced_sampling: bool = False,
        isolated: bool = False,
    ) -> None:
        super().__init__(
            collate_waveforms,
            batch_size=batch_size,
            num_workers=num_workers,
            balanced_sampling=balanced_sampling,
        )
        for name, seconds in (("clip_seconds", clip_seconds), ("max_seconds", max_seconds)):
            if seconds is not None and not seconds > 0:
                raise ValueError(f"Expected `{name}` to be positive, got {seconds}")
        self.clip_seconds = clip_seconds
        self.max_seconds = max_seconds
        self.isolated = isolated
        folder = None if audio_folder is None else os.fspath(audio_folder)
        layout = TableLayout(path_column, label_column, fold_column, folder)
        files, is_multi_label = _read(Path(source), fold_pattern, layout)
        self.task = "multi_label" if is_multi_label else "single_label"
        self.classes = sorted({label for file in files for label in file.labels})
        if len(self.classes) < 2:
            raise ValueError(
                f"Expected at least two classes in {str(source)!r}, got {self.classes}"
            )
        validation = [str(fold) for fold in validation_folds]
        test = [str(fold) for fold in test_folds]
        _check_folds(files, [*validation, *test])
        self._test_files = [file for file in files if file.fold in test]
        self._validation_files = [file for file in files if file.fold in validation]
        self._train_files = [file for file in files if file.fold not in (*validation, *test)]
        if not self._train_files:
            raise ValueError(
                f"Expected folds to train with, all are held out: {validation} and {test}"
            )
        if validation_fraction and not validation:
            rest = self._train_files
            stay, held_out = hold_out(self._labels(rest), validation_fraction, seed)
            self._train_files = [rest[i] for i in stay]
            self._validation_files = [rest[i] for i in held_out]

    def setup(self, stage: str) -> None:
        """Assign the data sets."""
        self.train = self._dataset(self._train_files, self.clip_seconds)
        self.train_labels = self._labels(self._train_files)
        if self._validation_files:
            self.validation = self._dataset(self._validation_files)
        if self._test_files:
            self.test = self._dataset(self._test_files)

    def _dataset(
        self, files: Sequence[LabelledFile], clip_seconds: float | None = None
    ) -> "_AudioFiles":
        return _AudioFiles(
            files,
            self._labels(files),
            len(self.classes),
            clip_seconds,
            self.max_seconds,
            isolated=self.isolated,
        )

    def _labels(self, files: Iterable[LabelledFile]) -> list[list[int]]:
        index = {name: i for i, name in enumerate(self.classes)}
        return [[index[label] for label in file.labels] for file in files]


class _AudioFiles(Dataset[WaveformClip]):
    """Files as clips: random crops of `clip_seconds`, or their first `max_seconds`."""

    def __init__(
        self,
        files: Sequence[LabelledFile],
        labels: Sequence[Sequence[int]],
        num_classes: int,
        clip_seconds: float | None,
        max_seconds: float,
        *,
        isolated: bool,
    ) -> None:
        self._decoders = WorkerDecoders() if isolated else None
        self._files = files
        self._labels = labels
        self._num_classes = num_classes
        self._clip_seconds = clip_seconds
        self._max_seconds = max_seconds

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> WaveformClip:
        file = self._files[index]
        open_part = open_excerpt if self._decoders is None else self._decoders.here().open_excerpt
        if self._clip_seconds is None:
            waveform, rate = load_start(file.path, self._max_seconds, open_part)
        else:
            waveform, rate = load_random_crop(
                file.path, self._clip_seconds, self._max_seconds, open_part
            )
        target = torch.zeros(self._num_classes)
        target[self._labels[index]] = 1
        return WaveformClip(id=file.id, waveform=waveform, sampling_rate=rate, target=target)


def _read(
    source: Path, fold_pattern: str | None, layout: TableLayout
) -> tuple[list[LabelledFile], bool]:
    if source.is_dir():
        return read_folder(source, fold_pattern), False
    if not source.exists():
        raise FileNotFoundError(f"Expected a folder or a table, {str(source)!r} does not exist")
    if source.suffix not in (".csv", ".parquet"):
        raise ValueError(f"Expected a folder, or a table .csv or .parquet, got {str(source)!r}")
    return read_table(source, fold_pattern, layout)


def _check_folds(files: Iterable[LabelledFile], held_out: Sequence[str]) -> None:
    folds = {file.fold for file in files} - {None}
    unknown = sorted(set(held_out) - folds)
    if unknown:
        known = sorted(filter(None, folds))
        raise ValueError(
            f"Expected folds that have clips, got {unknown}; "
            + (f"there are {known}" if known else "no clip has a fold, see `fold_pattern`")
        )
    if len(set(held_out)) < len(held_out):
        raise ValueError(f"Expected each fold to be held out once, got {list(held_out)}")
