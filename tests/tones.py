"""A task to learn in seconds: tones of three pitches, in noise, at several rates and lengths."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from vggish_hf import VGGishConfig
from vggish_hf.training.batches import WaveformClip, collate_waveforms

CLASSES = ["low", "middle", "high"]
_PITCHES = (300.0, 1_000.0, 3_000.0)
_RATES = (8_000, 16_000, 22_050)

TINY = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16, embedding_size=16)


def make_tones(count: int, generator: torch.Generator, *, labels: int = 1) -> list[WaveformClip]:
    """Clips of one to two seconds with `labels` of the three tones."""
    clips = []
    for i in range(count):
        rate = _RATES[i % len(_RATES)]
        time = torch.arange(rate + int(rate * torch.rand((), generator=generator))) / rate
        waveform = 0.05 * torch.randn(len(time), generator=generator)
        target = torch.zeros(len(CLASSES))
        target[torch.randperm(len(CLASSES), generator=generator)[:labels]] = 1
        for k in target.nonzero()[:, 0].tolist():
            pitch = _PITCHES[k] * (0.8 + 0.4 * torch.rand((), generator=generator))
            waveform += 0.2 * torch.sin(2 * torch.pi * pitch * time)
        clips.append(
            WaveformClip(id=f"clip-{i}", waveform=waveform, sampling_rate=rate, target=target)
        )
    return clips


def load(clips: list[Any], batch_size: int = 8, **options: Any) -> DataLoader[Any]:
    """A loader of batches of clips, in their order unless `options` say otherwise."""
    return DataLoader(clips, batch_size, collate_fn=collate_waveforms, **options)


def make_trainer(**options: Any) -> pl.Trainer:
    """A Trainer on the CPU that prints and writes nothing."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**quiet, **options})
