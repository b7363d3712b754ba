"""Audio files of any number and length as batches of examples, for prediction on any machines.

Worker processes decode in blocks and compute the examples; the device gets full batches, whose rows
are of as many files as it takes, and a file may go on in the next batch.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypedDict

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.inputs import readable_id
from vggish_hf.pipeline import stream_examples


class ExamplesPart(NamedTuple):
    """Consecutive examples of a file."""

    id: str
    first_example: int
    """The number of the first of them in the file."""
    examples: Tensor
    """(examples, 96, 64); none where the file holds no whole example."""
    is_last: bool
    """Whether the file has no more."""


class FailedInput(NamedTuple):
    """A file that cannot be read, or not to its end; the parts that it gave do not count."""

    id: str
    reason: str


class ExamplesBatch(TypedDict):
    """Parts of files.

    - `id`: of each part, as are
    - `num_examples`, `first_example` and `is_last`; see `ExamplesPart`
    - `examples`: (rows, 96, 64), those of all parts
    - `failed`: (id, reason) of files
    """

    id: list[str]
    num_examples: list[int]
    first_example: list[int]
    is_last: list[bool]
    examples: Tensor
    failed: list[FailedInput]


class AudioFileBatches(IterableDataset[ExamplesBatch]):
    """Batches of the examples of audio files, each of which is read once.

    Among the processes and the workers of their loaders every file has one reader: which one is
    decided by its place among `paths`, whatever is skipped.

    Args:
        paths: The files, the same in all processes.
        extractor: What makes the examples; its config's padding says what becomes of short files.
        batch_size: Examples of a batch; only the last of a worker has less.
        dtype: The network's, see `stream_examples`.
        rank: Which process this is.
        world_size: How many there are.
        skip: Ids of files that are left out, see `readable_id`.

    Example:
        >>> batches = AudioFileBatches(["gone.wav"], VGGishFeatureExtractor())
        >>> [batch["failed"] for batch in batches]
        [[FailedInput(id='gone.wav', reason="Expected an audio file, there is none at 'gone.wav'")]]
    """

    def __init__(
        self,
        paths: Iterable[str],
        extractor: VGGishFeatureExtractor,
        *,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world_size: int = 1,
        skip: Iterable[str] = (),
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Expected `batch_size` of at least 1, got {batch_size}")
        skipped = frozenset(skip)
        self.paths = [
            path for path in list(paths)[rank::world_size] if readable_id(path) not in skipped
        ]
        self.extractor = extractor
        self.batch_size = batch_size
        self.dtype = dtype

    def __iter__(self) -> Iterator[ExamplesBatch]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        parts: list[ExamplesPart] = []
        failed: list[FailedInput] = []
        rows = 0
        for found in self._read(self.paths[number::workers]):
            if isinstance(found, FailedInput):
                failed.append(found)
            else:
                for part in _divide(found, self.batch_size - rows, self.batch_size):
                    if rows == self.batch_size:
                        yield self._batch(parts, failed)
                        parts, failed, rows = [], [], 0
                    parts.append(part)
                    rows += len(part.examples)
            # Files without examples fill no rows, and must not wait for those that do.
            if rows == self.batch_size or len(parts) + len(failed) >= self.batch_size:
                yield self._batch(parts, failed)
                parts, failed, rows = [], [], 0
        if parts or failed:
            yield self._batch(parts, failed)

    def _read(self, paths: Iterable[str]) -> Iterator[ExamplesPart | FailedInput]:
        for path in paths:
            clip = readable_id(path)
            first = 0
            latest = self._empty()
            try:
                for examples in stream_examples(self.extractor, path, self.dtype):
                    if len(latest):
                        yield ExamplesPart(clip, first, latest, is_last=False)
                    first += len(latest)
                    latest = examples
            except (ValueError, OSError, TypeError) as error:
                yield FailedInput(clip, str(error))
            else:
                yield ExamplesPart(clip, first, latest, is_last=True)

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
    """Cut a part into what a batch has room for and what fills further batches."""
    while len(part.examples) > room:
        yield part._replace(examples=part.examples[:room], is_last=False)
        part = part._replace(first_example=part.first_example + room, examples=part.examples[room:])
        room = batch_size
    yield part


class AudioFilesDataModule(pl.LightningDataModule):  # type: ignore[misc] # untyped
    """Audio files to embed, by any number of devices on any number of machines.

    Made for `VGGishEmbedder`, and for any module that has an `extractor`, which is asked what
    examples to make. Each file is read by one worker of one process, once; nothing is padded.

    Args:
        paths: The files, as `vggish_hf.inputs.find_inputs` lists them; the same in all processes.
        batch_size: Examples that the network takes at once.
        num_workers: Processes that decode, for each device; none of them means in its own.

    Raises:
        ValueError: An argument is refused.

    Example:
        >>> data = AudioFilesDataModule(["a.wav", "b.wav", "a.wav"], batch_size=128)
        >>> data.paths
        ['a.wav', 'b.wav']
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        batch_size: int = 32,
        num_workers: int = 2,
    ) -> None:
        super().__init__()
        if isinstance(paths, str):
            raise ValueError(f"Expected a list of paths, got {paths!r}; see `find_inputs`")
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                "Expected `batch_size` of at least 1 and `num_workers` of at least 0, got "
                f"{batch_size} and {num_workers}"
            )
        self.paths = list(dict.fromkeys(os.fspath(path) for path in paths))
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._skipped: frozenset[str] = frozenset()

    def skip(self, ids: Iterable[str]) -> None:
        """Leave out files in loaders made from now on, in place of what was left out before.

        `VGGishEmbeddingWriter` calls it with what it finds on disk, in its `setup`; a data module
        of one's own that has such a method is called too.

        Args:
            ids: The files, by the ids that they have in batches; see `readable_id`.
        """
        self._skipped = frozenset(ids)

    def predict_dataloader(self) -> DataLoader[ExamplesBatch]:
        """Load the files of this process.

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
            self.paths,
            extractor,
            batch_size=self.batch_size,
            dtype=torch.float64 if is_double else torch.float32,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            skip=self._skipped,
        )
        return DataLoader(
            batches,
            batch_size=None,  # they are batches
            collate_fn=_unchanged,
            num_workers=self.num_workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )


def _unchanged(batch: Any) -> Any:
    """In place of torch's own conversion, which makes lists of named tuples' fields."""
    return batch
