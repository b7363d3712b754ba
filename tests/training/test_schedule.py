"""The learning rate at each step, of each parameter group."""

import math

import pytest
import torch

from vggish_hf.training.schedule import WarmupCosine


def make_optimizer(*rates):
    return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in rates])


def run(optimizer, schedule, steps):
    """The learning rates of each group at each of the steps."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


def expected_factor(step, warmup, total):
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (total - warmup))


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_every_group_at_every_step(warmup):
    optimizer = make_optimizer(1.0, 0.1)
    rates = run(optimizer, WarmupCosine(optimizer, warmup, 10), 10)
    for step, found in enumerate(rates):
        factor = expected_factor(step, warmup, 10)
        assert found == pytest.approx([factor, 0.1 * factor])


def test_it_stays_at_zero_after_the_end():
    optimizer = make_optimizer(1.0)
    rates = run(optimizer, WarmupCosine(optimizer, 1, 3), 6)
    assert [rate for (rate,) in rates[3:]] == [0, 0, 0]


def test_a_training_without_an_end():
    optimizer = make_optimizer(1.0)
    rates = run(optimizer, WarmupCosine(optimizer, 2, math.inf), 5)
    assert rates == [[0.5], [1.0], [1.0], [1.0], [1.0]]


def test_warming_up_all_the_time():
    optimizer = make_optimizer(1.0)
    rates = run(optimizer, WarmupCosine(optimizer, 4, 2), 3)
    assert rates == [[0.25], [0.5], [0.75]]


def test_groups_that_join_later():
    optimizer = make_optimizer(1.0)
    schedule = WarmupCosine(optimizer, 0, 10)
    run(optimizer, schedule, 4)
    optimizer.add_param_group({"params": [torch.zeros(1)], "lr": 0.0, "initial_lr": 0.1})
    optimizer.add_param_group({"params": [torch.zeros(1)], "lr": 0.7})
    for step, found in enumerate(run(optimizer, schedule, 6), start=4):
        factor = expected_factor(step, 0, 10)
        joined = 0.1 * factor if step > 4 else 0.0
        assert found == pytest.approx([factor, joined, 0.7])


def test_resuming():
    uninterrupted = make_optimizer(1.0, 0.5)
    rates = run(uninterrupted, WarmupCosine(uninterrupted, 2, 10), 10)
    first = make_optimizer(1.0, 0.5)
    schedule = WarmupCosine(first, 2, 10)
    run(first, schedule, 4)
    second = make_optimizer(1.0, 0.5)
    resumed = WarmupCosine(second, 2, 10)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    assert run(second, resumed, 6) == rates[4:]


def test_resuming_for_longer():
    first = make_optimizer(1.0)
    schedule = WarmupCosine(first, 0, 4)
    run(first, schedule, 3)
    second = make_optimizer(1.0)
    longer = WarmupCosine(second, 0, 8)
    longer.load_state_dict(schedule.state_dict())
    rates = run(second, longer, 4)
    assert [rate for (rate,) in rates[1:]] == pytest.approx(
        [expected_factor(step, 0, 8) for step in (4, 5, 6)]
    )


def test_the_warm_up_is_checked():
    with pytest.raises(ValueError, match="`warmup_steps` of at least 0, got -1"):
        WarmupCosine(make_optimizer(1.0), -1, 10)
