"""Any number of clips of any length as batches of examples, for prediction on any machines.

Worker processes decode in blocks and compute the examples. The device gets full batches of as many
clips as needed; a clip may continue in the next batch.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypedDict, cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits, Decoder, IsolatedDecoders
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.inputs import Clip, SkipHandler, find_clips, make_decoder
from vggish_hf.lightning.data_module import identity_collate
from vggish_hf.pipeline import stream_examples


class ExamplesPart(NamedTuple):
    """Consecutive examples of a clip."""

    id: str
    first_example: int
    """The number of the first one in the clip."""
    examples: Tensor
    """(examples, 96, 64); (0, 96, 64) for a clip without a whole example."""
    is_last: bool
    """Whether the clip has no more."""


class FailedInput(NamedTuple):
    """A clip that cannot be read to its end; its earlier parts do not count."""

    id: str
    reason: str


class ExamplesBatch(TypedDict):
    """Parts of clips.

    - `id`, `num_examples`, `first_example` and `is_last` of each part; see `ExamplesPart`
    - `examples`: (rows, 96, 64), of all parts
    - `failed`: (id, reason) of clips that failed
    """

    id: list[str]
    num_examples: list[int]
    first_example: list[int]
    is_last: list[bool]
    examples: Tensor
    failed: list[FailedInput]


class AudioFileBatches(IterableDataset[ExamplesBatch]):
    """Batches of the examples of clips; each clip is read once.

    Every clip has one reader among the workers of all processes, decided by its position in
    `clips`, whatever is skipped. Each worker decodes in separate processes.

    Args:
        clips: The clips, the same in all processes.
        extractor: Makes the examples; its config decides the padding of short clips.
        batch_size: Examples of a batch; only a worker's last one has fewer.
        dtype: The network's, see `stream_examples`.
        rank: The number of this process.
        world_size: The number of processes.
        skip: Ids of clips to skip.
        limits: Limits of a clip.

    Example:
        >>> batches = AudioFileBatches(find_clips(["gone.wav"]), VGGishFeatureExtractor())
        >>> [batch["failed"] for batch in batches]
        [[FailedInput(id='gone.wav', reason="No such audio file: 'gone.wav'")]]
    """

    def __init__(
        self,
        clips: Iterable[Clip],
        extractor: VGGishFeatureExtractor,
        *,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world_size: int = 1,
        skip: Iterable[str] = (),
        limits: AudioLimits = DEFAULT_LIMITS,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Expected `batch_size` of at least 1, got {batch_size}")
        skipped = frozenset(skip)
        # Skipped clips keep their place, so that workers with other skips divide alike.
        self.clips = [clip for clip in list(clips)[rank::world_size] if clip.id not in skipped]
        self.limits = limits
        self.extractor = extractor
        self.batch_size = batch_size
        self.dtype = dtype

    def __iter__(self) -> Iterator[ExamplesBatch]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        parts: list[ExamplesPart] = []
        failed: list[FailedInput] = []
        rows = 0
        for found in self._read(self.clips[number::workers]):
            if isinstance(found, FailedInput):
                failed.append(found)
            else:
                for part in _divide(found, self.batch_size - rows, self.batch_size):
                    if rows == self.batch_size:
                        yield self._batch(parts, failed)
                        parts, failed, rows = [], [], 0
                    parts.append(part)
                    rows += len(part.examples)
            # Clips without examples have no rows, and must not wait for clips with rows.
            if rows == self.batch_size or len(parts) + len(failed) >= self.batch_size:
                yield self._batch(parts, failed)
                parts, failed, rows = [], [], 0
        if parts or failed:
            yield self._batch(parts, failed)

    def _read(self, clips: Iterable[Clip]) -> Iterator[ExamplesPart | FailedInput]:
        with IsolatedDecoders() as decoders:
            decode = make_decoder(decoders, self.limits)
            for clip in clips:
                yield from self._read_clip(clip, decode)

    def _read_clip(self, clip: Clip, decode: Decoder) -> Iterator[ExamplesPart | FailedInput]:
        first = 0
        latest = self._empty()
        try:
            parts = stream_examples(self.extractor, cast(Any, clip), self.dtype, decode=decode)
            for examples in parts:
                if len(latest):
                    yield ExamplesPart(clip.id, first, latest, is_last=False)
                first += len(latest)
                latest = examples
        except (ValueError, OSError, TypeError) as error:
            yield FailedInput(clip.id, str(error))
        else:
            yield ExamplesPart(clip.id, first, latest, is_last=True)

    def _batch(self, parts: list[ExamplesPart], failed: list[FailedInput]) -> ExamplesBatch:
        return ExamplesBatch(
            id=[part.id for part in parts],
            num_examples=[len(part.examples) for part in parts],
            first_example=[part.first_example for part in parts],
            is_last=[part.is_last for part in parts],
            examples=torch.cat([self._empty(), *(part.examples for part in parts)]),
            failed=failed,
        )

    def _empty(self) -> Tensor:
        config = self.extractor.config
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.empty(0, config.example_frames, config.num_mel_bins, dtype=dtype)


def _divide(part: ExamplesPart, room: int, batch_size: int) -> Iterator[ExamplesPart]:
    """Cut a part into pieces for this batch and for further batches."""
    while len(part.examples) > room:
        yield part._replace(examples=part.examples[:room], is_last=False)
        part = part._replace(first_example=part.first_example + room, examples=part.examples[room:])
        room = batch_size
    yield part


class AudioFilesDataModule(pl.LightningDataModule):  # type: ignore[misc] # untyped
    """Audio to embed on any number of devices and machines.

    Works with `VGGishEmbedder`, and with any module whose `extractor` makes the examples. Each clip
    is read once, by one worker of one process.

    Args:
        inputs: Files, folders, globs, lists, archives, tables and URLs, or one of these, as for
            `vggish_hf.inputs.find_clips`; or clips. The same in all processes.
        batch_size: Examples that the network takes at once.
        num_workers: Processes that read, per device; 0 reads in its own process.
        follow_symlinks: See `find_clips`.
        on_skip: See `find_clips`.
        limits: Limits of a clip; a clip beyond them fails.

    Raises:
        ValueError: An argument is invalid, or has no clip.

    Example:
        >>> data = AudioFilesDataModule(["a.wav", "b.wav", "a.wav"], batch_size=128)
        >>> [clip.id for clip in data.clips]
        ['a.wav', 'b.wav']
    """

    def __init__(
        self,
        inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str] | Clip],
        *,
        batch_size: int = 32,
        num_workers: int = 2,
        follow_symlinks: bool = False,
        on_skip: SkipHandler | None = None,
        limits: AudioLimits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                "Expected `batch_size` of at least 1 and `num_workers` of at least 0, got "
                f"{batch_size} and {num_workers}"
            )
        given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
        self.clips = [clip for clip in given if isinstance(clip, Clip)]
        named = [os.fspath(name) for name in given if not isinstance(name, Clip)]
        if named:
            self.clips += find_clips(named, follow_symlinks=follow_symlinks, on_skip=on_skip)
        self.limits = limits
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._skipped: frozenset[str] = frozenset()

    def skip(self, ids: Iterable[str]) -> None:
        """Skip only these clips in loaders made from now on.

        `VGGishEmbeddingWriter` calls this method in its `setup` with the clips on disk, also on
        your own data modules.

        Args:
            ids: The clips' ids in batches.
        """
        self._skipped = frozenset(ids)

    def predict_dataloader(self) -> DataLoader[ExamplesBatch]:
        """Load the clips of this process.

        Raises:
            ValueError: The Trainer's module has no `extractor`.
        """
        if self.trainer is None:
            raise ValueError("Expected a Trainer; pass this to `Trainer.predict(datamodule=...)`")
        module = self.trainer.lightning_module
        extractor = getattr(module, "extractor", None)
        if not isinstance(extractor, VGGishFeatureExtractor):
            raise ValueError(
                "Expected a module whose `extractor` is a VGGishFeatureExtractor, as that of "
                f"VGGishEmbedder, got {type(module).__name__} with {type(extractor).__name__}"
            )
        is_double = any(weight.dtype == torch.float64 for weight in module.parameters())
        batches = AudioFileBatches(
            self.clips,
            extractor,
            batch_size=self.batch_size,
            dtype=torch.float64 if is_double else torch.float32,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            skip=self._skipped,
            limits=self.limits,
        )
        return DataLoader(
            batches,
            batch_size=None,  # they are batches
            collate_fn=identity_collate,
            num_workers=self.num_workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )
