"""Statistics of a set of clips in any form."""

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
    """The result of a set of clips.

    Args:
        statistics: The moments of the embeddings.
        clips: How many clips were counted; None if unknown.
        failures: The clips that failed.
        notes: Remarks on the source.
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

    A clip fails if it cannot be read, or is shorter than an example and the preset does not pad;
    the others are counted. Memory is bounded for any number of clips.

    Args:
        source: The set, see `find_set`.
        embedder: Embeds audio; not needed for embeddings and statistics.
        compared_with: Statistics that the set must be comparable with; checked first.
        force: Accept it even if it was embedded differently.
        batch_size: Examples that the network takes at once.
        num_workers: Clips decoded at once.
        limits: Limits of an encoded clip.
        isolated: Whether to decode files in separate processes, so that a file that crashes a
            decoder fails alone: for untrusted audio.
        progress: Whether to show a bar if standard error is a terminal.
        on_clip: Called with the name and the embeddings (examples, size) of each clip counted.

    Raises:
        FileNotFoundError: A file or folder does not exist.
        ValueError: The source is empty, of several kinds, damaged, or not comparable; it is
            statistics, but `on_clip` needs clips; or it is audio without an embedder.
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
                check_scale(rows)  # not a fault of one clip
            try:
                if not len(rows):
                    raise ValueError("shorter than one example")
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
    """Check what is known of a set before reading it.

    Returns:
        Its statistics, empty if its clips are not read yet.

    Raises:
        ValueError: See `embed_set`.
    """
    statistics = found.statistics
    if statistics is None:
        if embedder is None:
            raise ValueError("Expected a `model` to embed audio with; pass one, such as 'google'")
        statistics = EmbeddingStatistics.empty(embedder.size, embedder.provenance)
    if compared_with is not None:
        # A source without provenance gets a note, see `frechet_audio_distance`.
        is_known = statistics.is_provenance_known and compared_with.is_provenance_known
        compared_with.check_comparable(statistics, force=force or not is_known)
    if by_clip and found.kind == "statistics":
        raise ValueError(
            "Expected separate clips, got statistics; pass audio, a file of embeddings, or a "
            "list with an array of embeddings per clip"
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
    names: dict[int, str] = {}  # of clips read but not yet embedded

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
