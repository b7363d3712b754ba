"""Write predictions to a resumable folder of Parquet files, from any number of devices."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from vggish_hf._version import __version__
from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.lightning._predictions import ClipAssembler, read_prediction
from vggish_hf.outputs.folder import EmbeddingFolder
from vggish_hf.pipeline import VGGishOutput
from vggish_hf.provenance import state_sha256

# This many rows end a part, however few clips it has: 64 MiB of float32.
_PART_ROWS = 1 << 17
_NAMED_FAILURES = 10


@runtime_checkable
class SkipsInputs(Protocol):
    """A data module that can skip inputs."""

    def skip(self, ids: Iterable[str]) -> None:
        """Skip only these inputs."""


class VGGishEmbeddingWriter(BasePredictionWriter):  # type: ignore[misc] # untyped
    """Writes the results of `predict_step` into a folder of embeddings, see `EmbeddingFolder`.

    Every process writes its own files, which appear only when complete; all machines must share the
    folder. At the end each input is in the folder once, even if a sampler gave it to two processes.
    Start a killed run again to resume it: the writer calls the data module's `skip` with the ids on
    disk, or without such a method does not write their rows again. Failed inputs are tried again.

    Pass `return_predictions=False` to `Trainer.predict`, else the Trainer keeps all predictions in
    memory; the writer keeps at most one file per process.

    A prediction is a dict of `EmbeddedParts`. Your own module only needs `id` (a list of str) and
    `embedding` (rows, size), and `num_examples` unless each id has one row. Without `first_example`
    and `is_last` an id is complete; `start_seconds` defaults to the hop of the module's `extractor`
    (or of the reference). A module's method `provenance` says how its embeddings are made; without
    it, the digest of its weights is stored. A folder of a module that has neither cannot be
    resumed: whether it is the same module is unknown.

    Args:
        folder: The output: a new folder, or one of the same weights and options.
        clips_per_part: Clips per part; an interruption loses at most one part per process.
        merge: Merge all parts into one file at the end, sorted by id.

    Raises:
        ValueError: `clips_per_part` is less than one, or the folder has other content.

    Example:
        >>> writer = VGGishEmbeddingWriter("embeddings", merge=True)
        >>> trainer = pl.Trainer(callbacks=[writer])  # doctest: +SKIP
        >>> trainer.predict(module, data, return_predictions=False)  # doctest: +SKIP
    """

    def __init__(
        self, folder: str | Path, *, clips_per_part: int = 1024, merge: bool = False
    ) -> None:
        super().__init__("batch")
        if clips_per_part < 1:
            raise ValueError(f"Expected `clips_per_part` of at least 1, got {clips_per_part}")
        self.folder = EmbeddingFolder(folder)
        self._lock = ExitStack()
        self.clips_per_part = clips_per_part
        self.merge = merge

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Read the inputs on disk; no process writes before all have done so."""
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        data = trainer.datamodule
        self._done: frozenset[str] = frozenset()
        if isinstance(data, SkipsInputs):
            data.skip(self.folder.completed_ids())
        else:
            self._done = frozenset(self.folder.completed_ids())
        self._assembler = ClipAssembler()
        self._is_started = False
        self._start_part()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the weights, possibly loaded since `setup`, with the folder's.

        Raises:
            ValueError: The folder has other weights.
            OSError: Another job writes to it.
        """
        # Sharded weights have a digest per process: the first one's counts.
        self._provenance = trainer.strategy.broadcast(_provenance(pl_module))
        self.folder.check(self._provenance)
        self._lock_folder(trainer)
        # Lightning warns about every loader without a sampler, for writers of batch indices.
        warnings.filterwarnings("ignore", "Couldn't infer the batch indices fetched")

    def _lock_folder(self, trainer: pl.Trainer) -> None:
        """Keep other jobs from the folder: one process holds the lock for the whole job."""
        problem = None
        if trainer.is_global_zero:
            try:
                self._lock.enter_context(self.folder.lock())
            except OSError as error:
                problem = str(error)
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise OSError(problem)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Release the folder."""
        self._lock.close()

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Mapping[str, Any] | None,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Collect the rows of a batch, and write a part when there are enough clips.

        A step may return None to write nothing.

        Raises:
            ValueError: The prediction is invalid, or has another size than the folder.
        """
        if prediction is None:
            return
        parts = read_prediction(prediction, _hop_seconds(pl_module))
        if not self._is_started:
            embedding = prediction["embedding"]
            dtype = torch.uint8 if embedding.dtype == torch.uint8 else torch.float32
            self.folder.start(self._provenance, embedding.shape[1], dtype)
            self._is_started = True
        for clip, output in self._assembler.add(parts):
            if clip not in self._done:
                self._clips[clip] = output
                self._rows += len(output.embeddings)
                self._write_full_part(trainer.global_rank)
        for clip, reason in prediction.get("failed", ()):
            self._assembler.discard(clip)
            self._failed[clip] = reason
            self._write_full_part(trainer.global_rank)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last part, and clean up the folder in one process."""
        self._write_part(trainer.global_rank)
        trainer.strategy.barrier("all parts are written")
        if trainer.is_global_zero and self.folder.manifest is not None:
            self._report(self.folder.finish(merge=self.merge))
        self._lock.close()
        trainer.strategy.barrier("the folder is in order")

    def _start_part(self) -> None:
        self._clips: dict[str, VGGishOutput] = {}
        self._failed: dict[str, str] = {}
        self._rows = 0

    def _write_full_part(self, rank: int) -> None:
        clips = len(self._clips) + len(self._failed)
        if clips >= self.clips_per_part or self._rows >= _PART_ROWS:
            self._write_part(rank)

    def _write_part(self, rank: int) -> None:
        if self._clips or self._failed:
            self.folder.write_part(self._clips, self._failed, rank=rank)
            self._start_part()

    def _report(self, embedded: int) -> None:
        failed = self.folder.failed()
        lines = [f"{embedded} clips in {self.folder.path}, {len(failed)} failed"]
        lines += [f"failed: {clip}: {failed[clip]}" for clip in sorted(failed)[:_NAMED_FAILURES]]
        if len(failed) > _NAMED_FAILURES:
            lines.append(f"all that failed: {self.folder.failed_path}")
        rank_zero_info("\n".join(lines))


def _provenance(module: pl.LightningModule) -> dict[str, Any]:
    """A module's own provenance, plus the digest of weights without a file."""
    provenance = getattr(module, "provenance", None)
    kind = type(module)
    found: dict[str, Any] = (
        {"version": __version__, "module": f"{kind.__module__}.{kind.__qualname__}"}
        if provenance is None
        else provenance()
    )
    # Without any values the digest would be the same for every module.
    if found.get("weights_sha256") is None and (state := module.state_dict()):
        found["state_sha256"] = state_sha256(state)
    return found


def _hop_seconds(module: pl.LightningModule) -> float:
    """Distance between two examples: that of the module's front end, or of the reference's."""
    config = getattr(getattr(module, "extractor", None), "config", VGGishFeatureConfig())
    return float(config.example_hop_length / config.sampling_rate)
