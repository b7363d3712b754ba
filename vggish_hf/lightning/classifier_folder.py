"""A classifier as a folder, local or on the Hub."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self, Unpack

import torch
from torch import Tensor

from vggish_hf import hub
from vggish_hf._runtime.files import read_json, write_json
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.lightning.classification import ClassificationModule
from vggish_hf.modeling import VGGishModel
from vggish_hf.modeling.loading import load_strictly, save_tensors
from vggish_hf.pipeline import VGGishPipeline
from vggish_hf.training.batch_norm import fold_batch_norm
from vggish_hf.training.heads import HeadConfig

# The type in its config, the same for subclasses, which read each other's configs.
_TYPE = "VGGishClassifier"
# The hyperparameters of a finished classifier; `feature_config` has its own file.
_BUILT_FROM = ("classes", "task", "config", "postprocess", "embedding_size", "head")
_ELSEWHERE = ("feature_config", "pretrained")
# Not in folders of earlier versions.
_OPTIONAL = ("embeddings_from",)

_CARD = """\
---
library_name: vggish-hf
pipeline_tag: audio-classification
tags: [audio, audio-classification, vggish]
---

# An audio classifier on VGGish embeddings

Saved by vggish-hf; {task}, {num_classes} classes, {head}.

```python
from vggish_hf.lightning import VGGishClassifier

classifier = VGGishClassifier.from_pretrained("org/name")  # this repository
for clip in classifier.classify(["a.wav", "b.mp3"]{options}):
    print(clip.label, clip.top(3))
```
"""
# A head without network needs the one that embedded its training data.
_PIPELINE_OPTION = ', pipeline=VGGishPipeline.from_pretrained("google")'


def save_classifier(
    folder: Path,
    hyperparameters: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    extractor: VGGishFeatureExtractor,
) -> None:
    """Write config.json, model.safetensors, preprocessor_config.json and, if none, README.md.

    Args:
        folder: The folder; created if needed.
        hyperparameters: The classifier's arguments.
        tensors: Its weights by name, without batch normalisation.
        extractor: Its front end.

    Raises:
        OSError: The folder cannot be written to.
    """
    training = dict(hyperparameters)
    built_from = {name: training.pop(name) for name in (*_BUILT_FROM, *_OPTIONAL)}
    for name in _ELSEWHERE:
        del training[name]
    folder.mkdir(parents=True, exist_ok=True)
    # The config is removed first and written last: a folder with a config is complete.
    config = folder / hub.CONFIG_NAME
    config.unlink(missing_ok=True)
    save_tensors(dict(tensors), folder / hub.WEIGHTS_NAME)
    extractor.save_pretrained(folder)
    card = folder / hub.CARD_NAME
    if not card.exists():
        content = _CARD.format(
            task=built_from["task"],
            num_classes=len(built_from["classes"]),
            head=HeadConfig.from_dict(built_from["head"]),
            options="" if built_from["config"] is not None else _PIPELINE_OPTION,
        )
        card.write_text(content, encoding="utf-8")
    write_json(config, {"classifier_type": _TYPE, **built_from, "training": training})


class SavedClassifier(NamedTuple):
    """The content of a folder of `save_classifier`."""

    arguments: dict[str, Any]
    """The arguments to make the classifier with."""
    weights: Path
    """The file of its weights, for `load_strictly`."""


def read_classifier(model_id: str | Path, **options: Unpack[hub.HubOptions]) -> SavedClassifier:
    """Find a classifier's folder and read its config.

    Args:
        model_id: The path of a local folder, or a repository's id on the Hub.
        **options: How to fetch from the Hub.

    Raises:
        FileNotFoundError: The folder does not exist, or lacks a file.
        ValueError: It is not a classifier.
    """
    files = (hub.CONFIG_NAME, hub.WEIGHTS_NAME, hub.FEATURE_CONFIG_NAME)
    folder = hub.find_folder(model_id, files, **options)
    path = folder / hub.CONFIG_NAME
    values: dict[str, Any] = read_json(path)
    found = values.pop("classifier_type", None)
    if found != _TYPE:
        raise ValueError(
            f"Expected the config of a {_TYPE} in {str(path)!r}, got "
            + (
                f"that of a {found!r}"
                if found
                else "none of a classifier; `vggish-hf train --output` makes one, VGGishModel "
                "loads VGGish"
            )
        )
    values.pop("training", None)
    if values.keys() - set(_OPTIONAL) != set(_BUILT_FROM):
        raise ValueError(
            f"Expected {', '.join(_BUILT_FROM)} in {str(path)!r}, got {', '.join(values)}"
        )
    extractor = VGGishFeatureExtractor.from_pretrained(folder)
    return SavedClassifier(
        {**values, "feature_config": extractor.config}, folder / hub.WEIGHTS_NAME
    )


class SavableClassifier(ClassificationModule):
    """A classifier that is saved as a folder, and loaded from one.

    Attributes:
        backbone: The network, or None.
        weights_path: The file that `from_pretrained` loaded the weights from.
    """

    backbone: VGGishModel | None
    weights_path: Path | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: torch.device | str = "cpu",
        **options: Unpack[hub.HubOptions],
    ) -> Self:
        """Load a folder of `save_pretrained`, strictly, in evaluation mode.

        Args:
            pretrained_model_name_or_path: The path of a local folder, or a repository's id.
            device: Its device.
            **options: How to fetch from the Hub, see `HubOptions`.

        Raises:
            FileNotFoundError: The folder does not exist, or lacks a file.
            ValueError: It is not a classifier, the config has unknown keys or invalid values, or
                the weights' names or shapes are not the config's; the message lists all.
            TypeError: An option is unknown.
        """
        saved = read_classifier(pretrained_model_name_or_path, **options)
        with torch.device("meta"):
            classifier = cls(**saved.arguments)
        load_strictly(classifier, saved.weights)
        classifier.weights_path = saved.weights
        classifier.to(device).eval()
        return classifier

    def to_pipeline(self) -> VGGishPipeline:
        """Copy the current front end and network without the head.

        Returns:
            A pipeline in evaluation mode. Its `save_pretrained` writes a folder for
            `VGGishPipeline.from_pretrained` and `--model`.

        Raises:
            ValueError: The classifier has no network.
        """
        if self.backbone is None:
            raise ValueError("Expected a classifier with a network, this one is only a head")
        make_plain = fold_batch_norm if self.hparams.batch_norm else copy.deepcopy
        plain: VGGishModel = make_plain(self.backbone)
        return VGGishPipeline(self.extractor, plain.eval())

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write config.json, model.safetensors, preprocessor_config.json and, if none, README.md.

        Args:
            save_directory: The folder; created if needed.

        Raises:
            OSError: The folder cannot be written to.
        """
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        if self.backbone is not None:
            plain = self.to_pipeline().model.state_dict()
            tensors |= {f"backbone.{name}": value for name, value in plain.items()}
        save_classifier(Path(save_directory), self.hparams, tensors, self.extractor)

    def push_to_hub(self, repo_id: str, **options: Unpack[hub.PushOptions]) -> str:
        """Upload the files of `save_pretrained` to a Hub repository in one commit.

        Args:
            repo_id: The repository, `org/name`; created if needed.
            **options: See `PushOptions`.

        Returns:
            The commit's address.
        """
        return hub.push(self.save_pretrained, repo_id, **options)
