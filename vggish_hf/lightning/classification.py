"""The steps of training a classifier: losses, scores, optimizer."""

from abc import abstractmethod
from typing import Any, Literal, TypeAlias

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.lightning.classification_scores import ClassificationScores
from vggish_hf.lightning.classified import ClassifiedParts, EvaluatedBatch
from vggish_hf.training.augmentation import mixup
from vggish_hf.training.batches import EmbeddingBatch, Task, WaveformBatch
from vggish_hf.training.losses import classification_loss
from vggish_hf.training.masking import masked_mean
from vggish_hf.training.schedule import WarmupCosine

ClipBatch: TypeAlias = WaveformBatch | EmbeddingBatch
_Stage: TypeAlias = Literal["val", "test"]


class ClassificationModule(pl.LightningModule):  # type: ignore[misc] # untyped
    """Learns classes from batches of clips; a subclass defines how to embed a batch.

    It logs `train_loss`, `val_loss`, `test_loss` and the scores of `ClassificationScores`, as
    `val_mAP` and so on. With several data loaders each has its own loss and scores, with
    Lightning's suffix: `val_mAP/dataloader_idx_0`.

    A subclass sets `classes`, `task`, `extractor` and `head`, and saves the hyperparameters
    `learning_rate`, `weight_decay`, `warmup_steps`, `label_smoothing` and `mixup_alpha`.
    """

    classes: list[str]
    task: Task
    extractor: VGGishFeatureExtractor
    head: nn.Module

    def __init__(self) -> None:
        super().__init__()
        # In a dict, not among the modules, so that scores are neither compiled nor saved.
        self._scores: dict[str, list[ClassificationScores]] = {}

    @abstractmethod
    def _inputs(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Return the inputs for mixup and embedding, (batch, examples, ...), and their mask."""

    @abstractmethod
    def _embed(self, values: Tensor, mask: Tensor) -> Tensor:
        """Embed examples: (batch, examples, size), zeros where the mask is False."""

    def forward(self, batch: ClipBatch) -> Tensor:
        """Map a batch of clips to logits (batch, classes)."""
        values, mask = self._inputs(batch)
        logits: Tensor = self.head(self._embed(values, mask), mask)
        return logits

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch."""
        values, mask = self._inputs(batch)
        target = batch["target"]
        if self.hparams.mixup_alpha:
            values, mask, target = mixup(values, mask, target, self.hparams.mixup_alpha)
        logits = self.head(self._embed(values, mask), mask)
        loss = classification_loss(logits, target, self.task, self.hparams.label_smoothing)
        self._log("train_loss", loss, len(target))
        return loss

    def validation_step(
        self, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> EvaluatedBatch:
        """Add a batch to the scores of its data loader."""
        return self._evaluate("val", batch, dataloader_idx)

    def test_step(
        self, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> EvaluatedBatch:
        """Add a batch to the scores of its data loader."""
        return self._evaluate("test", batch, dataloader_idx)

    def _evaluate(self, stage: _Stage, batch: ClipBatch, loader: int) -> EvaluatedBatch:
        values, mask = self._inputs(batch)
        embeddings = self._embed(values, mask)
        logits, target = self.head(embeddings, mask), batch["target"]
        self._log(f"{stage}_loss", classification_loss(logits, target, self.task), len(target))
        self._update_scores(stage, loader, logits, target)
        return {"embedding": masked_mean(embeddings, mask), "logits": logits, "target": target}

    # Lightning's bookkeeping is not part of a compiled graph.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _log(self, name: str, loss: Tensor, batch_size: int) -> None:
        self.log(
            name,
            loss,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=batch_size,
            sync_dist=True,
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _update_scores(self, stage: _Stage, loader: int, logits: Tensor, target: Tensor) -> None:
        self._scores[stage][loader].update(logits, target)

    def setup(self, stage: str) -> None:
        """Check the precision.

        Raises:
            ValueError: The Trainer would cast the waveforms to sixteen bits.
        """
        precision = str(self.trainer.precision)
        if precision in (
            "bf16-true",
            "16-true",
            "transformer-engine",
            "transformer-engine-float16",
        ):
            raise ValueError(
                f"Expected a Trainer of the precision 'bf16-mixed', '16-mixed', '32-true' or "
                f"'64-true', got {precision!r}, in which quiet sounds are lost; 'bf16-mixed' is as "
                "fast"
            )

    def on_validation_epoch_start(self) -> None:
        """Begin the scores of each data loader."""
        self._start_scores("val", len(self.trainer.num_val_batches))

    def on_test_epoch_start(self) -> None:
        """Begin the scores of each data loader."""
        self._start_scores("test", len(self.trainer.num_test_batches))

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("test")

    def _start_scores(self, stage: _Stage, loaders: int) -> None:
        self._scores[stage] = [
            ClassificationScores(self.task, len(self.classes)).to(self.device)
            for _ in range(loaders)
        ]

    def _log_scores(self, stage: _Stage) -> None:
        loaders = self._scores.pop(stage)
        for number, scores in enumerate(loaders):
            suffix = f"/dataloader_idx_{number}" if len(loaders) > 1 else ""
            found = scores.compute()
            self.log_dict(
                {f"{stage}_{name}{suffix}": found[name] for name in found},
                sync_dist=True,
                add_dataloader_idx=False,
            )

    def predict_step(
        self, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> ClassifiedParts:
        """Embed and score a batch."""
        values, mask = self._inputs(batch)
        embeddings = self._embed(values, mask)
        times = self.extractor.example_times(mask.shape[1]).expand(mask.shape)
        scores = self._probabilities(self.head(embeddings, mask))
        return ClassifiedParts(
            id=batch["id"],
            num_examples=mask.sum(1).tolist(),
            embedding=embeddings[mask],
            start_seconds=times[mask.cpu()],
            scores=scores.where(mask.any(1, keepdim=True), torch.nan),
        )

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1) if self.task == "single_label" else logits.sigmoid()

    def configure_optimizers(self) -> dict[str, Any]:
        """Make AdamW for the trained parameters, and the schedule of its learning rate."""
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=self.hparams.learning_rate,
            weight_decay=self.hparams.weight_decay,
        )
        steps = self.trainer.estimated_stepping_batches
        schedule = WarmupCosine(optimizer, self.hparams.warmup_steps, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
