"""torch without its private operators: the plain network runs, and `info` says why."""

import json
import platform
import subprocess
import sys

import pytest
import torch

# Deleted before the package is imported, as in a torch that never had them.
HIDDEN = {
    "hooks": "import torch.nn.modules.module as m; del m._has_any_global_hook",
    "pack_convolution": "del torch._C._nn.mkldnn_reorder_conv2d_weight",
    "convolution": "hide('_convolution_pointwise')",
    "pack_linear": "hide('_reorder_linear_weight')",
    "linear": "hide('_linear_pointwise')",
    "bfloat16": "hide('_is_mkldnn_bf16_supported')",
    "raising": "replace('_linear_pointwise', fail)",
    "other numbers": "replace('_linear_pointwise', lambda *a: 1.1 * linear(*a))",
}

SCRIPT = """
import json, sys, torch
linear = torch.ops.mkldnn._linear_pointwise

def fail(*_):
    raise RuntimeError("not in this build")

class Operators:
    names = {}
    def __init__(self, real):
        self.real = real
    def __getattr__(self, name):
        if name in self.names:
            if self.names[name] is None:
                raise AttributeError(f"no attribute {name!r}")
            return self.names[name]
        return getattr(self.real, name)

def replace(name, value):
    Operators.names[name] = value
    torch.ops.mkldnn = Operators(torch.ops.mkldnn)

def hide(name):
    replace(name, None)

exec(sys.argv[1])
from vggish_hf import VGGishPipeline
from vggish_hf.cli import main
pipe = VGGishPipeline.from_pretrained("demo")
waveform = torch.linspace(-1, 1, 44_100)
found = pipe((waveform, 16_000)).embeddings
expected = pipe.model(pipe.extractor(waveform)).detach()
print((found - expected).abs().max().item())
main(["info", "--runtime"])
"""


def run(hiding):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, hiding],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    error, _, described = done.stdout.partition("\n")
    return float(error), json.loads(described)["runtime"]


@pytest.mark.slow
@pytest.mark.parametrize("name", HIDDEN)
def test_where_one_is_missing_the_plain_network_runs(name):
    error, runtime = run(HIDDEN[name])
    assert error == 0
    assert (runtime["network"], runtime["packed_dtypes"]) == ("plain", [])
    assert runtime["torch"] == torch.__version__
    expected = "give other numbers" if name == "other numbers" else "lacks a private operator: "
    assert expected in runtime["reason"]


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="this machine has no oneDNN, or is no x86",
)
def test_where_all_are_there_the_packed_network_runs():
    error, runtime = run("")
    assert error < 1e-5
    assert runtime["network"] == "packed"
    assert "float32" in runtime["packed_dtypes"]
