"""Frechet Audio Distance: how exact and fast the arithmetic is, and what published tools printed.

The released AudioSet embeddings are those of the folder ../shared. The last part needs the original
weights, converted, in the folder that VGGISH_WEIGHTS names.
"""

import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import soundfile
import torch

from benchmarks import describe_machine
from vggish_hf import VGGishPipeline
from vggish_hf.audioset import RecordReader, parse_audioset
from vggish_hf.metrics import (
    EmbeddingStatistics,
    fad_infinity,
    frechet_audio_distance,
    frechet_distance,
)

RELEASED = Path(__file__).parents[2] / "shared/data/audioset"
SPEECH, MUSIC = 0, 137
EVAL_CLIPS = 20_371
# What the README of gudgud96's frechet_audio_distance says that the two tools gave for the example
# of google-research: sine waves, and the same with noise.
PUBLISHED = {"google-research": (12.4375, 4.7680), "frechet_audio_distance": (12.7398, 4.9815)}
NOISES = (1e-4, 1e-5)


def main() -> None:
    """Print the tables."""
    print(describe_machine("python -m benchmarks fad", np, scipy, torch))
    if RELEASED.is_dir():
        show_arithmetic()
    weights = os.environ.get("VGGISH_WEIGHTS")
    if weights:
        show_published(VGGishPipeline.from_pretrained(weights))


def show_arithmetic() -> None:
    """Compare with scipy's root of the product, on released embeddings."""
    bal_train = list(read_clips("bal_train.tar"))
    evaluation = list(read_clips("eval_quarter.tar"))
    speech, music = ([clip for clip in evaluation if label in clip[1]] for label in (SPEECH, MUSIC))
    sets = {
        "bal_train, eval": (bal_train, evaluation),
        "Speech, Music": (speech, music),
        "Speech, 100 examples of Music": (speech, music[:10]),
        "100 examples of Music, the same": (music[:10], music[:10]),
    }
    print(f"{'sets':32} {'examples':>16} {'ours':>15} {'sqrtm minus ours':>17} {'ms':>5} {'ms':>5}")
    for name, pair in sets.items():
        rows = [np.concatenate([embedding for embedding, _ in clips]) for clips in pair]
        moments = [(of_set.mean(0), np.cov(of_set, rowvar=False)) for of_set in rows]
        ours, our_time = timed(lambda: frechet_distance(*moments[0], *moments[1]))  # noqa: B023
        theirs, their_time = timed(lambda: root_distance(*moments[0], *moments[1]))  # noqa: B023
        counts = ", ".join(str(len(of_set)) for of_set in rows)
        times = f"{1e3 * our_time:5.0f} {1e3 * their_time:5.0f}"
        print(f"{name:32} {counts:>16} {ours:15.9f} {theirs - ours:17.1e} {times}")
    base = EmbeddingStatistics.from_embeddings(np.concatenate([rows for rows, _ in bal_train]))
    clips = [rows for rows, _ in evaluation]
    ways: list[tuple[str, Any, bool]] = [
        ("clips", clips, False),
        ("examples", np.concatenate(clips), False),
        ("examples, with replacement", np.concatenate(clips), True),
    ]
    print("\ninfinity of bal_train, eval, from a quarter of eval; all of it is at 0.2816")
    print(f"{'drawn':32} {'infinity':>9} {'R2':>7} {'for all of eval':>16} {'s':>5}")
    for name, drawn, replace in ways:
        fit, seconds = timed(lambda: fad_infinity(base, drawn, replace=replace))  # noqa: B023
        every = fit.score + fit.slope / (len(drawn) / len(clips) * EVAL_CLIPS)
        print(f"{name:32} {fit.score:9.4f} {fit.r_squared:7.4f} {every:16.4f} {seconds:5.1f}")


def read_clips(name: str) -> Iterator[tuple[np.ndarray[Any, Any], set[int]]]:
    """The dequantized embeddings of each clip of an archive, and its labels."""
    with tarfile.open(RELEASED / name) as tar:
        for member in tar:
            if member.name.endswith(".tfrecord"):
                for data in RecordReader(tar.extractfile(member)):
                    record = parse_audioset(data)
                    yield record.embedding * (4 / 255) - 2, set(record.labels)


def root_distance(mean_a: Any, a: Any, mean_b: Any, b: Any) -> float:
    """The distance as most libraries compute it."""
    root = scipy.linalg.sqrtm(a @ b).real
    return float(np.sum((mean_a - mean_b) ** 2) + np.trace(a + b - 2 * root))


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and how long it took, seconds."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def show_published(pipeline: VGGishPipeline) -> None:
    """Score the sine waves of google-research's example; its noise has no seed."""
    print(f"{'sine waves':32} {'noise 1e-4':>16} {'noise 1e-5':>16}")
    for tool, published in PUBLISHED.items():
        print(f"{tool + ', published':32} " + " ".join(f"{score:16.4f}" for score in published))
    with tempfile.TemporaryDirectory() as folder:
        for preset in ("google-int16", "gudgud"):
            cells = []
            for noise in NOISES:
                scores = [score_waves(pipeline, preset, noise, seed, folder) for seed in range(5)]
                cells.append(f"{np.mean(scores):8.4f} +- {np.std(scores):4.2f}")
            print(f"{preset:32} {' '.join(f'{cell:>16}' for cell in cells)}")


def score_waves(
    pipeline: VGGishPipeline, preset: Any, noise: float, seed: int, folder: str
) -> float:
    """The distance of five noisy waves from ten clean ones."""
    rng = np.random.default_rng(seed)
    sets: list[list[str]] = []
    for count, deviation in ((10, 0.0), (5, noise)):
        paths = []
        for number, frequency in enumerate(np.linspace(100, 1000, count)):
            wave = np.sin(2 * np.pi * np.linspace(0, 6, 6 * 16_000) * frequency)
            wave += rng.normal(0, deviation, len(wave)) * np.abs(wave).max()
            # What leaves the range of 16 bits comes back at its other end, as there.
            samples = np.trunc(wave * 2**15).astype(np.int32).astype(np.int16)
            paths.append(os.path.join(folder, f"{count}-{number}.wav"))
            soundfile.write(paths[-1], samples, 16_000, subtype="PCM_16")
        sets.append(paths)
    return frechet_audio_distance(*sets, model=pipeline, preset=preset).score


if __name__ == "__main__":
    main()
