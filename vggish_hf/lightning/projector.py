"""Plots of a training: a map of the clips' embeddings, and the confusion of classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.lightning.classified import EvaluatedBatch
from vggish_hf.lightning.classifier import VGGishClassifier
from vggish_hf.lightning.clip_sample import ClipSample
from vggish_hf.plotting import draw_confusion, draw_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_OUTPUTS = EvaluatedBatch.__required_keys__


class EmbeddingProjector(pl.Callback):  # type: ignore[misc] # untyped
    """Plots the validation clips every few epochs, for TensorBoard or next to CSVLogger's files.

    - `embeddings`: each clip's mean embedding on the plane in which they vary most (principal
      components), coloured by the (first) class.
    - `confusion`: the predicted classes of the clips of each class (a row, labelled with their
      number); for several labels, the mean probability of each class.

    Args:
        every_n_epochs: How often.
        max_clips: Most points of a map, drawn at random; the confusion counts all clips.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> projector = EmbeddingProjector(every_n_epochs=5)
        >>> pl.Trainer(callbacks=[projector], logger=TensorBoardLogger("logs"))  # doctest: +SKIP
    """

    def __init__(self, every_n_epochs: int = 1, *, max_clips: int = 2000) -> None:
        if every_n_epochs < 1 or max_clips < 1:
            raise ValueError(
                "Expected `every_n_epochs` and `max_clips` of at least 1, got "
                f"{every_n_epochs} and {max_clips}"
            )
        self.every_n_epochs = every_n_epochs
        self.max_clips = max_clips
        self._sample: ClipSample | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the module, the loggers and matplotlib.

        Raises:
            TypeError: The module is not a classifier.
            ValueError: No logger takes plots.
            ImportError: matplotlib is not installed.
        """
        if stage != "fit" or trainer.fast_dev_run:
            return
        if not isinstance(pl_module, VGGishClassifier):
            raise TypeError(f"Expected a VGGishClassifier, got {type(pl_module).__name__}")
        if not _loggers(trainer):
            found = ", ".join(type(logger).__name__ for logger in trainer.loggers) or "none"
            raise ValueError(f"Expected a TensorBoardLogger or a CSVLogger, got {found}")
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError:
            raise ImportError(
                "EmbeddingProjector needs matplotlib: pip install 'vggish-hf[plot]'"
            ) from None

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: VGGishClassifier) -> None:
        """Start a plot in the epochs that have one."""
        self._sample = None
        is_training = trainer.state.fn == "fit" and not trainer.sanity_checking
        is_due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if is_training and is_due and not trainer.fast_dev_run:
            self._sample = ClipSample(
                pl_module.task,
                self.max_clips,
                embedding_size=pl_module.hparams.embedding_size,
                num_classes=len(pl_module.classes),
                seed=trainer.global_rank,
                device=pl_module.device,
            )

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VGGishClassifier,
        outputs: EvaluatedBatch,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the clips of a batch.

        Raises:
            ValueError: The module's `validation_step` returns another type.
        """
        if self._sample is not None:
            if not isinstance(outputs, Mapping) or not outputs.keys() >= _OUTPUTS:
                raise ValueError(
                    f"Expected `validation_step` to return a dict with {sorted(_OUTPUTS)}, as that "
                    f"of VGGishClassifier does, got {type(outputs).__name__}"
                )
            self._sample.add(outputs["embedding"], outputs["logits"], outputs["target"])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: VGGishClassifier) -> None:
        """Plot, in one process."""
        if self._sample is None:
            return
        sample, self._sample = self._sample, None
        if trainer.world_size > 1:
            sample.gather()
        if trainer.is_global_zero:
            title = f"epoch {trainer.current_epoch}"
            self._log(
                trainer,
                {
                    "embeddings": draw_map(
                        sample.embeddings, sample.labels, pl_module.classes, title
                    ),
                    "confusion": draw_confusion(
                        sample.confusion(), pl_module.classes, title, sample.support()
                    ),
                },
            )

    def _log(self, trainer: pl.Trainer, figures: "dict[str, Figure]") -> None:
        for logger in _loggers(trainer):
            for name, figure in figures.items():
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure(name, figure, trainer.global_step)
                else:
                    path = Path(logger.log_dir, f"{name}-{trainer.current_epoch:04d}.png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with unfinished_file(path) as unfinished:
                        figure.savefig(unfinished, format="png")


def _loggers(trainer: pl.Trainer) -> list[TensorBoardLogger | CSVLogger]:
    return [
        logger for logger in trainer.loggers if isinstance(logger, (TensorBoardLogger, CSVLogger))
    ]
