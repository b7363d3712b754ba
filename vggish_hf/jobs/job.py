"""Embed any number of clips into a folder, block by block; a run that is killed is repeated.

    clips -> parts of the listing -> blocks of examples -> the network -> a file for each block

One machine does it with `embed_clips_to_folder`, a cluster with `vggish_hf.distributed`, by the
same functions: the batches that the network takes are the same, and so are the rows.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vggish_hf.audio import AudioLimits
from vggish_hf.inputs import Clip
from vggish_hf.modeling.postprocessor import find_postprocess
from vggish_hf.outputs.folder import EmbeddingFolder
from vggish_hf.pipeline import Postprocess, VGGishPipeline

Progress = Callable[[int], None]


@dataclass(frozen=True)
class EmbeddingSummary:
    """What a run did.

    Args:
        clips: How many clips it embedded.
        examples: How many rows these have.
        failed: Clips that could not be read, and why; the next run tries them again.
        too_short: Clips without a whole example.
        skipped: How many clips an earlier run had done.
    """

    clips: int
    examples: int
    failed: dict[str, str]
    too_short: tuple[str, ...]
    skipped: int


def cut_parts(
    clips: Iterable[Clip], pending: Container[str], part_clips: int
) -> Iterator[list[Clip]]:
    """Cut a listing into parts, and leave out clips that need no work.

    The cuts do not depend on what is done: a run that is repeated makes the same parts.

    Args:
        clips: The whole listing.
        pending: The ids of those to work on.
        part_clips: How many clips of the listing make up a part.

    Yields:
        The parts that have any, in order.

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
    """Which clips are to be embedded into a folder, and what has become of them.

    Args:
        clips: All of them, those that an earlier run has done too.
        folder: A new folder, or one of the same weights, options and limits.
        pipeline: What embeds them.
        postprocess: As for calling the pipeline.
        limits: What a clip may be at most.
        progress: Called with how many more clips are done, or have failed.

    Raises:
        ValueError: Two clips have the same id, or the folder holds something else.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        folder: str | Path,
        pipeline: VGGishPipeline,
        postprocess: Postprocess,
        limits: AudioLimits,
        progress: Progress | None = None,
    ) -> None:
        pipeline.check_postprocess(postprocess)
        #: The ids of clips that are not done, and have not failed in this run.
        self.pending = _unique_ids(clips)
        self.folder = EmbeddingFolder(folder)
        self.folder.start(
            job_provenance(pipeline, postprocess, limits),
            pipeline.model.config.embedding_size,
            find_postprocess(postprocess).dtype(),
        )
        self._progress = progress or (lambda _count: None)
        self.pending.difference_update(self.folder.ids())
        self._skipped = len(clips) - len(self.pending)
        self._progress(self._skipped)
        self._embedded = 0
        self._examples = 0
        self._too_short: list[str] = []
        self._failed: dict[str, str] = {}

    def note(self, counts: Mapping[str, int], failed: Mapping[str, str]) -> None:
        """Take note of a block that is written; of clips that were noted before, nothing."""
        new = self.pending.intersection([*counts, *failed])
        self.pending -= new
        self._failed.update((clip, failed[clip]) for clip in new & failed.keys())
        embedded = [count for clip, count in counts.items() if clip in new and count]
        self._embedded += len(embedded)
        self._examples += sum(embedded)
        self._too_short += [clip for clip, count in counts.items() if clip in new and not count]
        self._progress(len(new))

    def finish(self) -> EmbeddingSummary:
        """Put the folder in order and say what was done."""
        self.folder.finish()
        return EmbeddingSummary(
            self._embedded, self._examples, self._failed, tuple(self._too_short), self._skipped
        )


def job_provenance(
    pipeline: VGGishPipeline, postprocess: Postprocess, limits: AudioLimits
) -> dict[str, Any]:
    """What rows depend on: runs that differ in any of it do not share a folder."""
    return {**pipeline.provenance(postprocess), "limits": asdict(limits)}


def _unique_ids(clips: Sequence[Clip]) -> set[str]:
    ids: set[str] = set()
    for clip in clips:
        if clip.id in ids:
            raise ValueError(f"Expected clips of different ids, {clip.id!r} is there twice")
        ids.add(clip.id)
    return ids
