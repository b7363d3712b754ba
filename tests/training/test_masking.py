"""Statistics that do not see the filling, against the same of the rows alone."""

import pytest
import torch
from torch import nn

from vggish_hf.training.masking import MaskedBatchNorm, masked_mean


@pytest.fixture
def rows(generator):
    return torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)


@pytest.fixture
def mask():
    return torch.arange(5) < torch.tensor([[5], [1], [0], [3]])


@pytest.mark.parametrize("batch", [0, 1, 2, 4])
def test_mean(batch, rows, mask):
    found = masked_mean(rows[:batch], mask[:batch])
    assert found.shape == (batch, 3)
    for clip, keep, mean in zip(rows, mask, found, strict=False):
        assert torch.allclose(mean, clip[keep].sum(0) / max(int(keep.sum()), 1))


def test_mean_of_a_filling_that_is_no_number(rows, mask):
    rows[~mask] = torch.nan
    assert torch.isfinite(masked_mean(rows, mask)).all()


def both_norms():
    torch.manual_seed(0)
    masked, plain = MaskedBatchNorm(3).double(), nn.BatchNorm1d(3).double()
    nn.init.normal_(masked.weight)
    nn.init.normal_(masked.bias)
    plain.load_state_dict({"weight": masked.weight, "bias": masked.bias}, strict=False)
    return masked, plain


class TestBatchNorm:
    def test_equals_that_of_the_rows_alone(self, rows, mask):
        masked, plain = both_norms()
        for step in range(3):  # running statistics move at each
            found = masked(rows + step, mask)
            assert torch.allclose(found[mask], plain((rows + step)[mask]))
        assert torch.allclose(masked.running_mean, plain.running_mean)
        assert torch.allclose(masked.running_variance, plain.running_var)
        masked.eval(), plain.eval()
        assert torch.allclose(masked(rows, mask)[mask], plain(rows[mask]))

    def test_gradients_are_those_of_the_rows_alone(self, rows, mask):
        masked, plain = both_norms()
        inputs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        masked(inputs[0], mask)[mask].pow(3).sum().backward()
        plain(inputs[1][mask]).pow(3).sum().backward()
        assert torch.allclose(inputs[0].grad, inputs[1].grad)
        assert torch.allclose(masked.weight.grad, plain.weight.grad)
        assert torch.allclose(masked.bias.grad, plain.bias.grad)

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few_rows_for_a_variance(self, count, rows):
        masked, plain = both_norms()
        few = torch.arange(20).view(4, 5) < count
        found = masked(rows, few)
        plain.eval()
        assert torch.allclose(found[few], plain(rows[few]))
        assert torch.equal(masked.running_mean, torch.zeros(3).double())
        assert torch.equal(masked.running_variance, torch.ones(3).double())

    def test_statistics_are_never_of_sixteen_bits(self):
        masked = MaskedBatchNorm(1)
        rows = torch.tensor([[100.0], [100.5], [101.0], [101.5]]).bfloat16()
        found = masked(rows, torch.ones(4, dtype=torch.bool))
        assert found.dtype == torch.bfloat16
        expected = nn.BatchNorm1d(1)(rows.float())
        assert torch.allclose(found.float(), expected, atol=0.01)

    def test_its_state_is_floats(self):
        assert all(value.is_floating_point() for value in MaskedBatchNorm(2).state_dict().values())
