"""Pictures of a clip and its embeddings, and of clips' scores; needs the extra `plot`."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from vggish_hf._files import unfinished_file
from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.pipeline import VGGishOutput

# More names would overlap, and longer ones leave no room.
_MAX_NAMES = 25
_MAX_CHARACTERS = 40


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


def check_picture(path: str | Path) -> None:
    """Raise ValueError unless matplotlib writes pictures of this ending."""
    known = FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix.lower().removeprefix(".") not in known:
        raise ValueError(
            f"Expected a picture that ends in one of {', '.join(known)}, got {str(path)!r}"
        )


def draw_scores(path: str | Path, scores: Sequence[tuple[str, float]], title: str) -> None:
    """Draw how scores are distributed, and the largest by name; the file appears whole.

    Args:
        path: The picture, in a format that matplotlib knows by its ending.
        scores: Names and scores, in any order.
        title: What stands above.

    Raises:
        ValueError: There are no scores, or matplotlib does not know the ending.
    """
    path = Path(path)
    check_picture(path)
    if not scores:
        raise ValueError("Expected at least one clip with a score to draw, got none")
    largest = sorted(scores, key=lambda scored: scored[1])[-_MAX_NAMES:]
    figure = Figure(figsize=(11, 2.5 + 0.2 * len(largest)), layout="constrained")
    all_axes, largest_axes = figure.subplots(1, 2)
    all_axes.hist([score for _, score in scores], bins="sqrt")
    all_axes.set(xlabel="distance", ylabel="clips", title=f"{len(scores)} clips")
    largest_axes.barh(range(len(largest)), [score for _, score in largest])
    largest_axes.set_yticks(
        range(len(largest)), [_shortened(name) for name, _ in largest], parse_math=False
    )
    largest_axes.set(xlabel="distance", title="the farthest")
    figure.suptitle(title, parse_math=False)
    with unfinished_file(path) as unfinished, warnings.catch_warnings():
        # A name may have letters that the font has not: they are drawn as boxes.
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        figure.savefig(unfinished, format=path.suffix.lower().removeprefix("."))


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_CHARACTERS else f"...{name[3 - _MAX_CHARACTERS :]}"
