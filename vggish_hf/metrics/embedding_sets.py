"""A set of clips, whatever it is stored as, as statistics."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from tqdm import tqdm

from vggish_hf.audio import AudioSource
from vggish_hf.inputs import find_inputs, readable_id
from vggish_hf.metrics.presets import ClipEmbedder
from vggish_hf.metrics.statistics import EmbeddingStatistics
from vggish_hf.outputs.reading import EmbeddingFile

#: A set of clips: a folder of audio, a glob, a `.txt` list, an audio file; a Parquet file of
#: embeddings (or a glob of several); a `.npz` file of statistics; a list of audio sources or of
#: Parquet files; or statistics.
EmbeddingSource: TypeAlias = str | os.PathLike[str] | Sequence[AudioSource] | EmbeddingStatistics
#: A clip's name and its embeddings (examples, size).
Clip: TypeAlias = tuple[str, np.ndarray[Any, Any]]
OnClip: TypeAlias = Callable[[str, np.ndarray[Any, Any]], object]


class ClipFailure(NamedTuple):
    """A clip that is not counted."""

    clip: str
    reason: str


@dataclass(frozen=True)
class EmbeddingSet:
    """What became of a set of clips.

    Args:
        statistics: The moments of the embeddings.
        clips: How many clips were counted; None where the source does not tell.
        failures: Those that were not.
    """

    statistics: EmbeddingStatistics
    clips: int | None
    failures: tuple[ClipFailure, ...] = ()


def embed_set(
    source: EmbeddingSource,
    embedder: ClipEmbedder | None = None,
    *,
    compared_with: EmbeddingStatistics | None = None,
    force: bool = False,
    batch_size: int = 32,
    num_workers: int = 2,
    progress: bool = False,
    on_clip: OnClip | None = None,
) -> EmbeddingSet:
    """Compute, or load, the statistics of a set of clips.

    A clip that cannot be read, or that is shorter than an example where the preset pads nothing, is
    among the failures, and the others are counted. Memory is bounded, whatever the number of clips.

    Args:
        source: The set.
        embedder: What embeds audio; not needed for embeddings and statistics.
        compared_with: Statistics that the set must be comparable with, which is checked first.
        force: Take it though it was embedded differently.
        batch_size: Examples that the network takes at once.
        num_workers: Clips that are decoded at once.
        progress: Whether to show a bar, where standard error is a terminal.
        on_clip: Called with the name and the embeddings (examples, size) of each clip counted.

    Raises:
        FileNotFoundError: A file of embeddings or statistics does not exist.
        ValueError: The source names nothing, is of several kinds, is damaged, holds statistics
            where `on_clip` needs clips, is audio where there is no embedder, or is not comparable.
    """
    failures: list[ClipFailure] = []
    statistics, clips = _open(source, embedder, failures, batch_size, num_workers)
    if compared_with is not None:
        compared_with.check_comparable(statistics, force=force)
    if clips is None:
        if on_clip is not None:
            raise ValueError(
                "Expected clips, since each of them is needed, got statistics; pass audio, or a "
                "Parquet file of embeddings"
            )
        return EmbeddingSet(statistics, None)
    counted = 0
    for name, rows in tqdm(clips, unit=" clips", disable=None if progress else True):
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
    return EmbeddingSet(statistics, counted, tuple(failures))


def _open(
    source: EmbeddingSource,
    embedder: ClipEmbedder | None,
    failures: list[ClipFailure],
    batch_size: int,
    num_workers: int,
) -> tuple[EmbeddingStatistics, Iterable[Clip] | None]:
    """Find the statistics, which are empty where there are clips to read, and these."""
    if isinstance(source, EmbeddingStatistics):
        return source, None
    if isinstance(source, (str, os.PathLike)):
        source = find_inputs([os.fspath(source)])
    paths = (clip if isinstance(clip, (str, os.PathLike)) else "" for clip in source)
    endings = sorted({os.path.splitext(os.fspath(path))[1].lower() for path in paths})
    if endings == [".npz"] and len(source) == 1:
        return EmbeddingStatistics.load(str(source[0])), None
    if endings == [".parquet"]:
        return _stored([str(path) for path in source])
    if ".npz" in endings or ".parquet" in endings:
        raise ValueError(
            "Expected audio, Parquet files or one file of statistics, got "
            f"{len(source)} files that end in {', '.join(endings)}"
        )
    if embedder is None:
        raise ValueError("Expected a `model` to embed audio with; pass one, such as 'google'")
    empty = EmbeddingStatistics.empty(embedder.size, embedder.provenance)
    return empty, _embedded(source, embedder, failures, batch_size, num_workers)


def _stored(paths: Sequence[str]) -> tuple[EmbeddingStatistics, Iterator[Clip]]:
    files = [EmbeddingFile(path) for path in paths]
    empty = [EmbeddingStatistics.empty(file.size, file.provenance) for file in files]
    for other in empty[1:]:
        empty[0].merge(other)  # raises where they were not made alike
    return empty[0], chain.from_iterable(file.clips() for file in files)


def _embedded(
    source: Sequence[AudioSource],
    embedder: ClipEmbedder,
    failures: list[ClipFailure],
    batch_size: int,
    num_workers: int,
) -> Iterator[Clip]:
    def name(index: int) -> str:
        clip = source[index]
        if isinstance(clip, (str, os.PathLike)):
            return readable_id(os.fspath(clip))
        return f"clip {index}"

    def note_failure(index: int, _clip: AudioSource, error: Exception) -> None:
        failures.append(ClipFailure(name(index), str(error)))

    for index, rows in embedder.stream(
        source, batch_size=batch_size, num_workers=num_workers, on_error=note_failure
    ):
        yield name(index), rows
