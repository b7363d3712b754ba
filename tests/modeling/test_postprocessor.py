from typing import get_args

import numpy as np
import pytest
import torch
from folders import TESTS

from vggish_hf import VGGishPostprocessor
from vggish_hf.modeling.postprocessor import POSTPROCESSES, Postprocess, find_postprocess


@pytest.fixture
def original():
    with np.load(TESTS / "data" / "vggish_pca_params.npz") as pca:
        return VGGishPostprocessor(
            torch.from_numpy(pca["pca_eigen_vectors"]), torch.from_numpy(pca["pca_means"])
        )


@pytest.fixture
def smoke():
    with np.load(TESTS / "golden/pretrained/smoke_1khz_3s.npz") as golden:
        return torch.from_numpy(golden["raw"]), torch.from_numpy(golden["post_uint8"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smoke_test_of_the_original(original, smoke, dtype):
    raw, expected = smoke
    quantized = original(raw.to(dtype))
    assert quantized.dtype == dtype
    assert torch.equal(original.quantize(quantized), expected)


def test_rounding_in_place_of_truncating_would_be_noticed(original, smoke):
    raw, expected = smoke
    rounded = ((original(raw) + 2) * (255 / 4)).round().to(torch.uint8)
    assert (rounded != expected).float().mean() > 0.3


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2,), (2, 3)])
def test_shapes_are_kept(original, batch):
    embeddings = torch.zeros(*batch, 128)
    whitened = original(embeddings)
    assert whitened.shape == embeddings.shape
    quantized = original.quantize(whitened)
    assert (quantized.shape, quantized.dtype) == (embeddings.shape, torch.uint8)
    assert original.dequantize(quantized).shape == embeddings.shape


def test_whitening_is_the_formula(generator):
    eigenvectors = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    means = torch.randn(5, generator=generator, dtype=torch.float64)
    embeddings = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    expected = [(eigenvectors @ (row - means)).clamp(-2, 2) for row in embeddings]
    whitened = VGGishPostprocessor(eigenvectors, means)(embeddings)
    assert torch.allclose(whitened, torch.stack(expected), rtol=0, atol=1e-12)
    assert (whitened.abs() == 2).any()


def test_quantize_truncates():
    values = torch.tensor(
        [-3.0, -2.0, -2 + 4 / 255 - 1e-4, -2 + 4 / 255 + 1e-4, 0.0, 1.9999, 2.0, 3]
    )
    quantized = VGGishPostprocessor(torch.eye(8), torch.zeros(8)).quantize(values)
    assert quantized.tolist() == [0, 0, 0, 1, 127, 254, 255, 255]


def test_dequantize_is_youtube_8ms(original):
    quantized = torch.arange(256, dtype=torch.uint8)
    expected = np.arange(256) * (4 / 255) + 4 / 512 - 2
    dequantized = original.dequantize(quantized)
    assert dequantized.dtype == torch.float32
    assert np.abs(dequantized.numpy() - expected).max() < 3e-7  # float32 at 2
    assert torch.equal(original.quantize(dequantized), quantized)


def test_gradient(generator):
    means = torch.randn(4, generator=generator, dtype=torch.float64)
    postprocessor = VGGishPostprocessor(torch.eye(4, dtype=torch.float64), means)
    embeddings = means + torch.tensor([0.5, -0.5, 1.0, -1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(postprocessor, embeddings.requires_grad_())


def test_a_cast_does_not_round_the_pca(original):
    half = VGGishPostprocessor(original.eigenvectors.float(), original.means.float())
    half.to(torch.bfloat16)
    assert half.eigenvectors.dtype == torch.float32
    assert torch.equal(half.eigenvectors, original.eigenvectors.float())
    sixteen_bits = torch.linspace(-1, 1, 256).reshape(2, 128).bfloat16()
    assert torch.equal(half(sixteen_bits), half(sixteen_bits.float()))
    assert half.to("meta").means.is_meta


def test_its_tensors_are_saved(original):
    assert set(original.state_dict()) == {"eigenvectors", "means"}
    assert not list(original.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(torch.zeros(2, 127)), r"shape \(..., 128\), got \(2, 127\)"),
        (lambda p: p(torch.tensor(1.0)), r"shape \(..., 128\), got \(\)"),
        (lambda p: p.quantize(torch.zeros(128, dtype=torch.uint8)), "float type, got torch.uint8"),
        (lambda p: p.quantize(torch.full((128,), torch.nan)), "finite embeddings, got NaN"),
        (lambda p: p.dequantize(torch.zeros(128)), "uint8, got torch.float32"),
        (
            lambda _: VGGishPostprocessor(torch.eye(3), torch.zeros(4)),
            r"got \(3, 3\) and \(4,\)",
        ),
    ],
)
def test_errors(original, call, message):
    with pytest.raises(ValueError, match=message):
        call(original)


def test_export(original):
    program = torch.export.export(original, (torch.zeros(2, 128),))
    assert torch.equal(program.module()(torch.zeros(2, 128)), original(torch.zeros(2, 128)))


class TestPostprocessing:
    @pytest.mark.parametrize(
        ("name", "network", "expected"),
        [
            ("none", torch.float32, torch.float32),
            ("none", torch.bfloat16, torch.float32),
            ("none", torch.float64, torch.float64),
            ("pca", torch.float16, torch.float32),
            ("pca", torch.float64, torch.float64),
            ("uint8", torch.float32, torch.uint8),
            ("uint8", torch.float64, torch.uint8),
        ],
    )
    def test_what_it_says_it_makes_is_what_it_makes(self, original, name, network, expected):
        postprocess = find_postprocess(name)
        assert postprocess.dtype(network) == expected
        made = postprocess.apply(original, torch.zeros(2, 128, dtype=network))
        assert (made.shape, made.dtype) == ((2, 128), expected)

    def test_values(self, original, smoke):
        raw, quantized = smoke
        assert torch.equal(find_postprocess("none").apply(None, raw), raw)
        assert torch.equal(find_postprocess("pca").apply(original, raw), original(raw))
        assert torch.equal(find_postprocess("uint8").apply(original, raw), quantized)

    @pytest.mark.parametrize("name", ["pca", "uint8"])
    def test_a_model_without_a_postprocessor(self, name):
        find_postprocess("none").check(None)
        message = f"postprocess='{name}' needs a model with a post-processor, this one has none"
        with pytest.raises(ValueError, match=message):
            find_postprocess(name).check(None)
        with pytest.raises(ValueError, match=message):
            find_postprocess(name).apply(None, torch.zeros(1, 128))

    def test_there_are_those_of_the_literal_type(self):
        assert tuple(POSTPROCESSES) == get_args(Postprocess)
        with pytest.raises(ValueError, match="to be one of 'none', 'pca', 'uint8', got 'PCA'"):
            find_postprocess("PCA")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_process_state_changes_nothing(original, smoke, dtype):
    raw, _ = smoke
    expected = original(raw)
    codes = original.quantize(expected)
    floats = original.dequantize(codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(original(raw), expected)
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(original(raw), expected)
        assert torch.equal(original.quantize(expected), codes)
        assert torch.equal(original.dequantize(codes), floats)
        assert original.dequantize(codes).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
