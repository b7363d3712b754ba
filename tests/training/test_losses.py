"""The loss against its definition."""

import pytest
import torch

from vggish_hf.training.losses import classification_loss


@pytest.fixture
def logits(generator):
    return torch.randn(6, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def target(generator):
    return torch.rand(6, 4, generator=generator, dtype=torch.float64).softmax(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_single_label(smoothing, logits, target):
    smooth = (1 - smoothing) * target + smoothing / 4
    expected = -(smooth * logits.softmax(1).log()).sum(1).mean()
    found = classification_loss(logits, target, "single_label", smoothing)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multi_label(smoothing, logits, target):
    smooth = (1 - smoothing) * target + smoothing / 2
    p = logits.sigmoid()
    expected = -(smooth * p.log() + (1 - smooth) * (1 - p).log()).mean()
    found = classification_loss(logits, target, "multi_label", smoothing)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_gradient(task, logits, target):
    assert torch.autograd.gradcheck(
        lambda x: classification_loss(x, target, task, 0.1), logits.requires_grad_()
    )
