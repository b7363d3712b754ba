"""The quality of a classification: scores per class, from the scores of all clips."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Classes sorted at once: 64 of 20,371 clips take some 80 MB.
_CLASSES_AT_ONCE = 64


class RankingScores(NamedTuple):
    """How well each class's scores separate clips with and without it."""

    average_precision: Tensor
    """(classes,), float64: the area under the precision-recall curve as a sum of steps, one per
    distinct score; NaN for a class without positives."""
    area_under_roc: Tensor
    """(classes,), float64: the probability that a positive has a higher score than a negative; ties
    count half; NaN for a class without positives or without negatives."""


def ranking_scores(scores: Tensor, target: Tensor) -> RankingScores:
    """Average precision and area under the ROC curve of each class.

    Args:
        scores: (clips, classes), higher is likelier.
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
    # In whole numbers: for each negative, twice the positives above it plus the ties.
    pairs = ((found_above + found_with_ties) * (1 - target)).sum(1)
    return RankingScores(
        (precision * target).sum(1) / positives, pairs.double() / (2 * positives * negatives)
    )


def d_prime(auc: Tensor) -> Tensor:
    """Distance of two unit Gaussians with this AUC: `sqrt(2)` times its inverse normal.

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
