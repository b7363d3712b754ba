"""A set of clips, whatever it is stored as, as statistics."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from numpy.typing import NDArray
from tqdm import tqdm

from vggish_hf._checks import check_at_least_one
from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits, Decoder, IsolatedDecoders, open_audio
from vggish_hf.inputs import Clip
from vggish_hf.metrics.found_sets import ClipFailure, EmbeddingSource, FoundSet, find_set
from vggish_hf.metrics.presets import ClipEmbedder
from vggish_hf.metrics.statistics import EmbeddingStatistics, check_scale
from vggish_hf.outputs.reading import NamedEmbeddings

OnClip: TypeAlias = Callable[[str, NDArray[Any]], object]


@dataclass(frozen=True)
class EmbeddingSet:
    """What became of a set of clips.

    Args:
        statistics: The moments of the embeddings.
        clips: How many clips were counted; None where the source does not tell.
        failures: Those that were not.
        notes: What to know of the source.
    """

    statistics: EmbeddingStatistics
    clips: int | None
    failures: tuple[ClipFailure, ...] = ()
    notes: tuple[str, ...] = ()


def embed_set(
    source: EmbeddingSource | FoundSet,
    embedder: ClipEmbedder | None = None,
    *,
    compared_with: EmbeddingStatistics | None = None,
    force: bool = False,
    batch_size: int = 32,
    num_workers: int = 2,
    limits: AudioLimits = DEFAULT_LIMITS,
    isolated: bool = False,
    progress: bool = False,
    on_clip: OnClip | None = None,
) -> EmbeddingSet:
    """Compute, or load, the statistics of a set of clips.

    A clip that cannot be read, or that is shorter than an example where the preset pads nothing, is
    among the failures, and the others are counted. Memory is bounded, whatever the number of clips.

    Args:
        source: The set, see `find_set`.
        embedder: What embeds audio; not needed for embeddings and statistics.
        compared_with: Statistics that the set must be comparable with, which is checked first.
        force: Take it though it was embedded differently.
        batch_size: Examples that the network takes at once.
        num_workers: Clips that are decoded at once.
        limits: What an encoded clip may be at most.
        isolated: Whether files are decoded in processes of their own, so that a file that breaks a
            decoder fails alone: for untrusted audio.
        progress: Whether to show a bar, where standard error is a terminal.
        on_clip: Called with the name and the embeddings (examples, size) of each clip counted.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: The source is empty, is of several kinds, is damaged, holds statistics where
            `on_clip` needs clips, is audio where there is no embedder, or is not comparable.
    """
    check_at_least_one(batch_size=batch_size, num_workers=num_workers)
    found = find_set(source)
    statistics = check_set(found, embedder, compared_with, force=force, by_clip=on_clip is not None)
    if found.kind == "statistics":
        return EmbeddingSet(statistics, statistics.clips, notes=found.notes)
    failures = list(found.failures)
    counted = 0
    with IsolatedDecoders() if isolated else nullcontext() as decoders:
        if found.kind == "embeddings":
            clips: Iterator[NamedEmbeddings] = iter(found.clips)
        else:
            assert embedder is not None  # check_set
            decode = _decoder(decoders, limits)
            clips = _embedded(found, embedder, failures, batch_size, num_workers, decode)
        total = len(found.clips) if isinstance(found.clips, list) else None
        shown = tqdm(clips, unit=" clips", total=total, disable=None if progress else True)
        for name, rows in shown:
            if len(rows):
                check_scale(rows)  # which is not a fault of one clip
            try:
                if not len(rows):
                    raise ValueError("it is shorter than an example")
                statistics = statistics.update(rows)
            except ValueError as error:
                failures.append(ClipFailure(name, str(error)))
                continue
            counted += 1
            if on_clip is not None:
                on_clip(name, rows)
    return EmbeddingSet(replace(statistics, clips=counted), counted, tuple(failures), found.notes)


def check_set(
    found: FoundSet,
    embedder: ClipEmbedder | None,
    compared_with: EmbeddingStatistics | None = None,
    *,
    force: bool = False,
    by_clip: bool = False,
) -> EmbeddingStatistics:
    """Check all that is known of a set before it is read.

    Returns:
        Its statistics, which are empty where its clips are still to be read.

    Raises:
        ValueError: See `embed_set`.
    """
    statistics = found.statistics
    if statistics is None:
        if embedder is None:
            raise ValueError("Expected a `model` to embed audio with; pass one, such as 'google'")
        statistics = EmbeddingStatistics.empty(embedder.size, embedder.provenance)
    if compared_with is not None:
        # What does not say how it was made gets a note, see `frechet_audio_distance`.
        is_known = statistics.is_provenance_known and compared_with.is_provenance_known
        compared_with.check_comparable(statistics, force=force or not is_known)
    if by_clip and found.kind == "statistics":
        raise ValueError(
            "Expected clips, since each of them is needed, got statistics; pass audio, a file of "
            "embeddings, or a list with an array of embeddings for each clip"
        )
    return statistics


def _decoder(decoders: IsolatedDecoders | None, limits: AudioLimits) -> Decoder:
    open_source = open_audio if decoders is None else decoders.open
    return lambda clip: open_source(clip.load() if isinstance(clip, Clip) else clip, limits)


def _embedded(
    found: FoundSet,
    embedder: ClipEmbedder,
    failures: list[ClipFailure],
    batch_size: int,
    num_workers: int,
    decode: Decoder,
) -> Iterator[NamedEmbeddings]:
    names: dict[int, str] = {}  # of the clips that are read and not yet embedded

    def named() -> Iterator[Any]:
        for index, clip in enumerate(found.clips):
            names[index] = clip.id if isinstance(clip, Clip) else f"clip {index}"
            yield clip

    def note_failure(index: int, _clip: Any, error: Exception) -> None:
        failures.append(ClipFailure(names.pop(index), str(error)))

    for index, rows in embedder.stream(
        named(),
        batch_size=batch_size,
        num_workers=num_workers,
        on_error=note_failure,
        decode=decode,
    ):
        yield names.pop(index), rows
