"""The loss of a classifier, also for fractional targets."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vggish_hf.training.batches import Task


def classification_loss(
    logits: Tensor, target: Tensor, task: Task, label_smoothing: float = 0.0
) -> Tensor:
    """Cross entropy of a single label, or mean binary cross entropy of many.

    Args:
        logits: (batch, classes).
        target: (batch, classes), of the same type; fractional after mixup.
        task: Whether a clip has one class or any number of them.
        label_smoothing: The share of each target to replace by a neutral one: equal for all
            classes, or a half for each of many labels.

    Returns:
        A scalar, the mean over the batch.

    Example:
        >>> classification_loss(torch.zeros(1, 4), torch.eye(4)[:1], "single_label").exp()
        tensor(4.)
    """
    if task == "single_label":
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    target = torch.lerp(target, torch.full_like(target, 0.5), label_smoothing)
    return F.binary_cross_entropy_with_logits(logits, target)
