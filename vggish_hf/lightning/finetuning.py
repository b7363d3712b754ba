"""Train the head first, then the network from the top down, block by block."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from torch.optim import Optimizer

from vggish_hf.modeling import VGGishModel
from vggish_hf.training.plain import to_plain

#: The layers of the network in blocks, from the top down.
BLOCKS = (
    ("fc2", "fc1_2", "fc1_1"),
    ("conv4_2", "conv4_1"),
    ("conv3_2", "conv3_1"),
    ("conv2",),
    ("conv1",),
)


class VGGishFinetuning(BaseFinetuning):  # type: ignore[misc] # untyped
    """Freezes the network of a classifier, and unfreezes it from the top down.

    The blocks are the linear layers, then the groups of convolutions: conv4, conv3, conv2, conv1.
    Each joins the optimizer as its own parameter group, which follows the classifier's schedule.

    Args:
        first_epoch: The epoch, from 0, in which the linear layers start to learn.
        epochs_per_block: Epochs between blocks; 0 for all at once.
        num_blocks: The number of blocks that learn; 0 keeps the whole network frozen.
        learning_rate_factor: The network's learning rate as a multiple of the head's.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> finetuning = VGGishFinetuning(first_epoch=3, epochs_per_block=2, num_blocks=3)
        >>> [finetuning.num_blocks_at(epoch) for epoch in range(9)]
        [0, 0, 0, 1, 1, 2, 2, 3, 3]
        >>> pl.Trainer(callbacks=[finetuning]).fit(classifier, data)  # doctest: +SKIP
    """

    def __init__(
        self,
        first_epoch: int = 1,
        *,
        epochs_per_block: int = 1,
        num_blocks: int = len(BLOCKS),
        learning_rate_factor: float = 0.1,
    ) -> None:
        super().__init__()
        if first_epoch < 0 or epochs_per_block < 0:
            raise ValueError(
                "Expected `first_epoch` and `epochs_per_block` of at least 0, got "
                f"{first_epoch} and {epochs_per_block}"
            )
        if not 0 <= num_blocks <= len(BLOCKS):
            raise ValueError(f"Expected `num_blocks` from 0 to {len(BLOCKS)}, got {num_blocks}")
        if not learning_rate_factor > 0:
            raise ValueError(
                f"Expected `learning_rate_factor` to be positive, got {learning_rate_factor}"
            )
        # Plain numbers, because checkpoints store values derived from them.
        self.first_epoch: int = to_plain(first_epoch)
        self.epochs_per_block: int = to_plain(epochs_per_block)
        self.num_blocks: int = to_plain(num_blocks)
        self.learning_rate_factor: float = to_plain(learning_rate_factor)

    def num_blocks_at(self, epoch: int) -> int:
        """The number of blocks that learn in an epoch."""
        if epoch < self.first_epoch:
            return 0
        if not self.epochs_per_block:
            return self.num_blocks
        return min(1 + (epoch - self.first_epoch) // self.epochs_per_block, self.num_blocks)

    def freeze_before_training(self, pl_module: pl.LightningModule) -> None:
        """Freeze the network.

        Raises:
            ValueError: The module has no network.
        """
        backbone = getattr(pl_module, "backbone", None)
        if not isinstance(backbone, VGGishModel):
            raise ValueError(
                "Expected a module with a VGGishModel as its `backbone`, got "
                f"{type(backbone).__name__}; VGGishClassifier has one for `pretrained` or `config`"
            )
        backbone.requires_grad_(False)
        self._internal_optimizer_metadata.clear()  # of an earlier training

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Unfreeze the blocks that joined the optimizer before an interruption."""
        super().on_fit_start(trainer, pl_module)  # restores only the parameter groups
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.requires_grad_(True)

    def finetune_function(
        self, pl_module: pl.LightningModule, epoch: int, optimizer: Optimizer
    ) -> None:
        """Add the blocks of this epoch."""
        head = optimizer.param_groups[0]
        for layers in BLOCKS[: self.num_blocks_at(epoch)]:
            parameters = [
                parameter
                for layer in layers
                for parameter in getattr(pl_module.backbone, layer).parameters()
            ]
            # A block is frozen or learns as a whole.
            if parameters[0].requires_grad:
                continue
            rates: dict[str, Any] = {
                name: head[name] * self.learning_rate_factor
                for name in ("lr", "initial_lr")
                if name in head
            }
            optimizer.add_param_group({"params": parameters, **rates})
            for parameter in parameters:
                parameter.requires_grad_(True)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Average the gradients of the network over the processes.

        DistributedDataParallel only averages those of the parameters that learn when training
        begins, not of later ones.
        """
        if trainer.world_size > 1:
            for parameter in pl_module.backbone.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= trainer.world_size
