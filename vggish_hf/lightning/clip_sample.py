"""The data for plots of a data set: some of its clips, and sums over all of them."""

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from vggish_hf.training.batches import Task


class ClipSample:
    """A random sample of clips from any number of batches, and the confusion of classes.

    The arguments bound the memory. It has its own random generator, so that training gives the same
    results with and without it.

    Args:
        task: Whether a clip has one class or any number of them.
        max_clips: Most clips to keep.
        embedding_size: Width of an embedding.
        num_classes: The number of classes.
        seed: Decides the clips to keep; a different one per process.
        device: The batches' device.

    Attributes:
        embeddings: (clips, embedding_size), of the kept clips.
        labels: (clips,), int64, the (first) class of each; -1 for none.

    Example:
        >>> sample = ClipSample("single_label", 2, embedding_size=3, num_classes=2)
        >>> sample.add(torch.randn(4, 3), logits=torch.eye(2)[[0, 1, 1, 1]],
        ...     target=torch.eye(2)[[0, 0, 1, 1]])
        >>> sample.embeddings.shape, sample.confusion()
        (torch.Size([2, 3]), tensor([[0.5000, 0.5000],
                [0.0000, 1.0000]]))
    """

    def __init__(
        self,
        task: Task,
        max_clips: int,
        *,
        embedding_size: int,
        num_classes: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.task = task
        self.max_clips = max_clips
        self._generator = torch.Generator().manual_seed(seed)
        self._draws = torch.empty(0, device=device)
        self.embeddings = torch.empty(0, embedding_size, device=device)
        self.labels = torch.empty(0, dtype=torch.int64, device=device)
        self._predicted = torch.zeros(num_classes, num_classes, device=device)
        self._support = torch.zeros(num_classes, device=device)

    def add(self, embeddings: Tensor, logits: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            embeddings: (batch, embedding_size).
            logits: (batch, classes).
            target: (batch, classes), 1 for each of a clip's classes, 0 elsewhere.
        """
        target = target.float()
        if self.task == "single_label":
            predicted = torch.zeros_like(target).scatter(1, logits.argmax(1, keepdim=True), 1.0)
        else:
            predicted = logits.float().sigmoid()
        self._predicted += target.mT @ predicted
        self._support += target.sum(0)
        labels = target.argmax(1).where(target.any(1), -1)
        draws = torch.rand(len(target), generator=self._generator).to(self._draws.device)
        self._keep(
            torch.cat((self._draws, draws)),
            torch.cat((self.embeddings, embeddings.float())),
            torch.cat((self.labels, labels)),
        )

    def _keep(self, draws: Tensor, embeddings: Tensor, labels: Tensor) -> None:
        # The clips with the highest draws are always a fair sample of all clips so far.
        kept = draws.argsort(descending=True)[: self.max_clips]
        self._draws, self.embeddings, self.labels = draws[kept], embeddings[kept], labels[kept]

    def gather(self) -> None:
        """Combine the samples of all processes; every process must call this."""
        self._keep(
            torch.cat(gather_all_tensors(self._draws)),
            torch.cat(gather_all_tensors(self.embeddings)),
            torch.cat(gather_all_tensors(self.labels)),
        )
        torch.distributed.all_reduce(self._predicted)
        torch.distributed.all_reduce(self._support)

    def support(self) -> list[int]:
        """The number of clips of each class."""
        return [round(count) for count in self._support.tolist()]

    def confusion(self) -> Tensor:
        """The predictions for the clips of each class.

        Returns:
            (classes, classes): the share of the row's clips that are predicted as the column, or
            (multi-label) the column's mean probability. NaN in the row of a class without clips.
        """
        return self._predicted / self._support[:, None]
