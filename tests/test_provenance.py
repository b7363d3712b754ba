import copy
import hashlib
import json
import shutil

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
    name = weights_sha256(small_model, postprocessor=False)
    other = copy.deepcopy(small_model)
    assert weights_sha256(other, postprocessor=False) == name
    with torch.no_grad():
        other.postprocessor.means += 1
        assert weights_sha256(other, postprocessor=False) == name
        assert weights_sha256(other) != weights_sha256(small_model)
        other.fc2.bias[0] += 1
    assert weights_sha256(other, postprocessor=False) != name
    doubled = copy.deepcopy(small_model).to(torch.float64)
    assert weights_sha256(doubled, postprocessor=False) != name


def test_models_without_a_file_are_distinguished(small_model):
    first = VGGishPipeline(VGGishFeatureExtractor(), small_model)
    other = copy.deepcopy(small_model)
    with torch.no_grad():
        other.conv1.weight += 1
    second = VGGishPipeline(VGGishFeatureExtractor(), other)
    for a, b in (
        (ClipEmbedder(first).provenance, ClipEmbedder(second).provenance),
        (first.provenance("none"), second.provenance("none")),
    ):
        (difference,) = provenance_differences(a, b)
        assert difference.startswith("weights_sha256: 'in-memory:")
    same = VGGishPipeline(VGGishFeatureExtractor(), copy.deepcopy(small_model))
    assert provenance_differences(first.provenance("none"), same.provenance("none")) == []


def file_sha256(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_network_as_loaded_is_its_file(small_model_folder, dtype):
    pipeline = VGGishPipeline.from_pretrained(small_model_folder, dtype=dtype)
    for postprocess in ("none", "pca"):
        found = pipeline.provenance(postprocess)["weights_sha256"]
        assert found == file_sha256(small_model_folder)


def scale(model):
    with torch.no_grad():
        model.fc2.weight.mul_(2)


def write_one_value_unnoticed(model):
    model.fc2.weight.data.view(-1)[1] += 1  # neither torch nor the probes of inference see it


def replace_a_layer(model):
    model.fc2 = torch.nn.Sequential(model.fc2)


def quantize(model):
    torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, inplace=True)


@pytest.mark.filterwarnings("ignore")  # torch's own of what it will remove
@pytest.mark.parametrize("change", [scale, write_one_value_unnoticed, replace_a_layer, quantize])
def test_layers_that_were_replaced_count(small_model_folder, change):
    pipeline = VGGishPipeline.from_pretrained(small_model_folder)
    path = small_model_folder / "model.safetensors"
    assert weights_sha256(pipeline.model, path) == file_sha256(small_model_folder)
    change(pipeline.model)
    found = weights_sha256(pipeline.model, path)
    assert found.startswith("in-memory:")
    assert weights_sha256(copy.deepcopy(pipeline.model), path) == found


@pytest.mark.parametrize("change", [scale, write_one_value_unnoticed])
def test_a_network_that_was_changed_is_not_its_file(small_model_folder, change):
    pipeline = VGGishPipeline.from_pretrained(small_model_folder)
    before = pipeline.provenance("none")
    state_before = copy.deepcopy(pipeline.model.state_dict())
    change(pipeline.model)
    (difference,) = provenance_differences(before, pipeline.provenance("none"))
    assert difference.startswith("weights_sha256: '")
    assert "and 'in-memory:" in difference
    assert pipeline.provenance("none") == pipeline.provenance("none")
    pipeline.model.load_state_dict(state_before)
    assert pipeline.provenance("none") == before


def test_a_changed_post_processor_counts_where_it_is_used(small_model_folder):
    pipeline = VGGishPipeline.from_pretrained(small_model_folder)
    before = {name: pipeline.provenance(name) for name in ("none", "pca", "uint8")}
    pipeline.model.postprocessor.means.add_(1)
    changed = [name for name in before if before[name] != pipeline.provenance(name)]
    assert changed == ["pca", "uint8"]


def test_a_file_that_was_replaced_since_is_not_the_network_s(small_model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(small_model_folder, folder)
    pipeline = VGGishPipeline.from_pretrained(folder)
    before = pipeline.provenance("none")["weights_sha256"]
    other = VGGishPipeline.from_pretrained(folder)
    scale(other.model)
    other.model.save_pretrained(folder)
    found = pipeline.provenance("none")["weights_sha256"]
    assert before != found != file_sha256(folder)
    assert found.startswith("in-memory:")
    shutil.rmtree(folder)
    assert pipeline.provenance("none")["weights_sha256"] == found


def test_weights_that_are_unknown_are_never_the_same():
    unknown = {"weights_sha256": None}
    assert provenance_differences(unknown, unknown) == ["weights_sha256: None and None"]
    assert provenance_differences(unknown, {}) == ["weights_sha256: None and None"]


@pytest.mark.parametrize("nothing", [{}, {"version": "1"}, {"dtype": None}])
def test_what_says_nothing_is_not_the_same(nothing):
    message = "neither of the two says how it was made; whether they were made alike is unknown"
    assert provenance_differences(nothing, {}) == [message]


def test_pooled_rows_are_not_compared_with_others():
    assert provenance_differences({"pool": "mean"}, {}) == ["pool: 'mean' and None"]
    assert provenance_differences({"pool": None, "dtype": "float32"}, {"dtype": "float32"}) == []
