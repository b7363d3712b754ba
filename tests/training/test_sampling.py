import json
import subprocess
import sys
from collections import Counter

import pytest
import torch

from vggish_hf.training.sampling import BalancedSampler, hold_out

LABELS = [[0]] * 900 + [[1]] * 90 + [[2]] * 10


def test_each_class_comes_up_equally_often():
    torch.manual_seed(0)
    sampler = BalancedSampler(LABELS)
    drawn = Counter()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        indices = list(sampler)
        assert len(indices) == len(sampler) == 1000
        drawn.update(LABELS[i][0] for i in indices)
    assert all(abs(drawn[label] / 20_000 - 1 / 3) < 0.02 for label in range(3))


def test_clips_of_several_classes_or_none():
    sampler = BalancedSampler([[0, 1], [0], [], [1], [0, 3]])
    expected = torch.tensor([1 / 3 + 1 / 2, 1 / 3, 0, 1 / 2, 1 / 3 + 1], dtype=torch.float64)
    assert torch.allclose(sampler.weights, expected)
    torch.manual_seed(0)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        assert 2 not in list(sampler)


def test_the_epoch_and_the_seed_decide():
    torch.manual_seed(5)
    sampler = BalancedSampler(LABELS)
    first = list(sampler)
    torch.rand(7)  # what else draws has no influence
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    torch.manual_seed(6)
    sampler.set_epoch(0)
    assert list(sampler) != first
    torch.manual_seed(5)
    again = BalancedSampler(LABELS)
    assert list(again) == first


def test_no_clip_has_a_class():
    for labels in ([], [[], []]):
        with pytest.raises(ValueError, match="none has one"):
            BalancedSampler(labels)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.7])
def test_hold_out_keeps_the_shares(fraction):
    stay, held_out = hold_out(LABELS, fraction, seed=0)
    assert sorted(stay + held_out) == list(range(1000))
    assert stay == sorted(stay)
    assert held_out == sorted(held_out)
    counts = Counter(LABELS[i][0] for i in held_out)
    for label, size in enumerate((900, 90, 10)):
        assert abs(counts[label] - size * fraction) <= 1


def test_hold_out_of_many_small_classes():
    # Each class alone would hold out none.
    labels = [[i // 4] for i in range(400)]
    _, held_out = hold_out(labels, 0.1, seed=0)
    assert len(held_out) == 40
    assert max(Counter(labels[i][0] for i in held_out).values()) == 1


def test_hold_out_by_the_rarest_class():
    labels = [[0, 1]] * 50 + [[0]] * 50 + [[0, 1, 2]] * 20 + [[]] * 10
    _, held_out = hold_out(labels, 0.2, seed=0)
    found = Counter(tuple(labels[i]) for i in held_out)
    assert all(
        abs(found[key] - size) <= 1
        for key, size in {(0, 1): 10, (0,): 10, (0, 1, 2): 4, (): 2}.items()
    )


def test_hold_out_by_seed():
    first = hold_out(LABELS, 0.2, seed=0)
    torch.rand(3)
    assert hold_out(LABELS, 0.2, seed=0) == first
    assert hold_out(LABELS, 0.2, seed=1) != first


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 0.0001, 1.0, 1.5])
def test_hold_out_leaves_clips_on_both_sides(fraction):
    with pytest.raises(ValueError, match=f"got {fraction} of 1000"):
        hold_out(LABELS, fraction, seed=0)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_one_clip_of_each_class_stays(seed, fraction):
    single = [[0]] * 12 + [[1]] * 12 + [[2]]
    several = [[0, 1]] * 10 + [[2]] * 2 + [[0, 3], [4, 3], [5], []]
    for labels in (single, several):
        stay, held_out = hold_out(labels, fraction, seed)
        assert sorted(stay + held_out) == list(range(len(labels)))
        assert held_out
        assert {k for i in stay for k in labels[i]} == {k for clip in labels for k in clip}


def test_hold_out_of_classes_of_one_clip_each():
    with pytest.raises(ValueError, match="a class of more than one clip to hold out"):
        hold_out([[i] for i in range(10)], 0.2, seed=0)


DISTRIBUTED = """
import json, sys
import lightning.pytorch as pl, torch
from torch.utils.data import DataLoader
from vggish_hf.training.sampling import BalancedSampler

LABELS = [[0]] * 90 + [[1]] * 10

class Listener(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.drawn = [[], []]
    def training_step(self, batch):
        self.drawn[self.current_epoch] += batch.tolist()
        return (self.weight * batch).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
    def on_fit_end(self):
        with open(f"{sys.argv[1]}/{self.global_rank}.json", "w") as file:
            json.dump(self.drawn, file)

pl.seed_everything(0)
loader = DataLoader(torch.arange(100), 10, sampler=BalancedSampler(LABELS))
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
listener = Listener()
torch.rand(int(trainer.global_rank))  # the processes draw unlike numbers elsewhere
trainer.fit(listener, loader)
"""


@pytest.mark.slow
def test_two_processes_share_what_is_drawn(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    drawn = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    sampler = BalancedSampler([[0]] * 90 + [[1]] * 10)
    for epoch in (0, 1):
        torch.manual_seed(0)
        sampler.set_epoch(epoch)
        assert [len(rank[epoch]) for rank in drawn] == [50, 50]
        assert sorted(drawn[0][epoch] + drawn[1][epoch]) == sorted(sampler)
        assert 30 < sum(index >= 90 for rank in drawn for index in rank[epoch]) < 70
    assert drawn[0][0] != drawn[0][1]
