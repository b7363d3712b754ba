"""The base of the data modules: from data sets to loaders."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from vggish_hf.training.batches import Task
from vggish_hf.training.plain import to_plain
from vggish_hf.training.sampling import BalancedSampler

Batch = TypeVar("Batch")

_NAMED_CLASSES = 10


class ClipDataModule(pl.LightningDataModule):  # type: ignore[misc] # untyped
    """Loaders of labelled clips; a subclass sets their data in `setup`.

    Args:
        collate: Makes a batch of clips.
        batch_size: Clips in a batch.
        num_workers: Processes of each loader, kept as long as the loader; 0 for none.
        balanced_sampling: Draw the clips for training with replacement and each class equally often
            (see `BalancedSampler`), instead of each clip once.

    Attributes:
        classes: The names of the classes, in the order of the targets.
        task: Whether a clip has one class or any number of them.
        train: The training clips.
        train_labels: The classes of each of them, as indices; needed for balanced sampling.
        validation: The held-out clips, or None.
        test: The test clips, or None.
        provenance: How the embeddings were made, if the clips are embeddings and it is known.

    Raises:
        ValueError: A number is out of range.
    """

    classes: list[str]
    task: Task
    train: Dataset[Any]
    train_labels: Sequence[Sequence[int]] = ()
    validation: Dataset[Any] | None = None
    test: Dataset[Any] | None = None
    provenance: Mapping[str, Any] | None = None

    def __init__(
        self,
        collate: Callable[[Any], Any],
        *,
        batch_size: int,
        num_workers: int,
        balanced_sampling: bool,
    ) -> None:
        super().__init__()
        batch_size, num_workers = to_plain(batch_size), to_plain(num_workers)
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                "Expected `batch_size` of at least 1 and `num_workers` of at least 0, got "
                f"{batch_size} and {num_workers}"
            )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.balanced_sampling = balanced_sampling
        self._collate = collate

    def train_dataloader(self) -> DataLoader[Any]:
        """Load the training clips, in another order each time.

        Warns:
            UserWarning: Classes have no training clip; the message names the first ones.
        """
        learnt = {label for labels in self.train_labels for label in labels}
        unknown = [name for i, name in enumerate(self.classes) if i not in learnt]
        if unknown and self.train_labels:
            names = ", ".join(map(repr, unknown[:_NAMED_CLASSES]))
            more = f" and {len(unknown) - _NAMED_CLASSES} more" if unknown[_NAMED_CLASSES:] else ""
            rank_zero_warn(
                f"{len(unknown)} of {len(self.classes)} classes have no clip to learn from: "
                f"{names}{more}"
            )
        if self.balanced_sampling:
            return self._load(self.train, sampler=BalancedSampler(self.train_labels))
        return self._load(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Load the held-out clips; without any, return no loader, and Lightning warns."""
        return [] if self.validation is None else self._load(self.validation)

    def test_dataloader(self) -> DataLoader[Any]:
        """Load the test clips.

        Raises:
            ValueError: There are none.
        """
        if self.test is None:
            raise ValueError(f"Expected clips to test with, this {type(self).__name__} has none")
        return self._load(self.test)

    def _load(self, dataset: Dataset[Any], **order: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            self.batch_size,
            collate_fn=self._collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **order,
        )


def identity_collate(batch: Batch) -> Batch:
    """Return a batch unchanged; a `DataLoader` without it would divide or convert it."""
    return batch
