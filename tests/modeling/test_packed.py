"""Against the plain network, which is proven against the original."""

import platform

import pytest
import torch

from vggish_hf import VGGishConfig, VGGishModel
from vggish_hf.modeling.onednn import find_operators
from vggish_hf.modeling.packed import PackedNetwork

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="this machine has no oneDNN, or is no x86",
)

# The sums are the same in another order; 1.5e-6 was seen, and 6e-7 of the plain network.
FLOAT32_TOLERANCE = 3e-6
# Each layer rounds to 8 bits; 1e-2 was seen, of the plain network too.
BFLOAT16_TOLERANCE = 2e-2

CONFIGS = {
    "narrow": VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16),
    "odd widths, ReLU": VGGishConfig(
        conv_channels=(3, 5, 7, 9, 11, 13),
        hidden_size=17,
        embedding_size=7,
        embedding_activation="relu",
    ),
    "another example": VGGishConfig(
        num_frames=48, num_mel_bins=32, conv_channels=(8, 8, 16, 16, 16, 16), hidden_size=32
    ),
}


def make_model(config, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    model = VGGishModel(config)
    for parameter in model.parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        torch.nn.init.normal_(parameter, std=scale, generator=generator)
    if dtype not in find_operators().dtypes:
        pytest.skip("this CPU does not multiply bfloat16")
    return model.to(dtype).eval()


def pack(model):
    return PackedNetwork(model.config, model.get_parameter, model.dtype, find_operators())


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, FLOAT32_TOLERANCE), (torch.bfloat16, BFLOAT16_TOLERANCE)],
)
def test_equals_the_plain_network(name, dtype, tolerance, generator):
    config = CONFIGS[name]
    model = make_model(config, dtype)
    packed = pack(model)
    precise = make_model(config).double() if dtype == torch.float32 else model.double()
    # On both sides of the chunks that the convolutions take.
    for batch in (1, 3, 4, 5, 16, 17, 37):
        shape = (batch, config.num_frames, config.num_mel_bins)
        examples = torch.randn(shape, generator=generator).to(dtype)
        embeddings = packed(examples)
        assert embeddings.dtype == dtype
        assert embeddings.shape == (batch, config.embedding_size)
        assert relative_error(embeddings, precise(examples.double())) < tolerance


@pytest.mark.slow
@torch.no_grad()
def test_the_full_size(generator):
    torch.manual_seed(0)
    model = make_model(VGGishConfig())
    examples = torch.randn(5, 96, 64, generator=generator)
    found = pack(model)(examples)
    assert relative_error(found, model.double()(examples.double())) < FLOAT32_TOLERANCE


def test_an_empty_batch():
    packed = pack(make_model(CONFIGS["narrow"]))
    assert packed(torch.empty(0, 96, 64)).shape == (0, 128)


@torch.no_grad()
@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (2, 0)])
def test_examples_of_any_number_of_dimensions(batch, generator):
    model = make_model(CONFIGS["narrow"])
    examples = torch.randn(*batch, 96, 64, generator=generator)
    torch.testing.assert_close(pack(model)(examples), model(examples))


@torch.no_grad()
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_example_that_is_not_finite_gives_nan(dtype, value, generator):
    model = make_model(CONFIGS["narrow"], dtype)
    packed = pack(model)
    examples = torch.randn(5, 96, 64, generator=generator).to(dtype)
    expected = packed(examples)
    examples[3, 50, 7] = value
    found = packed(examples)
    assert found[3].isnan().all()
    others = [0, 1, 2, 4]
    assert torch.equal(found[others], expected[others])


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("name", ["conv3_1.weight", "conv4_2.bias", "fc1_1.weight", "fc2.bias"])
def test_it_says_whether_its_weights_are_finite(name, value):
    model = make_model(CONFIGS["narrow"])
    assert pack(model).is_finite
    with torch.no_grad():
        model.get_parameter(name).view(-1)[1] = value
    assert not pack(model).is_finite


@torch.no_grad()
def test_weights_of_any_memory_layout(generator):
    model = make_model(CONFIGS["narrow"]).to(memory_format=torch.channels_last)
    for layer in (model.conv3_2, model.fc1_2, model.fc2):
        bias = torch.randn(2 * len(layer.bias), generator=generator)
        layer.bias = torch.nn.Parameter(bias[::2])
        layer.weight = torch.nn.Parameter(layer.weight.transpose(0, 1).contiguous().transpose(0, 1))
    examples = torch.randn(3, 96, 64, generator=generator)
    torch.testing.assert_close(pack(model)(examples), model(examples))


@torch.no_grad()
def test_the_weights_are_copies(generator):
    model = make_model(CONFIGS["narrow"])
    packed = pack(model)
    examples = torch.randn(3, 96, 64, generator=generator)
    expected = packed(examples)
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(packed(examples), expected)


@torch.no_grad()
def test_examples_of_any_memory_layout(generator):
    model = make_model(CONFIGS["narrow"])
    examples = torch.randn(6, 64, 96, generator=generator).mT[::2]
    assert not examples.is_contiguous()
    torch.testing.assert_close(pack(model)(examples), model(examples))


def test_the_examples_stay_as_they_are(generator):
    examples = torch.randn(3, 96, 64, generator=generator)
    before = examples.clone()
    pack(make_model(CONFIGS["narrow"]))(examples)
    assert torch.equal(examples, before)


def test_the_embeddings_can_be_trained_on():
    embeddings = pack(make_model(CONFIGS["narrow"]))(torch.zeros(2, 96, 64))
    assert not embeddings.is_inference()
    head = torch.nn.Linear(128, 1)
    head(embeddings).sum().backward()
    assert head.weight.grad is not None


def test_each_parameter_is_asked_for_once():
    model = make_model(CONFIGS["narrow"])
    asked = []

    def weights(name):
        asked.append(name)
        return model.get_parameter(name)

    PackedNetwork(model.config, weights, model.dtype, find_operators())
    assert sorted(asked) == sorted(name for name, _ in model.named_parameters())


def test_examples_of_another_shape_are_refused():
    packed = pack(make_model(CONFIGS["narrow"]))
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 96, 64\), got \(2, 64, 96\)"):
        packed(torch.zeros(2, 64, 96))
