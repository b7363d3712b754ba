"""Frechet Audio Distance of a generative model's output, during training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DistributedSampler

from vggish_hf._checks import check_sampling_rate
from vggish_hf.metrics import (
    EmbeddingStatistics,
    PresetName,
    SmallSampleWarning,
    frechet_distance,
)
from vggish_hf.metrics.audio_distance import FrechetAudioDistance
from vggish_hf.pipeline import VGGishPipeline

#: A batch (batch, time) or (batch, channels, time), or a list of clips of any lengths.
Waveforms: TypeAlias = Tensor | Sequence[Tensor]
#: Returns waveforms, given the module, its `validation_step`'s output and the batch.
FindWaveforms: TypeAlias = Callable[[pl.LightningModule, Any, Any], Waveforms]


class FADCallback(pl.Callback):  # type: ignore[misc] # untyped
    """Logs the distance of validation's generated clips from a fixed set, `val_fad`.

    `validation_step` returns a dict with the waveforms, or a function returns them. The clips of
    all processes count once: if a `DistributedSampler` gives a clip to two processes to even their
    numbers, the last waveform of one does not count. Memory is bounded for any number of clips.

    Args:
        real: The statistics of the real set, or their `.npz` file, see docs/fad.md.
        model: Embeds the clips: a pipeline, which moves to the training's device, or a model's id.
        sampling_rate: The waveforms' rate, Hz.
        waveforms: The key of the waveforms in the output of `validation_step`, (batch, time) or
            (batch, channels, time); or a function of the module, that output and the batch, which
            returns such a tensor or a list of clips.
        every_n_epochs: How often in training; `trainer.validate` always has a score.
        preset: The tool to imitate, see `PRESETS` and docs/fad.md.
        name: The score's name in the log.
        batch_size: Examples that the network takes at once.
        force: Compare with `real` even if it was embedded differently.

    Raises:
        ValueError: An argument is out of range, or `real` was embedded differently; in a
            validation, a waveform is not finite, or the waveforms are missing.
        FileNotFoundError: The model or file does not exist.

    Example:
        >>> fad = FADCallback("real.npz", "google", sampling_rate=44_100)  # doctest: +SKIP
        >>> trainer = pl.Trainer(callbacks=[fad])  # doctest: +SKIP
    """

    def __init__(
        self,
        real: EmbeddingStatistics | str | Path,
        model: VGGishPipeline | str | Path,
        *,
        sampling_rate: int,
        waveforms: str | FindWaveforms = "waveform",
        every_n_epochs: int = 1,
        preset: PresetName = "default",
        name: str = "val_fad",
        batch_size: int = 32,
        force: bool = False,
    ) -> None:
        check_sampling_rate(sampling_rate)
        if every_n_epochs < 1:
            raise ValueError(f"Expected `every_n_epochs` of at least 1, got {every_n_epochs}")
        self.metric = FrechetAudioDistance(
            model, preset=preset, real=real, batch_size=batch_size, force=force
        )
        self.sampling_rate = sampling_rate
        self.waveforms = waveforms
        self.every_n_epochs = every_n_epochs
        self.name = name
        self._is_due = False
        self._has_warned = False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start a score in the epochs that have one."""
        is_training = trainer.state.fn == "fit"
        is_turn = not is_training or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._is_due = is_turn and not trainer.sanity_checking
        if self._is_due:
            self.metric.to(pl_module.device)
            self.metric.reset()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the clips of a batch."""
        if not self._is_due:
            return
        clips = self._find_waveforms(pl_module, outputs, batch)
        if _ends_with_repetition(trainer, batch_idx, dataloader_idx):
            clips = clips[:-1]
        self.metric.update(clips, real=False, sampling_rate=self.sampling_rate)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the score of all processes' clips."""
        if not self._is_due:
            return
        with self.metric.sync_context():
            real, fake = self.metric.statistics(real=True), self.metric.statistics(real=False)
        if fake.count < 2:
            self._warn(
                f"{self.name} is not logged: expected at least 2 examples of generated audio in a "
                f"validation, got {fake.count}; generate more clips, or longer ones"
            )
            return
        for note in filter(None, (real.small_sample_note(), fake.small_sample_note())):
            self._warn(f"{self.name}: {note}")
        distance = frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)
        # It is equal in all processes, but Lightning warns without `sync_dist`.
        pl_module.log(self.name, distance, sync_dist=True)

    def _find_waveforms(self, pl_module: pl.LightningModule, outputs: Any, batch: Any) -> Waveforms:
        if not isinstance(self.waveforms, str):
            return self.waveforms(pl_module, outputs, batch)
        if not isinstance(outputs, Mapping) or not isinstance(
            outputs.get(self.waveforms), (Tensor, Sequence)
        ):
            got = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ValueError(
                f"Expected `validation_step` to return a dict with {self.waveforms!r}, the "
                f"generated waveforms, got {got}; return it, or pass a function as `waveforms`"
            )
        waveforms: Waveforms = outputs[self.waveforms]
        return waveforms

    def _warn(self, message: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            rank_zero_warn(message, category=SmallSampleWarning)


def _ends_with_repetition(trainer: pl.Trainer, batch_idx: int, dataloader_idx: int) -> bool:
    """Whether a batch is the last and ends with another process's clip."""
    loaders = trainer.val_dataloaders
    loader = loaders[dataloader_idx] if isinstance(loaders, list) else loaders
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or batch_idx + 1 < len(loader):
        return False
    last = sampler.rank + (sampler.num_samples - 1) * sampler.num_replicas
    return last >= len(sampler.dataset)  # type: ignore[arg-type] # the sampler has asked for it
