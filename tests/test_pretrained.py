"""The original weights, for those who have them: `VGGISH_WEIGHTS` names their converted folder."""

import os

import numpy as np
import pytest
import torch
from folders import TESTS

from vggish_hf import VGGishPipeline

pytestmark = pytest.mark.pretrained

# The goldens are the original's own output, by TensorFlow in float32 on another machine.
MAX_RELATIVE_ERROR = 1e-4


@pytest.fixture(scope="module")
def pipe():
    folder = os.environ.get("VGGISH_WEIGHTS")
    if not folder:
        pytest.fail("Expected VGGISH_WEIGHTS to name the folder that `convert google` made")
    return VGGishPipeline.from_pretrained(folder, padding="none")


@pytest.fixture
def sine():
    return torch.from_numpy(np.sin(2 * np.pi * 1000 * np.arange(0, 3, 1 / 16_000))).float()


def test_smoke_test(pipe, sine):
    golden = np.load(TESTS / "golden" / "pretrained" / "smoke_1khz_3s.npz")
    raw = pipe((sine, 16_000)).embeddings
    assert np.linalg.norm(raw[0] - golden["raw"]) <= MAX_RELATIVE_ERROR * np.linalg.norm(
        golden["raw"]
    )
    assert raw.mean().item() == pytest.approx(0.000657, rel=0.1)
    assert raw.std(correction=0).item() == pytest.approx(0.343, rel=0.1)
    quantized = pipe((sine, 16_000), postprocess="uint8").embeddings
    assert np.abs(quantized[0].int() - golden["post_uint8"].astype(int)).max() <= 1
    assert quantized.float().mean().item() == pytest.approx(126.0, rel=0.1)
    assert quantized.float().std(correction=0).item() == pytest.approx(89.3, rel=0.1)


def test_humpback(pipe, shared):
    golden = np.load(shared / "golden" / "pretrained" / "humpback_16k_embeddings.npy")
    found = pipe(shared / "golden" / "pretrained" / "humpback_16k.wav").embeddings.numpy()
    assert found.shape == golden.shape == (69, 128)
    assert np.linalg.norm(found - golden) <= MAX_RELATIVE_ERROR * np.linalg.norm(golden)
