"""Score a set of clips against another: folders in, a distance with its provenance out."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggish_hf._checks import check_at_least_one, check_choice
from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits
from vggish_hf.metrics.embedding_sets import EmbeddingSet, check_set, embed_set
from vggish_hf.metrics.found_sets import EmbeddingSource, FoundSet, find_set
from vggish_hf.metrics.frechet import distances_from
from vggish_hf.metrics.infinity import (
    MIN_DRAWN,
    InfinityFit,
    Interval,
    bootstrap_interval,
    fad_infinity,
)
from vggish_hf.metrics.presets import ClipEmbedder, PresetName
from vggish_hf.metrics.statistics import EmbeddingStatistics
from vggish_hf.pipeline import VGGishPipeline


class ClipScore(NamedTuple):
    """A clip's own distance from the real set."""

    clip: str
    examples: int
    score: float | None
    """None for fewer than 2 examples."""


@dataclass(frozen=True)
class FadResult:
    """A Frechet Audio Distance with the settings that it depends on.

    Args:
        score: The distance.
        real: The reference set, with its statistics.
        fake: The scored set.
        notes: Remarks for comparing the score with others, and why a requested value is missing.
        per_clip: The distance of each clip of `fake` from `real`, smallest first, if requested.
        infinity: The distance of infinitely many clips, if requested.
        interval: The confidence interval, if requested.
    """

    score: float
    real: EmbeddingSet
    fake: EmbeddingSet
    notes: tuple[str, ...] = ()
    per_clip: tuple[ClipScore, ...] | None = None
    infinity: InfinityFit | None = None
    interval: Interval | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """How the embeddings of `fake` were made: package, weights, preset and every number."""
        return dict(self.fake.statistics.provenance)

    def to_dict(self) -> dict[str, Any]:
        """The result, ready for JSON, without the statistics."""

        def described(of: EmbeddingSet) -> dict[str, Any]:
            failures = [failure._asdict() for failure in of.failures]
            return {"clips": of.clips, "examples": of.statistics.count, "failures": failures}

        return {
            "score": self.score,
            "real": described(self.real),
            "fake": described(self.fake),
            "notes": list(self.notes),
            "per_clip": [clip._asdict() for clip in self.per_clip or ()] or None,
            "infinity": asdict(self.infinity) if self.infinity else None,
            "interval": asdict(self.interval) if self.interval else None,
            "provenance": self.provenance,
        }


