"""Pictures of clips, embeddings, classes and scores.

matplotlib, of the extra `plot`, is imported on use.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.configuration import VGGishFeatureConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vggish_hf.pipeline import VGGishOutput

# As many colours as people can distinguish; more names would overlap.
_MAX_LEGEND = 20
_MAX_CLASS_NAMES = 40
_MAX_CLASS_NUMBERS = 12
# More names would overlap, and longer ones leave no room.
_MAX_NAMES = 25
_MAX_CHARACTERS = 40


def _make_figure(width: float, height: float) -> "Figure":
    """Make an empty figure without pyplot, which keeps every figure and may need a screen."""
    _check_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise ImportError("Pictures need matplotlib: pip install 'vggish-hf[plot]'") from None


def _save(figure: "Figure", path: Path) -> None:
    """Write a picture, which appears only when it is complete."""
    with unfinished_file(path) as unfinished, warnings.catch_warnings():
        # A name may have letters that the font lacks: they become boxes.
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        figure.savefig(unfinished, format=path.suffix.lower().removeprefix("."))


def draw_clip(
    path: str | Path,
    waveform: Tensor,
    sampling_rate: int,
    examples: Tensor,
    output: "VGGishOutput",
    config: VGGishFeatureConfig,
) -> None:
    """Draw the waveform, the log-mel examples with their borders and the embeddings, over time.

    The file appears only when it is complete.

    Args:
        path: The picture, in a format that matplotlib knows by its ending.
        waveform: (time,).
        sampling_rate: The waveform's rate, Hz.
        examples: (examples, frames, bands), from the extractor.
        output: The clip's embeddings.
        config: The extractor's config.

    Raises:
        ValueError: matplotlib does not know the ending.
    """
    path = Path(path)
    check_picture(path)
    starts = output.start_seconds.tolist()
    end = starts[-1] + config.example_seconds
    figure = _make_figure(10, 7)
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
    _save(figure, path)


def check_picture(path: str | Path) -> None:
    """Raise ValueError unless matplotlib writes pictures with this ending."""
    _check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix.lower().removeprefix(".") not in known:
        raise ValueError(
            f"Expected a picture that ends in one of {', '.join(known)}, got {str(path)!r}"
        )


def draw_scores(path: str | Path, scores: Sequence[tuple[str, float]], title: str) -> None:
    """Draw the distribution of scores, and the largest by name, into a file.

    Args:
        path: The picture, in a format that matplotlib knows by its ending.
        scores: Names and scores, in any order.
        title: The title.

    Raises:
        ValueError: There are no scores, or matplotlib does not know the ending.
    """
    path = Path(path)
    check_picture(path)
    if not scores:
        raise ValueError("Expected at least one clip with a score to draw, got none")
    largest = sorted(scores, key=lambda scored: scored[1])[-_MAX_NAMES:]
    figure = _make_figure(11, 2.5 + 0.2 * len(largest))
    all_axes, largest_axes = figure.subplots(1, 2)
    all_axes.hist([score for _, score in scores], bins="sqrt")
    all_axes.set(xlabel="distance", ylabel="clips", title=f"{len(scores)} clips")
    largest_axes.barh(range(len(largest)), [score for _, score in largest])
    largest_axes.set_yticks(
        range(len(largest)), [_shortened(name) for name, _ in largest], parse_math=False
    )
    largest_axes.set(xlabel="distance", title="the farthest")
    figure.suptitle(title, parse_math=False)
    _save(figure, path)


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_CHARACTERS else f"...{name[3 - _MAX_CHARACTERS :]}"


def project_to_plane(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Project points onto the plane in which they vary most: their first two principal components.

    Args:
        embeddings: (points, size), finite.

    Returns:
        The points (points, 2), and the share of the variance along each axis (2,); float64, on the
        CPU. The largest weight of an axis is positive, so that it seldom flips between the maps of
        a training.

    Example:
        >>> line = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> project_to_plane(line)[0][:, 0]
        tensor([-5.,  0.,  5.], dtype=torch.float64)
    """
    embeddings = embeddings.cpu().double()
    centred = embeddings - embeddings.mean(0)
    _, deviations, axes = torch.linalg.svd(centred, full_matrices=False)
    largest = axes.abs().argmax(1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()
    shares = deviations.square() / deviations.square().sum().clamp(min=1e-300)
    # One point, or an embedding of size one, has a single axis.
    missing = (0, max(2 - len(axes), 0))
    points = torch.nn.functional.pad(centred @ axes[:2].mT, missing)
    return points, torch.nn.functional.pad(shares[:2], missing)


def draw_map(embeddings: Tensor, labels: Tensor, classes: Sequence[str], title: str) -> "Figure":
    """Draw clips as points on a plane, coloured by class.

    Args:
        embeddings: (clips, size); those that are not finite are skipped.
        labels: (clips,), the class of each, -1 (grey) for none.
        classes: The names of the classes; up to twenty are named.
        title: The title.
    """
    figure = _make_figure(8, 6)
    from matplotlib import colormaps

    finite = torch.isfinite(embeddings).all(1)
    labels = labels[finite].cpu()
    axes = figure.subplots()
    if len(labels):
        points, shares = project_to_plane(embeddings[finite])
        axes.set(
            xlabel=f"principal component 1 ({shares[0]:.0%} of the variance)",
            ylabel=f"principal component 2 ({shares[1]:.0%})",
        )
        colours = colormaps["tab10" if len(classes) <= 10 else "tab20"]
        if len(classes) > _MAX_LEGEND:
            colours = colormaps["hsv"].resampled(len(classes))
        for label in sorted(set(labels.tolist())):
            x, y = points[labels == label].mT.numpy()
            name, colour = ("none", "grey") if label < 0 else (classes[label], colours(label))
            # The legend would skip a label that begins with an underscore.
            axes.scatter(x, y, s=12, color=colour, label=f" {name}", linewidths=0)
    axes.set_title(title)
    if len(labels) and len(classes) <= _MAX_LEGEND:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        for text in legend.get_texts():
            text.set_parse_math(False)  # a dollar sign in a name does not start a formula
    return figure


def draw_confusion(
    confusion: Tensor, classes: Sequence[str], title: str, counts: Sequence[int] | None = None
) -> "Figure":
    """Draw a matrix of shares, one row per true class and one column per predicted class.

    Args:
        confusion: (classes, classes), from 0 to 1; rows of NaN stay empty.
        classes: The names of the classes; up to forty are named.
        title: The title.
        counts: Clips per class, shown next to its name, since a share of one clip says little.
    """
    count = len(classes)
    rows = [f"{name} ({n})" for name, n in zip(classes, counts or [], strict=False)] or classes
    size = 4 + 0.2 * min(count, _MAX_CLASS_NAMES)
    figure = _make_figure(size + 1, size)
    axes = figure.subplots()
    values = confusion.cpu().numpy()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(image, ax=axes)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if count <= _MAX_CLASS_NAMES:
        axes.set_xticks(range(count), classes, rotation=90, parse_math=False)
        axes.set_yticks(range(count), rows, parse_math=False)
    if count <= _MAX_CLASS_NUMBERS:
        for row, column in np.argwhere(~np.isnan(values)):
            value = values[row, column]
            colour = "white" if value > 0.5 else "black"
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour)
    return figure
