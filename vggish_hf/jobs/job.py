"""Embed any number of clips into a resumable folder, block by block.

    clips -> parts of the listing -> blocks of examples -> the network -> a file for each block

`vggish_hf.jobs.embed_to_folder` does it on one machine, that of `vggish_hf.distributed` on a
cluster, with the same functions: the network's batches are the same, and so are the rows.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vggish_hf._checks import check_choice
from vggish_hf.audio import AudioLimits
from vggish_hf.inputs import Clip
from vggish_hf.jobs.embedded import block_name
from vggish_hf.jobs.targets import check_is_no_input, unique_ids
from vggish_hf.modeling.pooling import Pool, pooled_size
from vggish_hf.modeling.postprocessor import find_postprocess
from vggish_hf.outputs.folder import EmbeddingFolder
from vggish_hf.outputs.sources import file_source
from vggish_hf.pipeline import Postprocess, VGGishPipeline


@dataclass(frozen=True)
class EmbeddingSummary:
    """The result of a run.

    Args:
        clips: The number of clips embedded.
        examples: The number of their examples.
        failed: Failed clips with reasons; the next run tries them again.
        too_short: Clips without a whole example.
        skipped: The number of clips done in earlier runs, with unchanged files.
    """

    clips: int
    examples: int
    failed: dict[str, str]
    too_short: tuple[str, ...]
    skipped: int


def cut_parts(
    clips: Iterable[Clip], pending: Container[str], part_clips: int
) -> Iterator[list[Clip]]:
    """Cut a listing into parts, and skip clips that need no work.

    The cuts do not depend on finished clips: a repeated run makes the same parts.

    Args:
        clips: The whole listing.
        pending: The ids of the clips to embed.
        part_clips: Clips of the listing per part.

    Yields:
        The parts that are not empty, in order.

    Example:
        >>> clips = [Clip(name, name) for name in "abcde"]
        >>> [[clip.id for clip in part] for part in cut_parts(clips, {"b", "e"}, 2)]
        [['b'], ['e']]
    """
    remaining = iter(clips)
    while part := list(islice(remaining, part_clips)):
        if kept := [clip for clip in part if clip.id in pending]:
            yield kept


class EmbeddingJob:
    """The clips to embed into a folder, and their results.

    As a context manager it keeps other jobs from writing to the folder.

    Args:
        clips: All of them, including those of earlier runs.
        folder: A new folder, or one of the same weights, options and limits.
        pipeline: Embeds them.
        postprocess: As for calling the pipeline.
        limits: Limits of a clip.
        pool: As for `embed_to_folder`.

    Raises:
        ValueError: Two clips have the same id, or the folder holds an input or other content.
        OSError: Another job writes to the folder.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        folder: str | Path,
        pipeline: VGGishPipeline,
        postprocess: Postprocess,
        limits: AudioLimits,
        pool: Pool | None = None,
    ) -> None:
        check_output_options(pipeline, postprocess, pool)
        #: The ids of clips that are neither done nor failed in this run.
        self.pending = unique_ids(clips)
        self.pool = pool
        self.folder = EmbeddingFolder(folder)
        check_is_no_input(Path(folder), clips)
        self._clips = clips
        self._provenance = job_provenance(pipeline, postprocess, limits, pool)
        self._size = pooled_size(pipeline.model.config.embedding_size, pool)
        self._dtype = find_postprocess(postprocess).dtype()
        self._folder_lock = ExitStack()
        self._old_parts: dict[str, list[Path]] = {}  # with rows of changed files
        self._embedded = 0
        self._examples = 0
        self._too_short: list[str] = []
        self._failed: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.folder.check(self._provenance)  # before creating a folder
        with ExitStack() as stack:
            stack.enter_context(self.folder.lock())
            self.folder.start(self._provenance, self._size, self._dtype)
            self._find_completed()
            self._folder_lock = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._folder_lock.close()

    @property
    def skipped(self) -> int:
        """The number of clips done in earlier runs."""
        return self._skipped

    def _find_completed(self) -> None:
        paths = {clip.id: clip.path for clip in self._clips}
        source_of = lru_cache(maxsize=1024)(file_source)  # the clips of a tar share it
        done: set[str] = set()
        for clip in self.folder.completed():
            path = paths.get(clip.id)
            if path is None:
                continue
            now = None if clip.source is None else source_of(path)
            if now is None or now == clip.source:
                done.add(clip.id)
            elif clip.part is not None:
                self._old_parts.setdefault(clip.id, []).append(clip.part)
        self.pending -= done
        self._skipped = len(done)
        # Left by a run that was killed after writing the new rows, before removing the old ones.
        self._drop_old(done, "")

    def _drop_old(self, clips: Iterable[str], new_part: str) -> None:
        by_part: dict[Path, set[str]] = {}
        for clip in clips:
            for part in self._old_parts.pop(clip, ()):
                by_part.setdefault(part, set()).add(clip)
        for part, dropped in by_part.items():
            if part.stem != new_part:  # else it was replaced
                self.folder.drop(part, dropped)

    def note(self, counts: Mapping[str, int], failed: Mapping[str, str]) -> int:
        """Record a written block; clips recorded before are ignored.

        Returns:
            The number of new clips.
        """
        new = self.pending.intersection([*counts, *failed])
        self._drop_old(new & counts.keys(), block_name(counts, failed))
        self.pending -= new
        self._failed.update((clip, failed[clip]) for clip in new & failed.keys())
        embedded = [count for clip, count in counts.items() if clip in new and count]
        self._embedded += len(embedded)
        self._examples += sum(embedded)
        self._too_short += [clip for clip, count in counts.items() if clip in new and not count]
        return len(new)

    def finish(self) -> EmbeddingSummary:
        """Clean up the folder and return the summary."""
        self.folder.finish()
        return EmbeddingSummary(
            self._embedded, self._examples, self._failed, tuple(self._too_short), self._skipped
        )


def check_output_options(
    pipeline: VGGishPipeline, postprocess: Postprocess, pool: Pool | None
) -> None:
    """Raise ValueError for unknown or incompatible options."""
    if pool is not None:
        check_choice("pool", pool, Pool)
    if pool is not None and postprocess == "uint8":
        raise ValueError(
            f"Expected `postprocess` 'none' or 'pca' with `pool` {pool!r}, got 'uint8', which "
            "would change the mean"
        )
    pipeline.check_postprocess(postprocess)


def job_provenance(
    pipeline: VGGishPipeline,
    postprocess: Postprocess,
    limits: AudioLimits,
    pool: Pool | None = None,
) -> dict[str, Any]:
    """The settings that decide the rows; runs that differ in them cannot share a folder."""
    return {**pipeline.provenance(postprocess), "pool": pool, "limits": asdict(limits)}
