import copy
import pickle

import pytest
import torch
from torch import nn

from vggish_hf import VGGishConfig, VGGishModel
from vggish_hf.modeling.inference import InferenceNetworks, can_be_packed
from vggish_hf.modeling.packed import PackedNetwork

CONFIG = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16, postprocessor=True)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = VGGishModel(CONFIG).eval()
    if not can_be_packed(model):
        pytest.skip("this machine has no oneDNN, or is no x86")
    return model


@pytest.fixture
def examples(generator):
    return torch.randn(3, 96, 64, generator=generator)


class Subclass(VGGishModel):
    def trunk(self, x):
        return 2 * super().trunk(x)


class Adapted(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


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


def take_an_optimizer_step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 96, 64)).sum().backward()
    optimizer.step()


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
    "a step of training": take_an_optimizer_step,
    "cast there and back": lambda model: model.to(torch.bfloat16).to(torch.float32),
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


def test_the_models_own_weights_are_not_read(model, examples, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    loaded = VGGishModel.from_pretrained(tmp_path)
    networks = InferenceNetworks(loaded, path)
    with torch.no_grad():
        expected = loaded(examples)
    # By the `data` of a parameter, which is the one way to change it that is not noticed.
    for parameter in loaded.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(networks.fastest(loaded)(examples), expected)


def test_a_copy_packs_for_itself(model, examples):
    networks = InferenceNetworks()
    expected = networks.fastest(model)(examples)
    for other in (copy.deepcopy(networks), pickle.loads(pickle.dumps(networks))):
        assert torch.equal(other.fastest(model)(examples), expected)
