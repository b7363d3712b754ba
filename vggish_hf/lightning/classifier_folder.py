"""A classifier as a folder, on this machine or on the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import torch

from vggish_hf import hub
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.lightning.heads import HeadConfig
from vggish_hf.modeling.loading import load_strictly, save_tensors

if TYPE_CHECKING:
    from vggish_hf.lightning.classifier import VGGishClassifier

Classifier = TypeVar("Classifier", bound="VGGishClassifier")

# What its config calls it, subclasses included: they read each other's.
_TYPE = "VGGishClassifier"
# The hyperparameters that a finished classifier is built from; `feature_config` has its own file.
_BUILT_FROM = ("classes", "task", "config", "postprocess", "embedding_size", "head")
_ELSEWHERE = ("feature_config", "pretrained")

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
    print(classifier.classes[clip.scores.argmax()], clip.scores.max())
```
"""
# A head alone needs what embeds as its training data were embedded.
_PIPELINE_OPTION = ', pipeline=VGGishPipeline.from_pretrained("google")'


def save_classifier(classifier: "VGGishClassifier", folder: Path) -> None:
    """Write config.json, model.safetensors, preprocessor_config.json and, if none, README.md.

    Args:
        classifier: The classifier; batch normalisation becomes part of the convolutions.
        folder: The folder; made if need be.

    Raises:
        OSError: The folder cannot be written to.
    """
    hparams = dict(classifier.hparams)
    built_from = {name: hparams.pop(name) for name in _BUILT_FROM}
    training = {name: value for name, value in hparams.items() if name not in _ELSEWHERE}
    tensors = {f"head.{name}": value for name, value in classifier.head.state_dict().items()}
    if classifier.backbone is not None:
        backbone = classifier.network().model
        tensors |= {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    # First and last, so that a folder with a config is whole.
    config = folder / hub.CONFIG_NAME
    config.unlink(missing_ok=True)
    save_tensors(tensors, folder / hub.WEIGHTS_NAME)
    classifier.extractor.save_pretrained(folder)
    card = folder / hub.CARD_NAME
    if not card.exists():
        content = _CARD.format(
            task=classifier.task,
            num_classes=len(classifier.classes),
            head=HeadConfig.from_dict(built_from["head"]),
            options="" if classifier.backbone is not None else _PIPELINE_OPTION,
        )
        card.write_text(content, encoding="utf-8")
    hub.write_json(config, {"classifier_type": _TYPE, **built_from, "training": training})


def load_classifier(
    kind: type[Classifier], model_id: str | Path, **options: Unpack[hub.HubOptions]
) -> Classifier:
    """Build a classifier of what `save_classifier` wrote, strictly.

    Args:
        kind: The class to build.
        model_id: The path of a local folder, or a repository's id on the Hub.
        **options: How to fetch from the Hub.

    Raises:
        FileNotFoundError: There is no such folder, or it lacks a file.
        ValueError: It holds no classifier, or one that does not fit its config.
    """
    files = (hub.CONFIG_NAME, hub.WEIGHTS_NAME, hub.FEATURE_CONFIG_NAME)
    folder = hub.find_folder(model_id, files, **options)
    path = folder / hub.CONFIG_NAME
    values: dict[str, Any] = hub.read_json(path)
    found = values.pop("classifier_type", None)
    if found != _TYPE:
        raise ValueError(
            f"Expected the config of a {_TYPE} in {str(path)!r}, got "
            + (
                f"that of a {found!r}"
                if found
                else "none of a classifier; VGGishModel loads VGGish"
            )
        )
    values.pop("training", None)
    if values.keys() != set(_BUILT_FROM):
        raise ValueError(
            f"Expected {', '.join(_BUILT_FROM)} in {str(path)!r}, got {', '.join(values)}"
        )
    extractor = VGGishFeatureExtractor.from_pretrained(folder)
    with torch.device("meta"):
        classifier = kind(**values, feature_config=extractor.config)
    load_strictly(classifier, folder / hub.WEIGHTS_NAME)
    return classifier
