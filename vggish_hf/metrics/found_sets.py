"""Sets of clips in any form, found and checked before anything is embedded."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, starmap
from numbers import Number
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggish_hf.audio import AudioSource
from vggish_hf.inputs import Clip, SkipHandler, find_clips
from vggish_hf.inputs.addresses import has_ending, is_url
from vggish_hf.metrics.statistics import EmbeddingStatistics
from vggish_hf.outputs.npz_reading import is_npz_of_embeddings
from vggish_hf.outputs.reading import check_value_type, find_embeddings, to_floats
from vggish_hf.outputs.stored import (
    StoredEmbeddings,
    StoredFolder,
    is_embedding_folder,
    open_embeddings,
)

#: One element of a set: a clip's audio, or its embeddings (examples, size).
SetItem: TypeAlias = AudioSource | Clip | Tensor | NDArray[Any]
#: A set of clips: an input of `vggish_hf.inputs.find_clips` (a file, folder, glob, list, archive,
#: table or URL with audio); a file or a folder of embeddings, or an `.npz` file of statistics; an
#: array or a tensor of embeddings (examples, size); statistics; or any iterable of these files and
#: of clips, each of them audio or the embeddings of one clip.
EmbeddingSource: TypeAlias = (
    str | os.PathLike[str] | Iterable[SetItem] | Tensor | NDArray[Any] | EmbeddingStatistics
)


class ClipFailure(NamedTuple):
    """A clip that failed."""

    clip: str
    reason: str


@dataclass(frozen=True)
class FoundSet:
    """A set of known kind that is not read yet.

    Args:
        kind: Its content.
        clips: Its clips: audio, or embeddings with names. They are read once.
        statistics: Those of a file or an array. For embeddings: size and provenance, without rows.
        failures: Clips that the stored embeddings list as failed.
        notes: Remarks on it.
    """

    kind: Literal["audio", "embeddings", "statistics"]
    clips: Iterable[Any] = ()
    statistics: EmbeddingStatistics | None = None
    failures: tuple[ClipFailure, ...] = ()
    notes: tuple[str, ...] = ()


def find_set(
    source: EmbeddingSource | FoundSet,
    *,
    follow_symlinks: bool = False,
    on_skip: SkipHandler | None = None,
) -> FoundSet:
    """Find the kind of a set by its content, and check that it exists.

    A Parquet file with a column of audio is audio, one with a column `embedding` is embeddings. A
    folder is embeddings if `vggish-hf embed` wrote it, or if it has no audio and all of its Parquet
    files are embeddings.

    Args:
        source: The set. An iterator is read once; its audio only while embedding.
        follow_symlinks: As for `vggish_hf.inputs.find_clips`.
        on_skip: As for `vggish_hf.inputs.find_clips`.

    Raises:
        FileNotFoundError: None of its files exists.
        ValueError: It is empty, is of several kinds, or a file of embeddings or statistics is
            damaged.

    Example:
        >>> find_set(np.zeros((3, 128))).statistics.count
        3
    """
    if isinstance(source, FoundSet):
        return source
    if isinstance(source, EmbeddingStatistics):
        return FoundSet("statistics", statistics=source)
    if _is_embeddings(source):
        rows = _rows_of(source)
        return FoundSet("statistics", statistics=EmbeddingStatistics.from_embeddings(rows))
    if _is_one_clip(source):
        return FoundSet("audio", [source])
    if isinstance(source, (str, os.PathLike)):
        return _find_paths([os.fspath(source)], follow_symlinks, on_skip)
    try:
        items = iter(source)
    except TypeError:
        raise ValueError(
            f"Expected a set of clips, got {type(source).__name__}; pass a folder, a list of "
            "files, an array of embeddings (examples, size) or EmbeddingStatistics"
        ) from None
    paths: list[str] = []
    first: list[Any] = []  # the first that is not a path
    for item in items:
        if not isinstance(item, (str, os.PathLike)):
            first = [item]
            break
        paths.append(os.fspath(item))
    if paths and not first:
        return _find_paths(paths, follow_symlinks, on_skip)
    if not first:
        raise ValueError("Expected at least one clip, got none")
    if not paths and _is_embeddings(first[0]):
        return _find_arrays(chain(first, items))

    def clips() -> Iterator[Any]:
        for item in chain(paths, first, items):
            if _is_embeddings(item):
                raise _mixed()
            if isinstance(item, (str, os.PathLike)):
                found = _find_paths([os.fspath(item)], follow_symlinks, on_skip)
                if found.kind != "audio":
                    raise _mixed()
                yield from found.clips
            else:
                yield item

    return FoundSet("audio", clips())


def _find_paths(paths: list[str], follow_symlinks: bool, on_skip: SkipHandler | None) -> FoundSet:
    audio: list[Clip] = []
    stored: list[StoredEmbeddings] = []
    statistics: list[EmbeddingStatistics] = []
    damaged: list[Exception] = []
    for path in paths:  # separately: a path given twice counts twice
        if not is_url(path) and is_embedding_folder(path):
            stored.append(StoredFolder(path))
            continue
        clips, embeddings = _search(path, follow_symlinks, on_skip)
        stored += embeddings
        for clip in clips:
            if clip.member is None and has_ending(clip.path, {".npz"}):
                if is_npz_of_embeddings(clip.path):
                    stored.append(open_embeddings(clip.path))
                else:
                    statistics.append(EmbeddingStatistics.load(clip.path))
            elif clip.member is None and has_ending(clip.path, {".parquet"}):
                try:
                    stored.append(open_embeddings(clip.path))
                except (ValueError, OSError) as error:
                    damaged.append(error)
                    audio.append(clip)  # among others it is a clip that fails
            else:
                audio.append(clip)
    if len(damaged) == len(audio) > 0:
        raise damaged[0]
    if bool(audio) + bool(stored) + len(statistics) > 1:
        raise _mixed()
    if stored:
        return _of_stored(stored)
    if statistics:
        return FoundSet("statistics", statistics=statistics[0])
    if not any(_may_exist(clip) for clip in audio):
        others = f", nor any of {len(audio) - 1} more" * (len(audio) > 1)
        raise FileNotFoundError(f"No such file or folder: {audio[0].id!r}{others}")
    return FoundSet("audio", audio)


def _search(
    path: str, follow_symlinks: bool, on_skip: SkipHandler | None
) -> tuple[list[Clip], list[StoredEmbeddings]]:
    """List the clips of a path, or the files of embeddings of a folder without audio."""
    skipped: list[tuple[str, Any]] = []
    failure: ValueError | None = None
    clips: list[Clip] = []
    try:
        clips = find_clips(
            [path],
            follow_symlinks=follow_symlinks,
            on_skip=lambda name, reason: skipped.append((name, reason)),
        )
    except ValueError as error:
        # It may hold only embeddings, such as a copied or exported folder.
        tables = [name for name, _ in skipped if has_ending(name, {".parquet"})]
        files = [file for file in map(find_embeddings, tables) if file is not None]
        if len(files) == len(tables) > 0:
            return [], list(files)
        failure = error
    for name, reason in skipped:
        if on_skip is not None:
            on_skip(name, reason)
    if failure is not None:
        raise failure
    return clips, []


def _of_stored(files: list[StoredEmbeddings]) -> FoundSet:
    # A file without rows has size 0.
    sized = [file for file in files if file.size] or files
    empty = [EmbeddingStatistics.empty(file.size, file.provenance) for file in sized]
    for other in empty[1:]:
        is_known = empty[0].is_provenance_known and other.is_provenance_known
        empty[0].merge(other, force=not is_known)  # raises if they were made differently
    notes = tuple(
        _unknown(str(getattr(file, "path", ""))) for file in files if not file.has_metadata
    )
    if len(notes) > 1:
        notes = (f"{notes[0]}; nor do {len(notes) - 1} more files",)
    folders = (file for file in files if isinstance(file, StoredFolder))
    failures = [failure for folder in folders for failure in folder.failed().items()]
    rows = chain.from_iterable(file.clips() for file in files)
    return FoundSet("embeddings", rows, empty[0], tuple(starmap(ClipFailure, failures)), notes)


def _find_arrays(items: Iterator[Any]) -> FoundSet:
    first = _rows_of(next(items))

    def clips() -> Iterator[tuple[str, NDArray[Any]]]:
        yield "clip 0", first
        for number, item in enumerate(items, 1):
            if not _is_embeddings(item):
                raise _mixed()
            yield f"clip {number}", _rows_of(item)

    return FoundSet("embeddings", clips(), EmbeddingStatistics.empty(first.shape[1]))


def _rows_of(embeddings: Any) -> NDArray[Any]:
    rows = embeddings.detach().cpu() if isinstance(embeddings, Tensor) else embeddings
    if isinstance(rows, Tensor):
        rows = (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(
            f"Expected embeddings of shape (examples, size), got {rows.shape}; pass waveforms as "
            "(waveform, sampling_rate), and the embeddings of many clips as a list of arrays"
        )
    check_value_type(rows.dtype, type(embeddings).__name__)
    return to_floats(rows)


def _is_embeddings(item: Any) -> bool:
    is_array = isinstance(item, np.ndarray) and item.dtype.kind in "biufc"  # not of paths
    return is_array or isinstance(item, Tensor)


def _is_one_clip(source: Any) -> bool:
    if isinstance(source, tuple) and len(source) == 2:
        return isinstance(source[1], Number) and not isinstance(source[0], Number)
    return isinstance(source, (bytes, bytearray, memoryview, Mapping, Clip)) or hasattr(
        source, "read"
    )


def _may_exist(clip: Clip) -> bool:
    return clip.member is not None or is_url(clip.path) or Path(clip.path).exists()


def _mixed() -> ValueError:
    return ValueError(
        "Expected audio, embeddings or one file of statistics, got several of these in one set; "
        "embed the audio first (`vggish-hf embed`), or score each set separately"
    )


def _unknown(path: str | os.PathLike[str], others: int = 0) -> str:
    which = f"{os.fspath(path)} and {others} more do" if others else f"{os.fspath(path)} does"
    return (
        f"{which} not say how the embeddings were made (the metadata `vggish_hf` are missing): "
        "whether they are comparable was not checked"
    )
