"""VGGish as a LightningModule that embeds on many devices and machines."""

from pathlib import Path
from typing import Any, TypedDict

import lightning.pytorch as pl
import torch
from torch import Tensor

from vggish_hf.lightning.audio_files import ExamplesBatch, FailedInput
from vggish_hf.pipeline import Postprocess, VGGishPipeline


class EmbeddedParts(TypedDict):
    """The rows of parts of clips, for `VGGishEmbeddingWriter`.

    - `id`: of each part
    - `num_examples`, `first_example` and `is_last` of each part: the number of its rows, the number
      of the first one in its clip, and whether the clip ends with it
    - `embedding`: (rows, size), on the CPU, of all parts
    - `start_seconds`: (rows,), float64, start of each example in its clip
    - `failed`: (id, reason) of clips that failed; their parts do not count
    """

    id: list[str]
    num_examples: list[int]
    first_example: list[int]
    is_last: list[bool]
    embedding: Tensor
    start_seconds: Tensor
    failed: list[FailedInput]


class VGGishEmbedder(pl.LightningModule):  # type: ignore[misc] # untyped
    """Embeds like a `VGGishPipeline`; only for `Trainer.predict`.

    Args:
        pipeline: The extractor and the model, or the id of a model for
            `VGGishPipeline.from_pretrained`.
        postprocess: As for calling the pipeline.

    Raises:
        ValueError: The model has no post-processor; or errors of loading.

    Example:
        >>> trainer = pl.Trainer(  # doctest: +SKIP
        ...     devices=8, strategy="ddp", callbacks=[VGGishEmbeddingWriter("embeddings")]
        ... )
        >>> embedder = VGGishEmbedder("google", postprocess="uint8")  # doctest: +SKIP
        >>> data = AudioFilesDataModule(["music/"], batch_size=256)  # doctest: +SKIP
        >>> trainer.predict(embedder, data, return_predictions=False)  # doctest: +SKIP
    """

    def __init__(
        self, pipeline: VGGishPipeline | str | Path, *, postprocess: Postprocess = "none"
    ) -> None:
        super().__init__()
        if not isinstance(pipeline, VGGishPipeline):
            pipeline = VGGishPipeline.from_pretrained(pipeline)
        pipeline.check_postprocess(postprocess)
        self.pipeline = pipeline
        self.model = pipeline.model
        self.extractor = pipeline.extractor
        self.postprocess: Postprocess = postprocess

    def provenance(self) -> dict[str, Any]:
        """How the embeddings are made, see `VGGishPipeline.provenance`."""
        return self.pipeline.provenance(self.postprocess)

    def setup(self, stage: str) -> None:
        """Check that the Trainer computes in the provenance's precision.

        Raises:
            ValueError: Its precision is a mixed one.
        """
        precision = self.trainer.precision
        if str(precision).endswith("-mixed"):
            raise ValueError(
                f"Expected a Trainer of a precision that ends in '-true', got {precision!r}; load "
                "the pipeline with `dtype=torch.bfloat16` to make the network fast"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are not in `provenance`.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "Expected no `ckpt_path`: VGGishEmbedder embeds with its pipeline's weights; save "
            "others with `VGGishModel.save_pretrained` and load a pipeline from there"
        )

    def predict_step(
        self, batch: ExamplesBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> EmbeddedParts:
        """Embed a batch."""
        times = [
            self.extractor.example_times(count, first)
            for first, count in zip(batch["first_example"], batch["num_examples"], strict=True)
        ]
        return EmbeddedParts(
            id=batch["id"],
            num_examples=batch["num_examples"],
            first_example=batch["first_example"],
            is_last=batch["is_last"],
            embedding=self.pipeline.embed_examples(batch["examples"], self.postprocess),
            start_seconds=torch.cat([torch.empty(0, dtype=torch.float64), *times]),
            failed=batch["failed"],
        )
