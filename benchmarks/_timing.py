"""Contestants that take turns, the ratios of their times, and where the results go."""

import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

OUTPUT = Path(os.environ.get("BENCH_OUTPUT", "build/bench"))
MIN_ROUNDS = 5
# Threads of one contestant's library spin for a while before they sleep, OpenBLAS's for 2^26
# cycles: not in the next one's time.
PAUSE = 0.05  # s

# Okabe and Ito's, which no kind of colour blindness confuses.
COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"]


class Spread(NamedTuple):
    """The middle of some measurements, and of their lower and upper half."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def alternate(
    contestants: Mapping[str, Callable[[], object]],
    seconds: float,
    calls: Mapping[str, int] | None = None,
) -> dict[str, list[float]]:
    """Let each contestant run once in every round, in an order that rotates.

    Machines are slower at some times than at others: what is compared is what ran in one round.

    Args:
        contestants: What runs, by name; each runs once before the first round.
        seconds: For how long new rounds begin; there are at least five.
        calls: How often one runs in its turn, by name, where not once: of a call that is over in
            milliseconds, a core that has to wake first would take as long.

    Returns:
        The seconds that a call of each took, a value a round.
    """
    names = list(contestants)
    repeats = dict.fromkeys(names, 1) | dict(calls or {})
    times: dict[str, list[float]] = {name: [] for name in names}
    for run in contestants.values():
        run()
    end = time.perf_counter() + seconds
    for turn in itertools.count():
        if turn >= MIN_ROUNDS and time.perf_counter() >= end:
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            start = time.perf_counter()
            for _ in range(repeats[name]):
                contestants[name]()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return times


def spread(values: Sequence[float]) -> Spread:
    """The median and the quartiles."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return Spread(median, low, high)


def ratio(times_a: Sequence[float], times_b: Sequence[float]) -> Spread:
    """How many times as long `a` took as `b` in the same round: above 1 where `b` is faster."""
    return spread([a / b for a, b in zip(times_a, times_b, strict=True)])


def save(name: str, results: Mapping[str, Any]) -> None:
    """Write the results as JSON into the folder of the output."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    path = OUTPUT / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {path}")


def draw(
    name: str,
    title: str,
    unit: str,
    groups: Mapping[str, Mapping[str, Spread]],
    limits: Mapping[str, float] | None = None,
) -> None:
    """Draw groups of bars, with their quartiles, into the folder of the output.

    Args:
        name: The picture's, without an ending.
        title: What stands above.
        unit: Of the values.
        groups: The values by contestant, by group.
        limits: What none can exceed, by group: a line across it.
    """
    from matplotlib.figure import Figure

    contestants = list(dict.fromkeys(itertools.chain.from_iterable(groups.values())))
    width = min(0.84 / len(contestants), 0.2)
    # Opaque, so that it is read on any page; an inch is about 100 pixels on GitHub's.
    figure = Figure(figsize=(8.3, 3.6), dpi=200, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for place, (contestant, colour) in enumerate(zip(contestants, COLOURS, strict=False)):
        shift = (place - (len(contestants) - 1) / 2) * width
        bars = {
            at + shift: group[contestant]
            for at, group in enumerate(groups.values())
            if contestant in group
        }
        medians = [value.median for value in bars.values()]
        axes.bar(list(bars), medians, width * 0.92, color=colour, label=contestant)
        for at, (median, low, high) in bars.items():
            axes.vlines(at, low, high, "#333333", linewidth=0.8)
            text = axes.text(at, high, f"{median:.3g}", ha="center", va="bottom", fontsize=8)
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4})
    for at, group in enumerate(groups):
        if limits and group in limits:
            label = "the machine's limit" if at == 0 else None
            axes.hlines(limits[group], at - 0.45, at + 0.45, "#333333", "dashed", label=label)
    axes.set_xticks(range(len(groups)), list(groups), fontsize=10)
    axes.set_ylabel(unit, fontsize=10)
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.margins(y=0.12)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    path = OUTPUT / f"{name}.png"
    figure.savefig(path)
    print(f"drawn in {path}")
