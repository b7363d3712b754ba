import copy
import json

import pytest
import torch

from vggish_hf import VGGishFeatureExtractor, VGGishPipeline
from vggish_hf.metrics import ClipEmbedder, provenance_differences
from vggish_hf.provenance import weights_sha256


@pytest.fixture
def provenance(small_model_folder):
    return VGGishPipeline.from_pretrained(small_model_folder).provenance("none")


def test_the_same(provenance):
    assert provenance_differences(provenance, provenance) == []
    assert provenance_differences({}, {}) == []


def test_json_changes_nothing(provenance):
    assert provenance_differences(provenance, json.loads(json.dumps(provenance))) == []


@pytest.mark.parametrize("key", ["version", "model", "options"])
def test_what_does_not_matter(provenance, key):
    assert provenance_differences(provenance, {**provenance, key: "another"}) == []


def test_the_post_processor_of_the_model_does_not_matter(provenance):
    other = copy.deepcopy(provenance)
    other["config"]["postprocessor"] = not other["config"]["postprocessor"]
    assert provenance_differences(provenance, other) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("weights_sha256",), "0" * 64),
        (("config", "embedding_activation"), "relu"),
        (("feature_config", "example_hop_seconds"), 0.5),
        (("feature_config", "padding"), "tail"),
        (("dtype",), "bfloat16"),
        (("postprocess",), "pca"),
    ],
)
def test_what_matters(provenance, path, value):
    other = copy.deepcopy(provenance)
    inner = other
    for key in path[:-1]:
        inner = inner[key]
    before = inner[path[-1]]
    inner[path[-1]] = value
    differences = provenance_differences(provenance, other)
    assert differences == [f"{'.'.join(path)}: {before!r} and {value!r}"]


def test_nothing_is_known_of_one(provenance):
    differences = provenance_differences({}, provenance)
    assert f"weights_sha256: None and {provenance['weights_sha256']!r}" in differences
    assert "dtype: None and 'float32'" in differences


def test_presets_differ_in_what_they_do_not_in_their_name(small_model_folder):
    pipeline = VGGishPipeline.from_pretrained(small_model_folder)
    gudgud, fadtk = [ClipEmbedder(pipeline, name).provenance for name in ("gudgud", "fadtk")]
    assert provenance_differences(gudgud, fadtk) == [
        "feature_config.padding: 'none' and 'short'",
        "preset.int16: None and True",
        "preset.float16: None and True",
    ]
    # What `vggish-hf embed` wrote knows no presets: it is the default.
    plain = pipeline.provenance("none")
    assert provenance_differences(plain, ClipEmbedder(pipeline).provenance) == []
    assert provenance_differences(plain, gudgud) == ["feature_config.padding: 'short' and 'none'"]


def test_weights_in_memory(small_model):
    name = weights_sha256(small_model)
    other = copy.deepcopy(small_model)
    assert weights_sha256(other) == name
    with torch.no_grad():
        other.postprocessor.means += 1
        assert weights_sha256(other) == name
        other.fc2.bias[0] += 1
    assert weights_sha256(other) != name
    assert weights_sha256(copy.deepcopy(small_model).to(torch.float64)) != name


def test_models_that_came_from_no_file_are_told_apart(small_model):
    first = VGGishPipeline(VGGishFeatureExtractor(), small_model)
    other = copy.deepcopy(small_model)
    with torch.no_grad():
        other.conv1.weight += 1
    second = VGGishPipeline(VGGishFeatureExtractor(), other)
    (difference,) = provenance_differences(
        ClipEmbedder(first).provenance, ClipEmbedder(second).provenance
    )
    assert difference.startswith("weights_sha256: 'in-memory:")
