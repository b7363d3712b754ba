"""How good the bundled network's recipe is: trained on folds 1 to 3 of ESC-10, tried on fold 4.

A linear probe, logistic regression on the mean of a clip's embeddings, learns from folds 1 to 3 as
well. The network that is bundled has learnt from fold 4 too.
"""

import re
import tempfile
import time
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import describe_machine
from vggish_hf import VGGishPipeline
from vggish_hf.cli import main as vggish_hf
from vggish_hf.inputs import find_clips

ESC10 = Path(__file__).parents[2] / "shared/data/esc10"
HELD_OUT = 4


def main() -> None:
    """Train, and print the accuracies."""
    print(describe_machine("python -m benchmarks demo_network", torch, lightning))
    if not ESC10.is_dir():
        print("skipped: it needs ESC-10 in ../shared/data/esc10")
        return
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--data.source", str(ESC10), "--network", folder]
        held_out = ["--data.test_folds", f"[{HELD_OUT}]", "--trainer.enable_progress_bar", "false"]
        vggish_hf(["train", "--config", "esc10-demo", *options, *held_out])
        minutes = (time.perf_counter() - start) / 60
        pipeline = VGGishPipeline.from_pretrained(folder)
    paths = [Path(clip.path) for clip in find_clips([str(ESC10)])]
    clips = torch.stack([out.embeddings.mean(0) for out in pipeline.stream(paths)])
    names = sorted({path.parent.name for path in paths})
    labels = torch.tensor([names.index(path.parent.name) for path in paths])
    folds = torch.tensor([int(re.match(r"\d", path.name)[0]) for path in paths])
    accuracy = probe(clips, labels, folds == HELD_OUT)
    print(f"trained in {minutes:.1f} min; linear probe on fold {HELD_OUT}: {accuracy:.1%}")


def probe(clips: Tensor, labels: Tensor, is_held_out: Tensor) -> float:
    """Fit logistic regression, its squared weights as penalty, and return the accuracy."""
    clips = clips.double()
    train, target = clips[~is_held_out], labels[~is_held_out]
    weight = torch.zeros(clips.shape[1], int(labels.max()) + 1, dtype=clips.dtype)
    bias = torch.zeros(weight.shape[1], dtype=clips.dtype)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=1000, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(train @ weight + bias, target, reduction="sum")
        loss = loss + weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(evaluate)
    found = (clips[is_held_out] @ weight + bias).argmax(1)
    return (found == labels[is_held_out]).double().mean().item()
