"""The scores of a data set, over the clips of all processes of a job.

Every score is a mean over classes, without those that have no defined score (no clip has the class
or, for AUC, every clip has it).
"""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from vggish_hf._checks import check_choice
from vggish_hf.training.batches import Task
from vggish_hf.training.scores import d_prime, f1, ranking_scores


class ClassificationScores(Metric):  # type: ignore[misc]
    """The scores of a data set, from batches of logits, on any number of processes.

    They count every clip passed in: clips that Lightning's sampler repeats, so that all processes
    get the same number, count twice. For published figures, test on one device.

    - `mAP`: mean average precision
    - `AUC`: mean area under the ROC curve
    - `d_prime`: of the mean AUC
    - `F1`: macro average; the prediction is the class of the highest logit, or those above 0
    - `accuracy`: share of clips whose class has the highest logit; only for `"single_label"`

    Clips are ranked by the logit of a class (multi-label) or its probability (single-label),
    without rounding sure ones to 1.

    Args:
        task: Whether a clip has one class or any number of them.
        num_classes: The number of classes.

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
        # A process without clips must have columns of the others' type.
        none = torch.empty(0, self.num_classes, device=self.device)
        self.update(none, none)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (batch, classes).
            target: (batch, classes), 1 for each of a clip's classes, 0 elsewhere.

        Raises:
            ValueError: The shapes are wrong.
        """
        if logits.shape != target.shape or logits.shape[1:] != (self.num_classes,):
            raise ValueError(
                f"Expected logits and targets of shape (batch, {self.num_classes}), got "
                f"{tuple(logits.shape)} and {tuple(target.shape)}"
            )
        self.logits.append(logits.detach().float())
        self.target.append((target > 0.5).to(torch.uint8))  # process groups cannot gather bool

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores of all clips so far: scalars, NaN if no class is left."""
        logits, target = dim_zero_cat(self.logits), dim_zero_cat(self.target).bool()
        if logits.is_mps:  # lacks float64
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