def frechet_audio_distance(
    real: EmbeddingSource | FoundSet,
    fake: EmbeddingSource | FoundSet,
    *,
    model: VGGishPipeline | str | Path | None = None,
    preset: PresetName = "default",
    per_clip: bool = False,
    infinity: bool = False,
    confidence: float | None = None,
    force: bool = False,
    batch_size: int = 32,
    num_workers: int = 2,
    limits: AudioLimits = DEFAULT_LIMITS,
    isolated: bool = False,
    progress: bool = False,
) -> FadResult:
    """Compute the Frechet Audio Distance between two sets of clips.

    Both sets are found and checked before anything is embedded. The result lists failed clips; the
    others are counted. Memory is bounded for any number of clips, except that `infinity` and
    `confidence` keep the embeddings of `fake`: 512 bytes per example.

    Args:
        real: The reference set: a file, folder, glob, list, archive, table or URL with audio; a
            file or a folder of embeddings; an `.npz` file of statistics; an array of embeddings
            (examples, size); statistics; or any iterable of clips. See `find_set`.
        fake: The set to score, likewise.
        model: Embeds audio: a pipeline, or a model's id. Not needed without audio.
        preset: The tool to imitate, see `PRESETS` and docs/fad.md.
        per_clip: Also score each clip of `fake` separately.
        infinity: Also extrapolate to infinitely many clips, see `fad_infinity`: by drawing clips,
            or examples if there are at most 500 clips; with the preset `"fadtk"` like that tool. A
            note says if fewer than 500 examples are too few.
        confidence: Also estimate an interval of this confidence; see `bootstrap_interval`.
        force: Compare sets that were embedded differently.
        batch_size: Examples that the network takes at once.
        num_workers: Clips decoded at once.
        limits: Limits of an encoded clip.
        isolated: Whether to decode files in separate processes, so that a file that crashes a
            decoder fails alone: for untrusted audio.
        progress: Whether to show a bar if standard error is a terminal.

    Raises:
        FileNotFoundError: A model, file or folder does not exist.
        ValueError: A set has fewer than 2 examples, the sets were embedded differently, or an
            argument is invalid; see `embed_set`, `fad_infinity` and `bootstrap_interval`.

    Example:
        >>> from vggish_hf import VGGishConfig, VGGishFeatureExtractor, VGGishModel
        >>> import torch
        >>> config = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16)
        >>> pipe = VGGishPipeline(VGGishFeatureExtractor(), VGGishModel(config))  # random weights
        >>> clips = [(torch.rand(160_000) - 0.5, 16_000) for _ in range(2)]
        >>> result = frechet_audio_distance(clips, clips, model=pipe)
        >>> result.score, result.fake.clips, result.fake.statistics.count
        (0.0, 2, 20)
    """
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"Expected a `confidence` between 0 and 1, got {confidence}")
    check_choice("preset", preset, PresetName)
    check_at_least_one(batch_size=batch_size, num_workers=num_workers)
    if real is fake and isinstance(real, Iterator):
        raise ValueError(
            "Expected two sets, got one iterator twice, which can only be read once; pass a list"
        )
    found_real, found_fake = find_set(real), find_set(fake)
    by_clip = per_clip or infinity or confidence is not None
    needs_model = "audio" in (found_real.kind, found_fake.kind)
    embedder = ClipEmbedder(model, preset) if needs_model and model is not None else None
    known = check_set(found_real, embedder)
    check_set(found_fake, embedder, known, force=force, by_clip=by_clip)
    embed = partial(
        embed_set,
        embedder=embedder,
        batch_size=batch_size,
        num_workers=num_workers,
        limits=limits,
        isolated=isolated,
        progress=progress,
    )
    real_set = embed(found_real)
    _check_count("real", real_set)
    kept: list[NDArray[Any]] = []
    scores: list[ClipScore] = []
    a = real_set.statistics
    with distances_from(a.mean, a.covariance) as distance_to:

        def note_clip(name: str, rows: NDArray[Any]) -> None:
            if infinity or confidence is not None:
                kept.append(rows)
            if per_clip:
                clip = EmbeddingStatistics.from_embeddings(rows)
                is_enough = clip.count >= 2
                score = distance_to(clip.mean, clip.covariance) if is_enough else None
                scores.append(ClipScore(name, clip.count, score))

        fake_set = embed(found_fake, on_clip=note_clip if by_clip else None)
        _check_count("fake", fake_set)
        b = fake_set.statistics
        distance = distance_to(b.mean, b.covariance)
    notes = [*real_set.notes, *fake_set.notes]
    unknown = [
        role
        for role, statistics in (("real", a), ("fake", b))
        if not statistics.is_provenance_known
    ]
    if not unknown:
        notes += [f"embedded differently: {difference}" for difference in a.differences(b)]
    elif not notes:
        notes.append(
            f"{' and '.join(unknown)}: nothing is known of how the embeddings were made; whether "
            "the sets are comparable was not checked"
        )
    notes += _notes(a, b)
    fit = interval = None
    # Extra values that fail must not lose the score.
    try:
        fit = _extrapolate(a, kept, preset, notes) if infinity else None
        interval = bootstrap_interval(a, kept, confidence=confidence) if confidence else None
    except ValueError as error:
        notes.append(str(error))
    return FadResult(
        distance,
        real_set,
        fake_set,
        tuple(notes),
        tuple(sorted(scores, key=_rank)) if per_clip else None,
        fit,
        interval,
    )


def _check_count(role: str, of: EmbeddingSet) -> None:
    if of.statistics.count < 2:
        reasons = "".join(f"\n  {clip}: {reason}" for clip, reason in of.failures[:10])
        raise ValueError(
            f"Expected at least 2 examples in `{role}`, got {of.statistics.count}; failed clips: "
            f"{len(of.failures)}{reasons}"
        )


def _extrapolate(
    real: EmbeddingStatistics, clips: list[NDArray[Any]], preset: PresetName, notes: list[str]
) -> InfinityFit:
    if preset == "fadtk":
        return fad_infinity(real, np.concatenate(clips), replace=True)
    if len(clips) > MIN_DRAWN:
        return fad_infinity(real, clips)
    fit = fad_infinity(real, np.concatenate(clips))
    notes.append(
        f"{len(clips)} clips are too few to draw clips for infinity: examples were drawn, and "
        "since those of a clip are alike, the result is still too large"
    )
    return fit


def _rank(clip: ClipScore) -> tuple[bool, float]:
    return clip.score is None, clip.score or 0.0


def _notes(real: EmbeddingStatistics, fake: EmbeddingStatistics) -> list[str]:
    notes = [
        f"{role}: {note}"
        for role, statistics in (("real", real), ("fake", fake))
        if (note := statistics.small_sample_note())
    ]
    config = fake.provenance.get("config")
    if isinstance(config, dict) and config.get("embedding_activation") == "relu":
        notes.append("the model applies a ReLU, which no preset has: scores differ from published")
    return notes
