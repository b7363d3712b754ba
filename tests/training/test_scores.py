"""Scores against their definitions, written out slowly."""

import math

import pytest
import torch
from slow_scores import auc_slowly, average_precision_slowly, f1_slowly

from vggish_hf.training.scores import d_prime, f1, ranking_scores


@pytest.fixture(params=[1, 3, 1000], ids=["ties-alone", "many-ties", "few-ties"])
def scores(request, generator):
    return torch.randint(request.param, (40, 70), generator=generator).float()


@pytest.fixture
def target(generator):
    target = torch.rand(40, 70, generator=generator) < 0.2
    target[:, 3] = False
    target[:, 5] = True
    return target


def test_ranking_scores(scores, target):
    found = ranking_scores(scores, target)
    for k, (column, truth) in enumerate(zip(scores.T.tolist(), target.T.tolist(), strict=True)):
        precision, auc = found.average_precision[k].item(), found.area_under_roc[k].item()
        if k == 3:
            assert math.isnan(precision)
        else:
            assert precision == pytest.approx(average_precision_slowly(column, truth), abs=1e-12)
        if k in (3, 5):
            assert math.isnan(auc)
        else:
            assert auc == pytest.approx(auc_slowly(column, truth), abs=1e-12)


def test_order_of_the_clips_does_not_matter(scores, target, generator):
    order = torch.randperm(40, generator=generator)
    for found, expected in zip(
        ranking_scores(scores[order], target[order]), ranking_scores(scores, target), strict=True
    ):
        assert torch.allclose(found, expected, equal_nan=True, atol=1e-12)


@pytest.mark.parametrize("clips", [0, 1])
def test_hardly_any_clips(clips):
    found = ranking_scores(torch.zeros(clips, 2), torch.tensor([[True, False]])[:clips])
    assert torch.isnan(found.area_under_roc).all()
    assert torch.isnan(found.average_precision).tolist() == [clips == 0, True]


def test_d_prime():
    # Where two unit Gaussians lie `d` apart, the AUC is the normal distribution at d / sqrt(2).
    distance = torch.linspace(-3, 3, 13, dtype=torch.float64)
    auc = (1 + torch.erf(distance / 2)) / 2
    assert torch.allclose(d_prime(auc), distance)
    assert d_prime(torch.tensor(1.0)).item() == math.inf


def test_f1(target, generator):
    predicted = torch.rand(40, 70, generator=generator) < 0.3
    found = f1(predicted, target)
    for k, (column, truth) in enumerate(zip(predicted.T.tolist(), target.T.tolist(), strict=True)):
        if k == 3:
            assert math.isnan(found[k])
        else:
            assert found[k].item() == pytest.approx(f1_slowly(column, truth))
