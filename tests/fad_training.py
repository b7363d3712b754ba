"""A model that generates, and its training."""

import lightning.pytorch as pl
import torch
from tones import make_trainer
from torch.utils.data import DataLoader

RATE = 8000


def make_clips(count):
    """Two seconds each, of noise that differs in loudness and colour."""
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(count, 2 * RATE, generator=generator)
    for number, clip in enumerate(clips):
        clip *= 0.3 / (1 + number % 7)
        clip[1:] += (number % 3) * clip[:-1].clone()
    return clips


class Generator(pl.LightningModule):
    """Gives back what it gets; Lightning needs something to train."""

    def __init__(self, shape=(-1, 2 * RATE), key="waveform"):
        super().__init__()
        self.shape, self.key = shape, key
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch):
        return (batch.mean() * self.weight).sum()

    def validation_step(self, batch):
        return {self.key: batch.reshape(self.shape)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Scores(pl.Callback):
    """Notes what each validation has logged."""

    def __init__(self):
        self.logged = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.logged.append(trainer.callback_metrics.pop("val_fad", None))


def fit(callback, clips, *, epochs=1, module=None, **options):
    """Train on one batch an epoch, validate with all clips, and return what was logged."""
    scores = Scores()
    trainer = make_trainer(
        max_epochs=epochs,
        limit_train_batches=1,
        log_every_n_steps=1,
        callbacks=[callback, scores],
        **options,
    )
    loader = DataLoader(clips, batch_size=4)
    trainer.fit(module or Generator(), loader, loader)
    return [None if score is None else float(score) for score in scores.logged]
