"""The package: what it exports, and that it needs torch alone."""

import pkgutil
import subprocess
import sys

import pytest

import vggish_hf.lightning
import vggish_hf.training

WITHOUT = """
import importlib, sys
for name in ("lightning", "torchmetrics", "jsonargparse", "datasets", "torchaudio"):
    sys.modules[name] = None  # an import of it fails
for name in sys.argv[1:]:
    importlib.import_module(name)
from vggish_hf.training import *
from vggish_hf.training import BalancedSampler, HeadConfig, SpecAugment, mixup

"""


@pytest.mark.slow
def test_every_module_works_without_lightning():
    modules = [
        module.name
        for module in pkgutil.walk_packages(vggish_hf.training.__path__, "vggish_hf.training.")
    ]
    assert "vggish_hf.training.scores" in modules
    command = [sys.executable, "-c", WITHOUT, "vggish_hf.training", *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lightning_hands_on_what_training_has():
    assert {
        "BalancedSampler",
        "EmbeddingBatch",
        "HeadConfig",
        "SpecAugment",
        "WaveformAugmentation",
        "WaveformBatch",
        "WaveformClip",
        "collate_waveforms",
        "extract_batch",
        "make_head",
        "mixup",
    } == {
        name
        for name, value in vars(vggish_hf.training).items()
        if getattr(vggish_hf.lightning, name, None) is value and not name.startswith("__")
    }
