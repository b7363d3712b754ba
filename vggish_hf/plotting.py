"""A picture of a clip and its embeddings; needs the extra `plot`."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.pipeline import VGGishOutput


def draw_clip(
    path: str | Path,
    waveform: Tensor,
    sampling_rate: int,
    examples: Tensor,
    output: VGGishOutput,
    config: VGGishFeatureConfig,
) -> None:
    """Draw the waveform, the log-mel examples with their borders and the embeddings, over time.

    Args:
        path: The picture, in a format that matplotlib knows by its ending.
        waveform: (time,).
        sampling_rate: The waveform's rate, Hz.
        examples: (examples, frames, bands), as the extractor made them.
        output: The clip's embeddings.
        config: The extractor's config.
    """
    starts = output.start_seconds.tolist()
    end = starts[-1] + config.example_seconds
    figure = Figure(figsize=(10, 7), layout="constrained")
    wave_axes, mel_axes, embedding_axes = figure.subplots(3, sharex=True)
    seconds = torch.arange(len(waveform)) / sampling_rate
    wave_axes.plot(seconds.numpy(), waveform.numpy(), linewidth=0.4)
    wave_axes.set(ylabel="amplitude", title="waveform", xlim=(0, end))
    for start, example, embedding in zip(starts, examples, output.embeddings, strict=True):
        stop = start + config.example_seconds
        mel_image = mel_axes.imshow(
            example.mT.numpy(),
            extent=(start, stop, 0, config.num_mel_bins),
            origin="lower",
            aspect="auto",
            vmin=float(examples.min()),
            vmax=float(examples.max()),
        )
        mel_axes.axvline(start, color="white", linewidth=0.8)
        embedding_image = embedding_axes.imshow(
            embedding[:, None].numpy(),
            extent=(start, stop, 0, len(embedding)),
            origin="lower",
            aspect="auto",
            cmap="RdBu",
            vmin=-float(output.embeddings.abs().max()),
            vmax=float(output.embeddings.abs().max()),
        )
    mel_axes.set(ylabel="mel band", title="log-mel examples", ylim=(0, config.num_mel_bins))
    embedding_axes.set(ylabel="dimension", title="embeddings", xlabel="seconds", xlim=(0, end))
    figure.colorbar(mel_image, ax=mel_axes)
    figure.colorbar(embedding_image, ax=embedding_axes)
    figure.savefig(path)
