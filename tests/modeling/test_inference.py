import copy
import gc
import pickle
import platform
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from vggish_hf import VGGishConfig, VGGishFeatureExtractor, VGGishModel, VGGishPipeline
from vggish_hf.modeling import inference
from vggish_hf.modeling.inference import InferenceNetworks, can_be_packed
from vggish_hf.modeling.loading import read_tensor
from vggish_hf.modeling.packed import PackedNetwork

CONFIG = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16, postprocessor=True)

# Not by `can_be_packed`, whose being wrong would then skip all of these tests.
pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="this machine has no oneDNN, or is no x86",
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VGGishModel(CONFIG).eval()


@pytest.fixture
def examples(generator):
    return torch.randn(3, 96, 64, generator=generator)


class Subclass(VGGishModel):
    def trunk(self, x):
        return 2 * super().trunk(x)


class Adapted(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize("config", [CONFIG, VGGishConfig()])
def test_a_fresh_model_is_packed(config):
    assert can_be_packed(VGGishModel(config))


def test_a_changed_model_is_called_itself(model):
    changed = {
        "subclass": Subclass(CONFIG),
        "another layer": copy.deepcopy(model),
        "a hook": copy.deepcopy(model),
        "a hook before": copy.deepcopy(model),
        "a parametrisation": copy.deepcopy(model),
        "float64": copy.deepcopy(model).double(),
        "mixed dtypes": copy.deepcopy(model),
        "no tensors": copy.deepcopy(model).to("meta"),
    }
    changed["another layer"].fc1_2 = Adapted(16, 16)
    changed["a hook"].conv2.register_forward_hook(lambda *_: None)
    changed["a hook before"].register_forward_pre_hook(lambda *_: None)
    nn.utils.parametrizations.weight_norm(changed["a parametrisation"].fc2)
    changed["mixed dtypes"].fc2.to(torch.float64)
    with torch.inference_mode():
        changed["made in inference mode"] = VGGishModel(CONFIG)
    for name, one in changed.items():
        assert not can_be_packed(one), name
        assert InferenceNetworks().fastest(one) is one, name


def prune_the_widths(model):
    model.fc1_1 = nn.Linear(model.fc1_1.in_features, 8)
    model.fc1_2 = nn.Linear(8, 16)


def prune_the_weights(model):
    model.fc1_1.weight = nn.Parameter(model.fc1_1.weight[:8].detach())
    model.fc1_1.bias = nn.Parameter(model.fc1_1.bias[:8].detach())
    model.fc1_2.weight = nn.Parameter(model.fc1_2.weight[:, :8].detach())


ALTERATIONS = {
    "a layer's forward": lambda model: setattr(model.fc2, "forward", model.fc2.forward),
    "the model's forward": lambda model: setattr(model, "forward", model.forward),
    "the model's trunk": lambda model: setattr(model, "trunk", model.trunk),
    "dilation": lambda model: setattr(model, "conv2", nn.Conv2d(4, 4, 3, padding=2, dilation=2)),
    "stride": lambda model: setattr(model.conv4_2, "stride", (2, 2)),
    "padding": lambda model: setattr(model.conv4_2, "padding", (2, 2)),
    "padding mode": lambda model: setattr(
        model, "conv2", nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    ),
    "groups": lambda model: setattr(model, "conv2", nn.Conv2d(4, 4, 3, padding=1, groups=2)),
    "kernel size": lambda model: setattr(model, "conv2", nn.Conv2d(4, 4, 5, padding=2)),
    "no bias": lambda model: setattr(model, "fc1_2", nn.Linear(16, 16, bias=False)),
    "pruned widths": prune_the_widths,
    "pruned weights": prune_the_weights,
    "a tied weight": lambda model: setattr(model.conv4_2, "weight", model.conv4_1.weight),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_model_is_called_itself(name, model):
    networks = InferenceNetworks()
    assert networks.fastest(model) is not model
    ALTERATIONS[name](model)
    assert networks.fastest(model) is model


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook"])
def test_under_a_hook_of_all_modules_the_model_is_called_itself(kind, model):
    register = getattr(nn.modules.module, f"register_module_{kind}")
    handle = register(lambda *_: None)
    try:
        assert not can_be_packed(model)
    finally:
        handle.remove()
    assert can_be_packed(model)


def test_where_onednn_is_switched_off_the_model_is_called_itself(model):
    torch._C._set_mkldnn_enabled(False)  # `torch.backends.mkldnn.flags` warns of Intel GPUs
    try:
        assert not can_be_packed(model)
    finally:
        torch._C._set_mkldnn_enabled(True)
    assert can_be_packed(model)


def test_an_unchanged_model_is_packed_once(model):
    networks = InferenceNetworks()
    first = networks.fastest(model)
    assert isinstance(first, PackedNetwork)
    assert networks.fastest(model) is first


def replace_a_layer(model):
    model.conv3_1 = nn.Conv2d(4, 8, 3, padding=1)


def take_an_optimizer_step(model, kind, fused):
    optimizer = kind(model.parameters(), lr=0.1, fused=fused)
    model(torch.ones(1, 96, 64)).sum().backward()
    optimizer.step()


def write_by_data(model, name, change):
    model.get_parameter(name).data.add_(change)


CHANGES = {
    "written in place": lambda model: nn.init.zeros_(model.fc2.bias),
    "loaded": lambda model: model.load_state_dict(
        {name: tensor + 1 for name, tensor in model.state_dict().items()}
    ),
    "assigned": lambda model: model.load_state_dict(
        {name: tensor + 1 for name, tensor in model.state_dict().items()}, assign=True
    ),
    "a parameter replaced": lambda model: setattr(
        model.fc1_1, "bias", nn.Parameter(torch.ones(16))
    ),
    "a layer replaced": replace_a_layer,
    "cast there and back": lambda model: model.to(torch.bfloat16).to(torch.float32),
    **{
        f"a step of {kind.__name__}, fused={fused}": partial(
            take_an_optimizer_step, kind=kind, fused=fused
        )
        for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        for fused in (False, True)
    },
    **{
        f"{name} by its data": partial(write_by_data, name=name, change=0.1)
        for name, _ in VGGishModel(CONFIG).named_parameters()
    },
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_weights_are_noticed(name, model, examples, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = VGGishModel.from_pretrained(tmp_path)
    networks = InferenceNetworks(loaded, tmp_path / "model.safetensors")
    before = networks.fastest(loaded)(examples)
    CHANGES[name](loaded)
    with torch.no_grad():
        expected = loaded(examples)
    assert not torch.equal(before, expected)
    torch.testing.assert_close(networks.fastest(loaded)(examples), expected)


@pytest.mark.parametrize("name", CHANGES)
def test_weights_that_changed_before_they_were_packed(name, model, examples, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = VGGishModel.from_pretrained(tmp_path)
    networks = InferenceNetworks(loaded, tmp_path / "model.safetensors")
    CHANGES[name](loaded)
    with torch.no_grad():
        expected = loaded(examples)
    torch.testing.assert_close(networks.fastest(loaded)(examples), expected)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_file_that_changed_is_not_read_again(deleted, model, examples, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = VGGishModel.from_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    networks = InferenceNetworks(loaded, path)
    if deleted:
        path.unlink()
    else:
        nn.init.ones_(model.fc2.bias)
        model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = loaded(examples)
    torch.testing.assert_close(networks.fastest(loaded)(examples), expected)


def test_the_models_own_weights_are_not_read(model, examples, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    loaded = VGGishModel.from_pretrained(tmp_path)
    networks = InferenceNetworks(loaded, tmp_path / "model.safetensors")
    read = []

    def read_other_values(path, name):
        read.append(name)
        return read_tensor(path, name) * 2

    monkeypatch.setattr(inference, "read_tensor", read_other_values)
    found = networks.fastest(loaded)(examples)
    assert sorted(read) == sorted(name for name, _ in loaded.named_parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
        torch.testing.assert_close(found, model(examples))


def test_a_config_that_changed_is_noticed(model, examples):
    networks = InferenceNetworks()
    assert networks.fastest(model)(examples).min() < 0
    model._config = replace(model.config, embedding_activation="relu")
    assert networks.fastest(model)(examples).min() == 0


def test_models_at_the_same_address_are_distinguished(tmp_path, examples):
    folders = [tmp_path / str(seed) for seed in range(4)]
    expected = []
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        model = VGGishModel(CONFIG).eval()
        model.save_pretrained(folder)
        with torch.no_grad():
            expected.append(model(examples))
    VGGishFeatureExtractor().save_pretrained(folders[0])
    pipe = VGGishPipeline.from_pretrained(folders[0])
    for number in [0, 1, 2, 3] * 5:
        pipe.model = VGGishModel.from_pretrained(folders[number])
        torch.testing.assert_close(pipe.embed_examples(examples), expected[number])


def test_equal_values_at_the_same_address_are_not_enough(model):
    snapshot = inference._Snapshot(model)
    for layer in (model.fc1_1, model.fc2):
        layer.bias = nn.Parameter(layer.bias.detach())  # shares its memory
    again = inference._Snapshot(model)
    assert (again._versions, again._values) == (snapshot._versions, snapshot._values)
    assert not snapshot.is_of(model)


def test_a_snapshot_keeps_no_weights_alive():
    model = VGGishModel(CONFIG)
    parameter = weakref.ref(model.fc1_1.weight)
    networks = InferenceNetworks()
    networks.fastest(model)
    del model
    gc.collect()
    assert parameter() is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["conv1.bias", "fc1_2.weight", "fc2.bias"])
def test_weights_that_are_not_finite_are_left_to_the_model(name, value, model, examples):
    networks = InferenceNetworks()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[2] = value
        assert networks.fastest(model) is model
        model.get_parameter(name).zero_()
    assert networks.fastest(model) is not model


def test_a_copy_packs_for_itself(model, examples):
    networks = InferenceNetworks()
    expected = networks.fastest(model)(examples)
    for other in (copy.deepcopy(networks), pickle.loads(pickle.dumps(networks))):
        assert torch.equal(other.fastest(model)(examples), expected)


def test_a_copy_takes_no_addresses_along(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = VGGishModel.from_pretrained(tmp_path)
    networks = InferenceNetworks(loaded, tmp_path / "model.safetensors")
    assert networks._loaded is not None
    assert copy.deepcopy(networks)._loaded is None
