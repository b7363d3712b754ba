"""How well clips are classified: scores over all that the processes of a job have seen.

Every score is a mean over classes; a class for which it is not defined, because no clip has it (or,
for AUC, every clip has it), is left out of the mean.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from vggish_hf._checks import check_choice
from vggish_hf.training.batches import Task

# Classes that are sorted at once: 64 of 20,371 clips take some 80 MB.
_CLASSES_AT_ONCE = 64


class RankingScores(NamedTuple):
    """How well the clips that have a class are told from those that have not."""

    average_precision: Tensor
    """(classes,), float64: the area under the precision-recall curve as a sum of steps, clips of
    one score being one step; NaN for a class without positives."""
    area_under_roc: Tensor
    """(classes,), float64: the probability that a positive has a higher score than a negative, ties
    counting half; NaN for a class without positives or without negatives."""


def ranking_scores(scores: Tensor, target: Tensor) -> RankingScores:
    """Average precision and area under the ROC curve of each class.

    Args:
        scores: (clips, classes), the higher the likelier.
        target: (clips, classes), bool.

    Example:
        >>> target = torch.tensor([[True], [False], [True]])
        >>> ranking_scores(torch.tensor([[0.9], [0.8], [0.7]]), target)
        RankingScores(average_precision=tensor([0.8333], dtype=torch.float64),
                      area_under_roc=tensor([0.5000], dtype=torch.float64))
    """
    if not len(scores):
        undefined = torch.full_like(scores[:1].sum(0), torch.nan, dtype=torch.float64)
        return RankingScores(undefined, undefined)
    parts = [torch.split(values.T, _CLASSES_AT_ONCE) for values in (scores, target)]
    return RankingScores(*map(torch.cat, zip(*map(_rank, *parts), strict=True)))


def _rank(scores: Tensor, target: Tensor) -> RankingScores:
    """Score a few classes: (classes, clips), both."""
    scores, order = scores.contiguous().sort(dim=1, descending=True)
    target = target.gather(1, order).long()
    # The first and the last place of each group of equal scores, for all of its places.
    place = torch.arange(scores.shape[1], device=scores.device)
    differs = scores[:, 1:] != scores[:, :-1]
    is_first = torch.nn.functional.pad(differs, (1, 0), value=True)
    is_last = torch.nn.functional.pad(differs, (0, 1), value=True)
    first = torch.where(is_first, place, 0).cummax(1).values
    last = torch.where(is_last, place, len(place)).flip(1).cummin(1).values.flip(1)

    found = target.cumsum(1)
    positives, negatives = target.sum(1), (1 - target).sum(1)
    found_with_ties = found.gather(1, last)
    found_above = found.gather(1, first) - target.gather(1, first)
    precision = found_with_ties.double() / (last + 1)
    # In whole numbers: for each negative, twice the positives above it and once those tied with it.
    pairs = ((found_above + found_with_ties) * (1 - target)).sum(1)
    return RankingScores(
        (precision * target).sum(1) / positives, pairs.double() / (2 * positives * negatives)
    )


def d_prime(auc: Tensor) -> Tensor:
    """Distance of two unit Gaussians that have this AUC: `sqrt(2)` times the inverse normal of it.

    Hershey et al., "CNN Architectures for Large-Scale Audio Classification", 2017.

    Example:
        >>> d_prime(torch.tensor([0.5, 0.9]))
        tensor([0.0000, 1.8124])
    """
    distance: Tensor = torch.special.ndtri(auc) * math.sqrt(2)
    return distance


def f1(predicted: Tensor, target: Tensor) -> Tensor:
    """Harmonic mean of precision and recall.

    Args:
        predicted: (clips, classes), bool.
        target: (clips, classes), bool.

    Returns:
        (classes,), float64; NaN for a class without positives.

    Example:
        >>> f1(torch.tensor([[True], [False], [True]]), torch.tensor([[True], [True], [True]]))
        tensor([0.8000], dtype=torch.float64)
    """
    positives = target.sum(0)
    found = (predicted & target).sum(0).double()
    return (2 * found / (predicted.sum(0) + positives)).where(positives > 0, torch.nan)


class ClassificationScores(Metric):  # type: ignore[misc]
    """The scores of a data set, from batches of logits, on any number of processes.

    They are of the clips that were handed in: where Lightning's sampler repeats a few, so that all
    processes get as many, those count twice. For figures to publish, test on one device.

    - `mAP`: mean average precision
    - `AUC`: mean area under the ROC curve
    - `d_prime`: of the mean AUC
    - `F1`: macro average; predicted are the class with the highest logit, or those above 0
    - `accuracy`: share of clips whose class has the highest logit; of `"single_label"` alone

    Clips are ranked by the logit of a class (multi-label) or its probability (single-label), of
    which the sure ones are not rounded to 1.

    Args:
        task: Whether a clip has one class or any number of them.
        num_classes: How many classes there are.

    Example:
        >>> scores = ClassificationScores("single_label", 2)
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
        >>> scores.update(logits, target=torch.eye(2)[[0, 1, 1]])
        >>> {name: round(value.item(), 3) for name, value in scores.compute().items()}
        {'mAP': 0.667, 'AUC': 0.5, 'd_prime': 0.0, 'F1': 0.667, 'accuracy': 0.667}
    """

    full_state_update = False

    def __init__(self, task: Task, num_classes: int) -> None:
        super().__init__()
        check_choice("task", task, Task)
        self.task = task
        self.num_classes = num_classes
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")
        self.logits: list[Tensor]
        self.target: list[Tensor]
        self.reset()

    def reset(self) -> None:
        """Forget all clips."""
        super().reset()
        # A process that gets no clip must have what the others send: columns of the same type.
        none = torch.empty(0, self.num_classes, device=self.device)
        self.update(none, none)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Take in a batch.

        Args:
            logits: (batch, classes).
            target: (batch, classes), 1 for each of a clip's classes, 0 elsewhere.

        Raises:
            ValueError: The shapes are others.
        """
        if logits.shape != target.shape or logits.shape[1:] != (self.num_classes,):
            raise ValueError(
                f"Expected logits and targets of shape (batch, {self.num_classes}), got "
                f"{tuple(logits.shape)} and {tuple(target.shape)}"
            )
        self.logits.append(logits.detach().float())
        self.target.append((target > 0.5).to(torch.uint8))  # a process group gathers no bool

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores of all clips so far: scalars, NaN where no class is left."""
        logits, target = dim_zero_cat(self.logits), dim_zero_cat(self.target).bool()
        if logits.is_mps:  # which has no float64
            logits, target = logits.cpu(), target.cpu()
        is_single = self.task == "single_label"
        ranked = logits.double().log_softmax(1) if is_single else logits
        ranking = ranking_scores(ranked, target)
        auc = ranking.area_under_roc.nanmean()
        best = logits.argmax(1, keepdim=True)
        chosen = torch.zeros_like(target).scatter(1, best, True)
        scores = {
            "mAP": ranking.average_precision.nanmean(),
            "AUC": auc,
            "d_prime": d_prime(auc),
            "F1": f1(chosen if is_single else logits > 0, target).nanmean(),
        }
        if is_single:
            scores["accuracy"] = target.gather(1, best).double().mean()
        return {name: value.float() for name, value in scores.items()}
