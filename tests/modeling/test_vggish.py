"""The network, against TensorFlow's outputs for the same weights."""

import shutil

import numpy as np
import pytest
import reference
import torch
from folders import TESTS

from vggish_hf import VGGishConfig, VGGishModel
from vggish_hf.conversion.state_dicts import LAYERS, from_tensorflow

# Rounding of float32 through nine layers, relative to the norm; measured 1.5e-6 and 3e-7.
MAX_RELATIVE_ERROR = 3e-6

CONFIGS = {
    "full_seed7": VGGishConfig(),
    "tiny_seed11": VGGishConfig(
        conv_channels=(4, 6, 8, 8, 10, 10), hidden_size=12, embedding_size=16
    ),
}
SMALL = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16, embedding_size=8)


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def golden_model(config, seed):
    """The model with the golden's weights: TensorFlow's layout, drawn by the golden's formula."""
    with torch.device("meta"):
        model = VGGishModel(config)
    shapes = []
    for layer in LAYERS:
        out, *rest = getattr(model, layer).weight.shape
        shapes += [(*rest[1:], rest[0], out), (out,)]
    names = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
    variables = map(from_tensorflow, reference.tensorflow_weights(seed, shapes))
    model.load_state_dict(dict(zip(names, variables, strict=True)), assign=True)
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_tensorflow(name):
    golden = np.load(TESTS / "golden" / "tf" / f"{name}.npz")
    model = golden_model(CONFIGS[name], int(golden["seed"].item()))
    examples = torch.from_numpy(golden["examples"])
    assert relative_error(model(examples).numpy(), golden["embeddings"]) <= MAX_RELATIVE_ERROR
    trunk = model.trunk(examples[:, None]).mean((2, 3)).numpy()
    assert relative_error(trunk, golden["trunk_mean"]) <= MAX_RELATIVE_ERROR


def test_default_sizes_are_the_originals():
    with torch.device("meta"):
        model = VGGishModel(VGGishConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 72_141_184


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2,), (2, 3), (0, 3)])
@torch.no_grad()
def test_shapes(batch, generator):
    model = VGGishModel(SMALL)
    examples = torch.randn(*batch, 96, 64, generator=generator)
    embeddings = model(examples)
    assert embeddings.shape == (*batch, 8)
    rows = zip(examples.reshape(-1, 96, 64), embeddings.reshape(-1, 8), strict=True)
    for example, embedding in rows:
        assert torch.allclose(model(example), embedding, atol=1e-6)


@torch.no_grad()
def test_relu_only_where_asked_for(generator):
    examples = torch.randn(4, 96, 64, generator=generator)
    plain = VGGishModel(SMALL)
    relu = VGGishModel(VGGishConfig(**{**vars(SMALL), "embedding_activation": "relu"}))
    relu.load_state_dict(plain.state_dict())
    assert (plain(examples) < 0).any()
    assert torch.equal(relu(examples), plain(examples).relu())


@pytest.mark.parametrize("shape", [(96,), (64, 96), (2, 95, 64), (2, 1, 96, 65)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"Expected examples of shape \(..., 96, 64\), got \("):
        VGGishModel(SMALL)(torch.zeros(shape))


def test_gradient(generator):
    config = VGGishConfig(
        conv_channels=(2, 2, 2, 2, 2, 2),
        hidden_size=3,
        embedding_size=2,
        num_frames=16,
        num_mel_bins=16,
    )
    torch.manual_seed(0)
    model = VGGishModel(config).double()
    examples = torch.randn(1, 16, 16, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(model, examples.requires_grad_())


def test_every_parameter_learns(generator):
    torch.manual_seed(0)
    model = VGGishModel(SMALL)
    model(torch.randn(8, 96, 64, generator=generator)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@torch.no_grad()
def test_export(generator):
    model = VGGishModel(SMALL).eval()
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(
        model, (torch.zeros(2, 96, 64),), dynamic_shapes={"examples": {0: batch}}
    )
    examples = torch.randn(5, 96, 64, generator=generator)
    assert torch.allclose(program.module()(examples), model(examples), atol=1e-6)


@torch.no_grad()
def test_compiles_as_one_graph(generator):
    model = VGGishModel(SMALL).eval()
    examples = torch.randn(5, 96, 64, generator=generator)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(examples), model(examples), atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@torch.no_grad()
def test_compiles_to_code(generator):
    model = VGGishModel(SMALL).eval()
    examples = torch.randn(5, 96, 64, generator=generator)
    assert torch.allclose(torch.compile(model)(examples), model(examples), atol=1e-5)
