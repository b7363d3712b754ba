"""VGGish with a classifier on top, as a LightningModule."""

from collections.abc import Generator, Iterable
from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from vggish_hf._checks import check_choice
from vggish_hf._version import __version__
from vggish_hf.audio import AudioSource, Decoder, open_audio
from vggish_hf.configuration import VGGishConfig, VGGishFeatureConfig
from vggish_hf.lightning.classification import ClipBatch
from vggish_hf.lightning.classified import ClassifiedClip
from vggish_hf.lightning.classifier_folder import SavableClassifier
from vggish_hf.lightning.classify import classify_clips, warn_of_other_weights
from vggish_hf.lightning.networks import (
    check_classes,
    make_config,
    make_head_config,
    make_network,
)
from vggish_hf.pipeline import ErrorHandler, VGGishPipeline
from vggish_hf.training.augmentation import SpecAugment, WaveformAugmentation
from vggish_hf.training.batch_norm import add_batch_norm
from vggish_hf.training.batches import EmbeddingBatch, Task, extract_batch
from vggish_hf.training.embedding_values import embedding_floats
from vggish_hf.training.heads import HeadConfig, HeadKind, make_head
from vggish_hf.training.plain import to_plain


class VGGishClassifier(SavableClassifier):
    """Front end, VGGish and a head; learns from audio, or only the head from embeddings.

    `pretrained` loads a network, `config` makes one with random weights; without both the
    classifier is a head for batches of embeddings. A config may be a dict of its fields. Nothing is
    frozen: see `VGGishFinetuning`. For logged values see `ClassificationModule`.

    Values may be of numpy or torch, paths may be `Path`s: hyperparameters are stored as plain
    Python, so that checkpoints load with `weights_only=True`.

    Args:
        classes: The names of the classes, in the order of the targets.
        task: Whether a clip has one class or any number of them.
        pretrained: The id of a model to start from, as for `VGGishPipeline.from_pretrained`.
        config: The sizes of a network with random weights.
        feature_config: The front end. A dict changes fields of the `pretrained` model's, or of the
            reference's, both with the padding `"short"` instead of `"none"`.
        batch_norm: Normalise after the convolutions of a random network, which otherwise learns
            slowly from little data; `save_pretrained` folds it into plain convolutions.
        postprocess: `"pca"` if the head takes embeddings whitened by the PCA post-processor, like
            the released AudioSet embeddings.
        embedding_size: Width of the embeddings without a network.
        embeddings_from: The `VGGishPipeline.provenance` of the embeddings that a head learns from;
            the default is the data module's.
        head: Maps a clip's embeddings to its classes: a `HeadConfig`, or only its kind; the default
            is a linear layer on their mean.
        learning_rate: The peak, after the warm-up; it falls to zero along half a cosine.
        weight_decay: AdamW's.
        warmup_steps: Steps in which the learning rate rises.
        label_smoothing: The share of a target to spread over the classes, from 0 to 1.
        mixup_alpha: Mix each clip with another one in a proportion from Beta(alpha, alpha); 0 for
            none. See `mixup`.
        gain_db: The most to raise or lower a clip's level in training, dB.
        shift_seconds: The most to shift a clip in training; samples that leave at one end return at
            the other.
        speed: The most to speed a clip up or slow it down in training, as a fraction. See
            `WaveformAugmentation`.
        max_bands: Silence fewer mel bands than this in each example in training; 0 for none.
        max_frames: Silence fewer frames than this. See `SpecAugment`.

    Raises:
        ValueError: Arguments contradict each other, or one is out of range.
        FileNotFoundError: The model does not exist.

    Attributes:
        extractor: The front end.
        backbone: The network, or None; `VGGishFinetuning` freezes it.

    Example:
        >>> tiny = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16)
        >>> classifier = VGGishClassifier(["dog", "rain"], config=tiny)  # random weights
        >>> [clip] = classifier.classify([(torch.zeros(8_000), 8_000)])
        >>> clip.label in ("dog", "rain")
        True
    """

    def __init__(
        self,
        classes: list[str],
        task: Task = "single_label",
        *,
        pretrained: str | None = None,
        config: VGGishConfig | dict[str, Any] | None = None,
        feature_config: VGGishFeatureConfig | dict[str, Any] | None = None,
        batch_norm: bool = False,
        postprocess: Literal["none", "pca"] = "none",
        embedding_size: int = VGGishConfig().embedding_size,
        embeddings_from: dict[str, Any] | None = None,
        head: HeadConfig | dict[str, Any] | HeadKind | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        gain_db: float = 0.0,
        shift_seconds: float = 0.0,
        speed: float = 0.0,
        max_bands: int = 0,
        max_frames: int = 0,
    ) -> None:
        super().__init__()
        # Simple values become plain here, nested ones where they are made.
        given = {
            "batch_norm": batch_norm,
            "embeddings_from": embeddings_from,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "label_smoothing": label_smoothing,
            "mixup_alpha": mixup_alpha,
            "gain_db": gain_db,
            "shift_seconds": shift_seconds,
            "speed": speed,
            "max_bands": max_bands,
            "max_frames": max_frames,
        }
        plain = {name: to_plain(value, name) for name, value in given.items()}
        self.classes = classes = check_classes(classes)
        task, postprocess, pretrained = map(to_plain, (task, postprocess, pretrained))
        check_choice("task", task, Task)
        check_choice("postprocess", postprocess, Literal["none", "pca"])
        if not 0 <= plain["label_smoothing"] < 1:
            raise ValueError(f"Expected `label_smoothing` from 0 to below 1, got {label_smoothing}")
        self.task = task
        self.postprocess = postprocess
        self.extractor, self.backbone = make_network(
            pretrained, make_config("config", VGGishConfig, config), feature_config
        )
        embedding_size = to_plain(embedding_size)
        if self.backbone is not None:
            VGGishPipeline(self.extractor, self.backbone).check_postprocess(postprocess)
            embedding_size = self.backbone.config.embedding_size
        if plain["batch_norm"]:
            if config is None or self.backbone is None:
                raise ValueError("batch_norm=True needs `config`: other networks have none")
            add_batch_norm(self.backbone)
        head_config = make_head_config(head)
        self.head = make_head(head_config, embedding_size, len(self.classes))
        self.augment_waveform = WaveformAugmentation(
            gain_db=plain["gain_db"], shift_seconds=plain["shift_seconds"], speed=plain["speed"]
        )
        self.augment_examples: nn.Module = nn.Identity()
        if plain["max_bands"] or plain["max_frames"]:
            self.augment_examples = SpecAugment(
                plain["max_bands"],
                plain["max_frames"],
                log_offset=self.extractor.config.log_offset,
            )
        # A checkpoint has all weights, so rebuilding from this needs no Hub.
        self.save_hyperparameters(
            {
                "classes": self.classes,
                "task": task,
                "pretrained": None,
                "initial_weights": pretrained,
                "config": None if self.backbone is None else to_plain(self.backbone.config),
                "feature_config": to_plain(self.extractor.config),
                "postprocess": postprocess,
                "embedding_size": embedding_size,
                "head": to_plain(head_config),
                **plain,
            }
        )

    # Code that depends on each batch's lengths and rates would be recompiled repeatedly.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _inputs(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Give examples (batch, examples, frames, bands) or embeddings (batch, examples, size)."""
        if "embedding" in batch:
            batch = cast(EmbeddingBatch, batch)
            mask = batch["mask"]
            floats = embedding_floats(batch["embedding"], mask, whitened=self.postprocess == "pca")
            return floats.to(next(self.head.parameters()).dtype), mask
        if self.backbone is None:
            raise ValueError(
                "Expected batches of embeddings: this classifier has no network for audio; pass "
                "`pretrained` or `config`"
            )
        return extract_batch(self.extractor, self.augment_waveform(batch))

    def _embed(self, values: Tensor, mask: Tensor) -> Tensor:
        """Embed examples: (batch, examples, size), zeros where the mask is False."""
        if values.ndim == 3 or self.backbone is None:
            return values
        rows: Tensor = self.backbone(self.augment_examples(values[mask]))
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if self.postprocess == "pca" and self.backbone.postprocessor is not None:
            with torch.autocast(rows.device.type, enabled=False):
                rows = self.backbone.postprocessor(rows)
        return rows.new_zeros(*mask.shape, rows.shape[1]).index_put((mask,), rows)

    def setup(self, stage: str) -> None:
        """Check the precision, and note the provenance of training embeddings."""
        super().setup(stage)
        if stage == "fit" and self.backbone is None and self.hparams.embeddings_from is None:
            found = getattr(self.trainer.datamodule, "provenance", None)
            self.hparams.embeddings_from = to_plain(found, "provenance")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the classes.

        Raises:
            ValueError: The checkpoint has other classes.
        """
        found = checkpoint.get("hyper_parameters", {}).get("classes", self.classes)
        if found != self.classes:
            missing = [name for name in self.classes if name not in found]
            additional = [name for name in found if name not in self.classes]
            raise ValueError(
                "Expected a checkpoint of the same classes, got one "
                + (f"without {', '.join(map(repr, missing))}" if missing else "")
                + (" and " if missing and additional else "")
                + (f"with {', '.join(map(repr, additional))}" if additional else "")
                + ("" if missing or additional else f"of another order: {found}")
            )

    def provenance(self) -> dict[str, Any]:
        """How its embeddings are made, for `VGGishEmbeddingWriter`, without the weights."""
        return {
            "version": __version__,
            "config": self.hparams.config,
            "feature_config": asdict(self.extractor.config),
            "postprocess": self.postprocess,
        }

    def classify(
        self,
        inputs: AudioSource | Iterable[Any],
        *,
        pipeline: VGGishPipeline | None = None,
        batch_size: int = 32,
        num_workers: int = 2,
        on_error: ErrorHandler | None = None,
        decode: Decoder = open_audio,
    ) -> Generator[ClassifiedClip, None, None]:
        """Score any number of clips of any length, rate and format, in evaluation mode.

        Args:
            inputs: The clips, or one clip, as for calling a pipeline, or for `decode`.
            pipeline: Embeds them, for a classifier that learnt from its embeddings; the default is
                the classifier's own network.
            batch_size: See `VGGishPipeline.stream`.
            num_workers: See `VGGishPipeline.stream`.
            on_error: See `VGGishPipeline.stream`; a clip without a whole example is a
                `TooShortError`.
            decode: See `VGGishPipeline.stream`.

        Returns:
            The clips' scores, in the order of the inputs, in bounded memory.

        Raises:
            ValueError: There is no network to embed with, or an argument is invalid.

        Warns:
            UserWarning: `pipeline` has other weights than in the classifier's training.
        """
        if pipeline is None:
            if self.backbone is None:
                raise ValueError(
                    "Expected a `pipeline` that embeds the clips: this classifier has no network"
                )
            pipeline = VGGishPipeline(self.extractor, self.backbone)
        else:
            warn_of_other_weights(pipeline, self.hparams.embeddings_from)
        self.eval()
        return classify_clips(
            inputs,
            pipeline,
            self._classify,
            self.classes,
            on_error=on_error,
            postprocess=self.postprocess,
            batch_size=batch_size,
            num_workers=num_workers,
            decode=decode,
        )

    @torch.no_grad()
    def _classify(self, embeddings: Tensor) -> Tensor:
        clip = embeddings.to(next(self.head.parameters()))[None]
        mask = torch.ones(clip.shape[:2], dtype=torch.bool, device=clip.device)
        return self._probabilities(self.head(clip, mask))[0].cpu()
