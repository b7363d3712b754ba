"""Build a classifier's parts: checked names, configs, front end and network."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from vggish_hf.configuration import FromDict, VGGishConfig, VGGishFeatureConfig
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.modeling import VGGishModel
from vggish_hf.pipeline import VGGishPipeline
from vggish_hf.training.heads import HeadConfig
from vggish_hf.training.plain import to_plain

Config = TypeVar("Config", bound=FromDict)


def check_classes(classes: Any) -> list[str]:
    """Return the names of classes as a list of str.

    Raises:
        ValueError: They are not a list of different names.
    """
    if not isinstance(classes, (str, bytes, Mapping)):
        names = to_plain(classes, "classes")
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            if len(set(names)) < len(names):
                raise ValueError(f"Expected `classes` of different names, got {names!r}")
            return names
    raise ValueError(
        f"Expected `classes` to be a list of names such as ['dog', 'rain'], got {classes!r}"
    )


def make_config(
    name: str, kind: type[Config], values: Config | Mapping[str, Any] | None
) -> Config | None:
    """Make a config from a dict of its fields, which may be numpy or torch values.

    Raises:
        ValueError: It is neither a config nor such a dict, or a value is invalid.
    """
    if values is None:
        return None
    if not isinstance(values, (kind, Mapping)):
        raise ValueError(
            f"Expected `{name}` to be a {kind.__name__} or a dict of its fields, got {values!r}"
        )
    return kind.from_dict(to_plain(values, name))


def make_head_config(head: HeadConfig | Mapping[str, Any] | str | None) -> HeadConfig:
    """Make the config of a head; its kind alone is enough.

    Raises:
        ValueError: See `make_config`.
    """
    if isinstance(head, str):
        return HeadConfig(to_plain(head))
    return make_config("head", HeadConfig, head) or HeadConfig()


def make_network(
    pretrained: str | None,
    config: VGGishConfig | None,
    feature_config: VGGishFeatureConfig | Mapping[str, Any] | None,
) -> tuple[VGGishFeatureExtractor, VGGishModel | None]:
    """Make the front end and the network, with a checkpoint's weights or random ones.

    Args:
        pretrained: The id of a model.
        config: Instead, the sizes of a random network; without both there is no network.
        feature_config: The front end; see `VGGishClassifier`.

    Raises:
        ValueError: Both are given, or a config is invalid.
    """
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
        # Other fields keep their values, including the padding of short clips.
        feature_config = {**asdict(extractor.config), **feature_config}
    found = make_config("feature_config", VGGishFeatureConfig, feature_config)
    return extractor if found is None else VGGishFeatureExtractor(found), backbone
