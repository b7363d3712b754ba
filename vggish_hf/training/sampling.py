"""Draw clips evenly over the classes for training, and hold clips out for validation."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray


class BalancedSampler(torch.utils.data.Sampler[int]):
    """Draws clips with replacement so that all classes come up equally often.

    A clip is drawn in proportion to the sum of `1 / clips of the class` over its classes; with one
    class per clip, the classes come up equally often. Clips without a class are never drawn.

    Lightning keeps the sampler when it distributes the data, gives each process its share of the
    draws, and calls `set_epoch`: processes with the same seed draw the same clips, and a resumed
    training continues with the draws of its epoch.

    Args:
        labels: The classes of each clip, as indices.

    Raises:
        ValueError: No clip has a class.

    Example:
        >>> sampler = BalancedSampler([[0], [0], [0], [1]])
        >>> sampler.weights
        tensor([0.3333, 0.3333, 0.3333, 1.0000], dtype=torch.float64)
        >>> len(list(sampler))
        4
    """

    def __init__(self, labels: Sequence[Sequence[int]]) -> None:
        counts = count_clips(labels)
        if not counts.any():
            raise ValueError("Expected clips with classes, none has one")
        self.weights = torch.tensor(
            [sum(1 / counts[label] for label in clip) for clip in labels], dtype=torch.float64
        )
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch to draw; Lightning calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        # Not torch's own generator: other processes may have drawn more or less from theirs.
        generator = torch.Generator().manual_seed((torch.initial_seed() + self.epoch) % 2**63)
        yield from torch.multinomial(
            self.weights, len(self), replacement=True, generator=generator
        ).tolist()


def count_clips(labels: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Count the clips of each class, by the classes of each clip."""
    return np.bincount(np.fromiter((label for clip in labels for label in clip), np.int64))


def hold_out(
    labels: Sequence[Sequence[int]], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Divide clips at random, with nearly the same share of each class on both sides.

    A clip of several classes counts for the rarest. At least one clip of each class stays.

    Args:
        labels: The classes of each clip, as indices.
        fraction: The held-out share, more than 0 and less than 1.
        seed: Decides the clips, reproducibly.

    Returns:
        The indices of the clips that stay, and of the held-out clips, in ascending order.

    Raises:
        ValueError: The fraction is out of range, or leaves a side empty.

    Example:
        >>> stay, held_out = hold_out([[0]] * 50 + [[1]] * 10, fraction=0.2, seed=0)
        >>> len(stay), sum(i < 50 for i in held_out), sum(i >= 50 for i in held_out)
        (48, 10, 2)
    """
    counts = count_clips(labels)
    rarest = torch.tensor([min(clip, key=counts.__getitem__, default=-1) for clip in labels])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[rarest[order].argsort(stable=True)]
    # One in every 1 / fraction of the clips, in the order of their classes.
    steps = torch.floor(torch.arange(len(labels) + 1, dtype=torch.float64) * fraction).diff()
    if not 0 < fraction < 1 or not 0 < steps.sum() < len(labels):
        raise ValueError(
            "Expected a fraction between 0 and 1 that leaves clips on both sides, got "
            f"{fraction} of {len(labels)} clips"
        )
    stay: list[int] = order[steps == 0].tolist()
    held_out: list[int] = []
    learnt = {label for i in stay for label in labels[i]}
    for i in order[steps > 0].tolist():
        if learnt.issuperset(labels[i]):
            held_out.append(i)
        else:
            stay.append(i)
            learnt.update(labels[i])
    if not held_out:
        raise ValueError(
            f"Expected a class of more than one clip to hold out {fraction} of {len(labels)} "
            "clips; pass a larger fraction, or none"
        )
    return sorted(stay), sorted(held_out)
