"""The learning rate over the steps of a training."""

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupCosine(LRScheduler):
    """Rises linearly to the learning rate, then falls to zero along half a cosine.

    Torch's schedules only know their first parameter groups, and fail once there is another. Here a
    later group follows the schedule if it has the key `initial_lr`, its full rate; without that key
    its rate is not changed, as for `lightning.pytorch.callbacks.BackboneFinetuning`.

    Args:
        optimizer: The optimizer.
        warmup_steps: Steps in which the rate rises; the first one has the rate / `warmup_steps`.
        total_steps: Steps in all; `math.inf` for a rate that never falls.

    Raises:
        ValueError: `warmup_steps` is negative.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = WarmupCosine(optimizer, warmup_steps=2, total_steps=6)
        >>> for _ in range(7):
        ...     print(f"{schedule.get_last_lr()[0]:.2f}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        0.50 1.00 1.00 0.85 0.50 0.15 0.00
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: float) -> None:
        if warmup_steps < 0:
            raise ValueError(f"Expected `warmup_steps` of at least 0, got {warmup_steps}")
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """The factor of the learning rate at a step; the first step is 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        falling = max(self.total_steps - self.warmup_steps, 1)
        return (1 + math.cos(math.pi * min((step - self.warmup_steps) / falling, 1))) / 2

    def get_lr(self) -> list[float | Tensor]:
        """Compute the rate of each group, at this step."""
        factor = self.factor(self.last_epoch)
        return [
            group["initial_lr"] * factor if "initial_lr" in group else group["lr"]
            for group in self.optimizer.param_groups
        ]

    def state_dict(self) -> dict[str, int]:
        """Return only the progress, since a resumed training may change the arguments."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}
