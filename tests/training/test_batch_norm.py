"""Batch normalisation that is gone from what is saved."""

import copy

import pytest
import torch

from vggish_hf import VGGishModel
from vggish_hf.training.batch_norm import add_batch_norm, fold_batch_norm

# Two roundings of float32 a layer more.
FOLDING_TOLERANCE = 1e-5


@pytest.fixture
def trained(small_model, generator):
    """A network with normalisations that have seen data."""
    model = copy.deepcopy(small_model)
    add_batch_norm(model)
    model.train()
    for _ in range(5):
        model(torch.randn(8, 96, 64, generator=generator) * 2 - 1)
    return model


def test_folding_keeps_what_it_gives(trained, generator):
    examples = torch.randn(4, 96, 64, generator=generator)
    folded = fold_batch_norm(trained)
    expected = trained.eval()(examples)
    assert not torch.allclose(expected, trained.train()(examples), atol=1e-3)
    error = (folded(examples) - expected).norm() / expected.norm()
    assert error < FOLDING_TOLERANCE


def test_what_is_folded_is_a_plain_network(trained, small_model, tmp_path):
    before = copy.deepcopy(trained.state_dict())
    folded = fold_batch_norm(trained)
    assert folded.state_dict().keys() == small_model.state_dict().keys()
    folded.save_pretrained(tmp_path)
    loaded = VGGishModel.from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), folded.parameters(), strict=True)
    )
    # The network in training is left alone.
    assert trained.training
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())


def test_fresh_normalisations_follow_dtype_and_scale(small_model, generator):
    model = copy.deepcopy(small_model).double()
    add_batch_norm(model)
    examples = torch.randn(2, 96, 64, generator=generator, dtype=torch.float64)
    assert model(examples).dtype == torch.float64
