"""The metric over batches and processes, against the scores' definitions."""

import json
import math
import time

import pytest
import torch
from processes import run_processes
from slow_scores import auc_slowly, average_precision_slowly, f1_slowly

from vggish_hf.lightning.classification_scores import ClassificationScores
from vggish_hf.training.scores import d_prime


@pytest.fixture
def target(generator):
    target = torch.rand(40, 70, generator=generator) < 0.2
    target[:, 3] = False
    target[:, 5] = True
    return target


def collect(task, logits, target, batch_size=7):
    scores = ClassificationScores(task, logits.shape[1])
    for batch in zip(logits.split(batch_size), target.split(batch_size), strict=True):
        scores.update(*batch)
    return scores


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_multi_label(target, generator):
    logits = torch.randn(40, 70, generator=generator) + target
    found = collect("multi_label", logits, target.float()).compute()
    columns = [
        (k, column, truth)
        for k, (column, truth) in enumerate(zip(logits.T.tolist(), target.T.tolist(), strict=True))
    ]
    auc = mean(auc_slowly(column, truth) for k, column, truth in columns if k not in (3, 5))
    expected = {
        "mAP": mean(average_precision_slowly(c, truth) for k, c, truth in columns if k != 3),
        "AUC": auc,
        "d_prime": d_prime(torch.tensor(auc)).item(),
        "F1": mean(f1_slowly([s > 0 for s in c], truth) for k, c, truth in columns if k != 3),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)


def test_single_label(generator):
    labels = torch.randint(4, (40,), generator=generator)  # nothing of the fifth class
    target = torch.nn.functional.one_hot(labels, 5)
    logits = torch.randn(40, 5, generator=generator) + target
    found = collect("single_label", logits, target.float()).compute()
    probabilities = logits.softmax(1).T.tolist()
    best = logits.argmax(1)
    truths = target.bool().T.tolist()[:4]
    auc = mean(map(auc_slowly, probabilities, truths))
    expected = {
        "mAP": mean(map(average_precision_slowly, probabilities, truths)),
        "AUC": auc,
        "d_prime": d_prime(torch.tensor(auc)).item(),
        "F1": mean(f1_slowly((best == k).tolist(), truths[k]) for k in range(4)),
        "accuracy": mean((best == labels).float().tolist()),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)


def test_sure_predictions_are_still_ranked():
    # In float32, the probability of a logit of 20 or 30 is 1.
    target = torch.tensor([[1.0], [0.0], [1.0]])
    scores = collect("multi_label", torch.tensor([[30.0], [20.0], [25.0]]), target)
    assert scores.compute()["mAP"] == 1
    pairs = torch.tensor([[30.0, 0.0], [25.0, 0.0], [20.0, 0.0]])
    first = torch.nn.functional.one_hot(torch.tensor([0, 0, 1])).float()
    assert collect("single_label", pairs, first).compute()["mAP"] == 1


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_no_clips(task):
    scores = ClassificationScores(task, 3)
    assert all(math.isnan(value) for value in scores.compute().values())


def test_reset():
    scores = collect("single_label", torch.eye(3), torch.eye(3))
    assert scores.compute()["accuracy"] == 1
    scores.reset()
    scores.update(torch.eye(3), torch.eye(3)[[1, 2, 0]])
    assert scores.compute()["accuracy"] == 0


def test_shapes_are_checked():
    scores = ClassificationScores("single_label", 3)
    for logits, target in ((torch.zeros(2, 4),) * 2, (torch.zeros(2, 3), torch.zeros(2))):
        with pytest.raises(ValueError, match=r"targets of shape \(batch, 3\), got \(2,"):
            scores.update(logits, target)
    with pytest.raises(ValueError, match="`task` to be one of 'single_label', 'multi_label'"):
        ClassificationScores("multilabel", 3)


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path, generator):
    target = (torch.rand(40, 6, generator=generator) < 0.3).float()
    logits = torch.randn(40, 6, generator=generator) + target
    torch.save((logits, target), tmp_path / "clips.pt")
    script = """
        import json, sys
        import torch
        from vggish_hf.lightning.classification_scores import ClassificationScores
        torch.distributed.init_process_group("gloo")
        logits, target = torch.load(sys.argv[1])
        rank = torch.distributed.get_rank()
        scores = ClassificationScores("multi_label", 6)
        for shares in ([0, 20, 40], [0, 25, 40], [0, 40, 40]):
            first, last = shares[rank:rank + 2]
            if last > first:
                scores.update(logits[first:last], target[first:last])
            print(json.dumps({name: value.item() for name, value in scores.compute().items()}))
            scores.reset()
        torch.distributed.destroy_process_group()
    """
    expected = collect("multi_label", logits, target).compute()
    for output in run_processes(script, tmp_path / "clips.pt"):
        even, uneven, one_has_none = map(json.loads, output.splitlines())
        assert even == uneven == one_has_none
        assert even == {name: value.item() for name, value in expected.items()}


@pytest.mark.slow
def test_all_of_audioset_in_seconds(generator):
    target = torch.rand(20_371, 527, generator=generator) < 0.005
    logits = torch.randn(20_371, 527, generator=generator) + target
    scores = collect("multi_label", logits, target, batch_size=512)
    start = time.process_time()
    scores.compute()
    assert time.process_time() - start < 20  # measured: 3, on one core
