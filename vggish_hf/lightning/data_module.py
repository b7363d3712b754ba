"""What the data modules share: from data sets to loaders."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset

from vggish_hf.training.batches import Task
from vggish_hf.training.sampling import BalancedSampler


class ClipDataModule(pl.LightningDataModule):  # type: ignore[misc] # untyped
    """Loaders of labelled clips; a subclass sets in `setup` what they load.

    Args:
        collate: Makes a batch of clips.
        batch_size: Clips in a batch.
        num_workers: Processes of each loader, which live as long as the loader; 0 for none.
        balanced_sampling: Draw the clips for training with replacement and each class equally
            often (see `BalancedSampler`) in place of each clip once.

    Attributes:
        classes: The names of the classes, in the order of the targets.
        task: Whether a clip has one class or any number of them.
        train: The clips to learn from.
        train_labels: The classes of each of them, as indices.
        validation: The clips that are held out, None without any.
        test: The clips to test with, None without any.

    Raises:
        ValueError: A number is out of its range.
    """

    classes: list[str]
    task: Task
    train: Dataset[Any]
    train_labels: Sequence[Sequence[int]]
    validation: Dataset[Any] | None = None
    test: Dataset[Any] | None = None

    def __init__(
        self,
        collate: Callable[[Any], Any],
        *,
        batch_size: int,
        num_workers: int,
        balanced_sampling: bool,
    ) -> None:
        super().__init__()
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
        """Load the clips to learn from, in another order each time."""
        if self.balanced_sampling:
            return self._load(self.train, sampler=BalancedSampler(self.train_labels))
        return self._load(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Load the clips that are held out; without any, no loader, of which Lightning warns."""
        return [] if self.validation is None else self._load(self.validation)

    def test_dataloader(self) -> DataLoader[Any]:
        """Load the clips to test with.

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
