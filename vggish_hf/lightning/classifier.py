"""VGGish with a classifier behind it, as a LightningModule."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar, Unpack, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from vggish_hf import hub
from vggish_hf._checks import check_choice
from vggish_hf._version import __version__
from vggish_hf.audio import AudioSource
from vggish_hf.configuration import FromDict, VGGishConfig, VGGishFeatureConfig
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.lightning.classification_scores import ClassificationScores
from vggish_hf.lightning.classified import ClassifiedClip, ClassifiedParts, EvaluatedBatch
from vggish_hf.lightning.classifier_folder import read_classifier, save_classifier
from vggish_hf.modeling import VGGishModel, VGGishPostprocessor
from vggish_hf.modeling.loading import load_strictly
from vggish_hf.pipeline import ErrorHandler, VGGishPipeline
from vggish_hf.training.augmentation import SpecAugment, WaveformAugmentation, mixup
from vggish_hf.training.batch_norm import add_batch_norm, fold_batch_norm
from vggish_hf.training.batches import EmbeddingBatch, Task, WaveformBatch, extract_batch
from vggish_hf.training.heads import HeadConfig, make_head
from vggish_hf.training.losses import classification_loss
from vggish_hf.training.masking import masked_mean
from vggish_hf.training.schedule import WarmupCosine

ClipBatch: TypeAlias = WaveformBatch | EmbeddingBatch
Config = TypeVar("Config", bound=FromDict)


class VGGishClassifier(pl.LightningModule):  # type: ignore[misc] # untyped
    """Front end, VGGish and a head; learns from audio, or the head alone from embeddings.

    Exactly what is asked for is built: weights of a checkpoint for `pretrained`, random ones for
    `config`, and without both no network, but a head for batches of embeddings. A config may be a
    dict of its fields. Nothing is frozen: see `VGGishFinetuning`.

    Logged are `train_loss`, `val_loss`, `test_loss` and, as `val_mAP` and so on, what
    `ClassificationScores` computes.

    Args:
        classes: The names of the classes, in the order of the targets.
        task: Whether a clip has one class or any number of them.
        pretrained: The id of a model, as for `VGGishPipeline.from_pretrained`, to begin with.
        config: The sizes of a network that begins with random weights.
        feature_config: The front end; a dict changes fields of that of the `pretrained` model, or
            of the reference's, either with the padding `"short"` in place of `"none"`.
        batch_norm: Normalise between the convolutions of a random network, which else learns
            slowly from little data; `save_pretrained` makes plain convolutions of it.
        postprocess: `"pca"` if the head takes embeddings that the PCA post-processor has whitened,
            as the released AudioSet embeddings are.
        embedding_size: Width of the embeddings where there is no network.
        head: What maps a clip's embeddings to its classes, see `HeadConfig`; without it a linear
            layer on their mean.
        learning_rate: Of the whole, after warming up; it falls to zero along half a cosine.
        weight_decay: AdamW's.
        warmup_steps: Steps in which the learning rate rises.
        label_smoothing: How much of a target is spread over the classes, from 0 to 1.
        mixup_alpha: Each clip is mixed with another one in a proportion from Beta(alpha, alpha); 0
            for none. See `mixup`.
        gain_db: The most that a clip's level is raised or lowered by in training, dB.
        shift_seconds: The most that a clip is moved by in training, what leaves at one end coming
            back at the other.
        speed: The most that a clip is made faster or slower by in training, as a fraction. See
            `WaveformAugmentation`.
        max_bands: Fewer mel bands than this are silenced in each example in training; 0 for none.
        max_frames: Fewer frames than this are silenced. See `SpecAugment`.

    Raises:
        ValueError: Arguments contradict each other, or one is out of its range.
        FileNotFoundError: There is no such model.

    Attributes:
        extractor: The front end.
        backbone: The network, or None; what `VGGishFinetuning` freezes.

    Example:
        >>> tiny = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16)
        >>> classifier = VGGishClassifier(["dog", "rain"], config=tiny)  # random weights
        >>> batch = WaveformBatch(
        ...     id=["a"],
        ...     waveform=torch.zeros(1, 44_100),
        ...     length=torch.tensor([44_100]),
        ...     sampling_rate=torch.tensor([44_100]),
        ... )
        >>> classifier(batch).shape
        torch.Size([1, 2])
        >>> [clip] = classifier.classify([(torch.zeros(8_000), 8_000)])
        >>> clip.scores.shape
        torch.Size([2])
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
        head: HeadConfig | dict[str, Any] | None = None,
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
        _check_classes(classes)
        check_choice("task", task, Task)
        check_choice("postprocess", postprocess, Literal["none", "pca"])
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"Expected `label_smoothing` from 0 to below 1, got {label_smoothing}")
        self.classes = list(classes)
        self.task: Task = task
        self.postprocess = postprocess
        self.extractor, self.backbone = _make_network(
            pretrained, _make(VGGishConfig, config), feature_config
        )
        if self.backbone is not None:
            VGGishPipeline(self.extractor, self.backbone).check_postprocess(postprocess)
            embedding_size = self.backbone.config.embedding_size
        if batch_norm:
            if config is None or self.backbone is None:
                raise ValueError("Expected `config` for batch_norm=True: other networks have none")
            add_batch_norm(self.backbone)
        head_config = _make(HeadConfig, head) or HeadConfig()
        self.head = make_head(head_config, embedding_size, len(classes))
        self.augment_waveform = WaveformAugmentation(
            gain_db=gain_db, shift_seconds=shift_seconds, speed=speed
        )
        self.augment_examples: nn.Module = nn.Identity()
        if max_bands or max_frames:
            log_offset = self.extractor.config.log_offset
            self.augment_examples = SpecAugment(max_bands, max_frames, log_offset=log_offset)
        # A checkpoint has all weights: what is built again from this needs no Hub to begin with.
        self.save_hyperparameters(
            {
                "classes": self.classes,
                "task": task,
                "pretrained": None,
                "initial_weights": pretrained,
                "config": None if self.backbone is None else asdict(self.backbone.config),
                "feature_config": asdict(self.extractor.config),
                "batch_norm": batch_norm,
                "postprocess": postprocess,
                "embedding_size": embedding_size,
                "head": asdict(head_config),
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
        )

    def forward(self, batch: ClipBatch) -> Tensor:
        """Map a batch of clips to logits (batch, classes)."""
        values, mask = self._inputs(batch)
        logits: Tensor = self.head(self._embed(values, mask), mask)
        return logits

    # What depends on each batch's lengths and rates would be compiled again and again.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _inputs(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Take examples (batch, examples, frames, bands), or embeddings (batch, examples, size)."""
        if "embedding" in batch:
            batch = cast(EmbeddingBatch, batch)
            embedding = batch["embedding"]
            if embedding.dtype == torch.uint8:
                if self.postprocess != "pca":
                    raise ValueError(
                        "Expected postprocess='pca' for embeddings of uint8, which the PCA "
                        f"post-processor has whitened, got {self.postprocess!r}"
                    )
                embedding = VGGishPostprocessor.dequantize(embedding)
            return embedding, batch["mask"]
        if self.backbone is None:
            raise ValueError(
                "Expected batches of embeddings, this classifier has no network for audio; pass "
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

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch."""
        values, mask = self._inputs(batch)
        target = batch["target"]
        if self.hparams.mixup_alpha:
            values, mask, target = mixup(values, mask, target, self.hparams.mixup_alpha)
        logits = self.head(self._embed(values, mask), mask)
        loss = classification_loss(logits, target, self.task, self.hparams.label_smoothing)
        self._log("train_loss", loss, len(target))
        return loss

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> EvaluatedBatch:
        """Take a batch into the scores."""
        return self._evaluate("val_loss", self.val_scores, batch)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> EvaluatedBatch:
        """Take a batch into the scores."""
        return self._evaluate("test_loss", self.test_scores, batch)

    def _evaluate(
        self, loss_name: str, scores: ClassificationScores, batch: ClipBatch
    ) -> EvaluatedBatch:
        values, mask = self._inputs(batch)
        embeddings = self._embed(values, mask)
        logits, target = self.head(embeddings, mask), batch["target"]
        self._log(loss_name, classification_loss(logits, target, self.task), len(target))
        scores.update(logits, target)
        return {"embedding": masked_mean(embeddings, mask), "logits": logits, "target": target}

    def _log(self, name: str, loss: Tensor, batch_size: int) -> None:
        self.log(
            name,
            loss,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=batch_size,
            sync_dist=True,
        )

    def setup(self, stage: str) -> None:
        """Make the scores of each data set."""
        self.val_scores = ClassificationScores(self.task, len(self.classes))
        self.test_scores = ClassificationScores(self.task, len(self.classes))

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val", self.val_scores)

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("test", self.test_scores)

    def _log_scores(self, prefix: str, scores: ClassificationScores) -> None:
        found = scores.compute()
        self.log_dict({f"{prefix}_{name}": found[name] for name in found}, sync_dist=True)
        scores.reset()

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> ClassifiedParts:
        """Embed and score a batch."""
        values, mask = self._inputs(batch)
        embeddings = self._embed(values, mask)
        times = self.extractor.example_times(mask.shape[1]).expand(mask.shape)
        return ClassifiedParts(
            id=batch["id"],
            num_examples=mask.sum(1).tolist(),
            embedding=embeddings[mask],
            start_seconds=times[mask.cpu()],
            scores=self._probabilities(self.head(embeddings, mask)),
        )

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1) if self.task == "single_label" else logits.sigmoid()

    def provenance(self) -> dict[str, Any]:
        """What its embeddings come from, for `VGGishEmbeddingWriter`, but for the weights."""
        return {
            "version": __version__,
            "config": self.hparams.config,
            "feature_config": asdict(self.extractor.config),
            "postprocess": self.postprocess,
        }

    def classify(
        self,
        inputs: Iterable[AudioSource],
        *,
        pipeline: VGGishPipeline | None = None,
        batch_size: int = 32,
        num_workers: int = 2,
        on_error: ErrorHandler | None = None,
    ) -> Iterator[ClassifiedClip]:
        """Score clips of any number, length, rate and format, in evaluation mode.

        Args:
            inputs: The clips, as for calling a pipeline.
            pipeline: What embeds them, for a classifier that learnt from its embeddings; without
                it, the classifier's own network.
            batch_size: As for `VGGishPipeline.stream`, as are
            num_workers: this
            on_error: and this.

        Returns:
            The clips' scores, in the order of the inputs; memory is bounded as the pipeline's is.

        Raises:
            ValueError: There is nothing to embed with, or an argument is refused.
        """
        if pipeline is None:
            if self.backbone is None:
                raise ValueError(
                    "Expected a `pipeline` that embeds the clips: this classifier has no network"
                )
            pipeline = VGGishPipeline(self.extractor, self.backbone)
        self.eval()
        outputs = pipeline.stream(
            inputs,
            postprocess=self.postprocess,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
        )
        return (ClassifiedClip(self._classify(out.embeddings), out.index) for out in outputs)

    @torch.no_grad()
    def _classify(self, embeddings: Tensor) -> Tensor:
        clip = embeddings.to(next(self.head.parameters()))[None]
        mask = torch.ones(clip.shape[:2], dtype=torch.bool, device=clip.device)
        return self._probabilities(self.head(clip, mask))[0].cpu()

    def configure_optimizers(self) -> dict[str, Any]:
        """Make AdamW of what is to be trained, and the schedule of its learning rate."""
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=self.hparams.learning_rate,
            weight_decay=self.hparams.weight_decay,
        )
        steps = self.trainer.estimated_stepping_batches
        schedule = WarmupCosine(optimizer, self.hparams.warmup_steps, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: torch.device | str = "cpu",
        **options: Unpack[hub.HubOptions],
    ) -> Self:
        """Load what `save_pretrained` wrote, strictly, in evaluation mode.

        Args:
            pretrained_model_name_or_path: The path of a local folder, or a repository's id.
            device: Where it runs.
            **options: How to fetch from the Hub, see `HubOptions`.

        Raises:
            FileNotFoundError: There is no such folder, or it lacks a file.
            ValueError: It holds no classifier, the config has unknown keys or refused values, or
                the weights' names or shapes are not those of the config; each one is listed.
            TypeError: There is no such option.
        """
        saved = read_classifier(pretrained_model_name_or_path, **options)
        with torch.device("meta"):
            classifier = cls(**saved.arguments)
        load_strictly(classifier, saved.weights)
        classifier.to(device).eval()
        return classifier

    def network(self) -> VGGishPipeline:
        """Take front end and network without the head: a plain VGGish, as it is now.

        Returns:
            A pipeline of its own copy, in evaluation mode; its `save_pretrained` writes a folder
            that `VGGishPipeline.from_pretrained` and `--model` take.

        Raises:
            ValueError: The classifier has no network.
        """
        if self.backbone is None:
            raise ValueError("Expected a classifier with a network, this one is a head alone")
        make_plain = fold_batch_norm if self.hparams.batch_norm else copy.deepcopy
        plain: VGGishModel = make_plain(self.backbone)
        return VGGishPipeline(self.extractor, plain.eval())

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write config.json, model.safetensors, preprocessor_config.json and, if none, README.md.

        Args:
            save_directory: The folder; made if need be.

        Raises:
            OSError: The folder cannot be written to.
        """
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        if self.backbone is not None:
            plain = self.network().model.state_dict()
            tensors |= {f"backbone.{name}": value for name, value in plain.items()}
        save_classifier(Path(save_directory), self.hparams, tensors, self.extractor)

    def push_to_hub(self, repo_id: str, **options: Unpack[hub.PushOptions]) -> str:
        """Upload what `save_pretrained` writes to a Hub repository in one commit.

        Args:
            repo_id: The repository, `org/name`; made if need be.
            **options: See `PushOptions`.

        Returns:
            The commit's address.
        """
        return hub.push(self.save_pretrained, repo_id, **options)


def _check_classes(classes: Sequence[str]) -> None:
    if isinstance(classes, str) or not classes or not all(isinstance(c, str) for c in classes):
        raise ValueError(f"Expected `classes` to be a list of names, got {classes!r}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"Expected `classes` of different names, got {classes!r}")


def _make(kind: type[Config], values: Config | Mapping[str, Any] | None) -> Config | None:
    return kind.from_dict(dict(values)) if isinstance(values, Mapping) else values


def _make_network(
    pretrained: str | None,
    config: VGGishConfig | None,
    feature_config: VGGishFeatureConfig | Mapping[str, Any] | None,
) -> tuple[VGGishFeatureExtractor, VGGishModel | None]:
    if pretrained is not None and config is not None:
        raise ValueError(
            f"Expected `pretrained` or `config`, got both: the weights of {pretrained!r} have the "
            "sizes of its own config"
        )
    backbone: VGGishModel | None
    if pretrained is not None:
        pipeline = VGGishPipeline.from_pretrained(pretrained)
        extractor, backbone = pipeline.extractor, pipeline.model.train()
    else:
        extractor = VGGishFeatureExtractor(VGGishFeatureConfig(padding="short"))
        backbone = None if config is None else VGGishModel(config)
    if isinstance(feature_config, Mapping):
        # Fields that are not named stay as they are, the padding of short clips among them.
        values = {**asdict(extractor.config), **feature_config}
        feature_config = VGGishFeatureConfig.from_dict(values)
    return extractor if feature_config is None else VGGishFeatureExtractor(feature_config), backbone
