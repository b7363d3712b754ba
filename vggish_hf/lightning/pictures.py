"""Pictures of a data set's clips and classes; matplotlib is imported where one is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# As many colours as can be told apart, and more names than these overlap.
_MAX_LEGEND = 20
_MAX_NAMES = 40
_MAX_NUMBERS = 12


def project_to_plane(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Project points on the plane in which they vary most: their first two principal components.

    Args:
        embeddings: (points, size), finite.

    Returns:
        The points (points, 2), and the share of the variance along each axis (2,); float64, on the
        CPU. An axis points to where its largest weight is positive, so that it seldom flips from
        one map of a training to the next.

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
        embeddings: (clips, size); those that are not finite are left out.
        labels: (clips,), the class of each, -1 (grey) for none.
        classes: The names of the classes; up to twenty are named.
        title: What stands above.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    finite = torch.isfinite(embeddings).all(1)
    labels = labels[finite].cpu()
    figure = Figure(figsize=(8, 6), layout="constrained")
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
            # A label that begins with an underscore would be left out of the legend.
            axes.scatter(x, y, s=12, color=colour, label=f" {name}", linewidths=0)
    axes.set_title(title)
    if len(labels) and len(classes) <= _MAX_LEGEND:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        for text in legend.get_texts():
            text.set_parse_math(False)  # a dollar sign in a name is no formula
    return figure


def draw_confusion(confusion: Tensor, classes: Sequence[str], title: str) -> "Figure":
    """Draw a matrix of shares, a row for each true class and a column for each predicted one.

    Args:
        confusion: (classes, classes), from 0 to 1; rows of NaN stay empty.
        classes: The names of the classes; up to forty are named.
        title: What stands above.
    """
    from matplotlib.figure import Figure

    count = len(classes)
    size = 4 + 0.2 * min(count, _MAX_NAMES)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    values = confusion.cpu().numpy()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(image, ax=axes)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if count <= _MAX_NAMES:
        axes.set_xticks(range(count), classes, rotation=90, parse_math=False)
        axes.set_yticks(range(count), classes, parse_math=False)
    if count <= _MAX_NUMBERS:
        for row, column in np.argwhere(~np.isnan(values)):
            value = values[row, column]
            colour = "white" if value > 0.5 else "black"
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour)
    return figure
