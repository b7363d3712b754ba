"""What torch keeps for the whole process neither moves numbers nor stops forked processes."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

SCRIPT = """
import hashlib, json, os, sys
import torch
{before}
from vggish_hf import VGGishFeatureExtractor, VGGishPipeline

def digest(tensor):
    return [str(tensor.dtype), tensor.device.type,
            hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()]

def run():
    found = {{}}
    generator = torch.Generator("cpu").manual_seed(0)
    extractor = VGGishFeatureExtractor()
    waveform = torch.rand(
        2, 90_000, generator=generator, dtype=torch.float32, device="cpu") - 0.5
    {state}:
        pipe = VGGishPipeline.from_pretrained("demo")
        for dtype in (torch.float32, torch.float64):
            for rate in (16_000, 44_100, 8_001):
                examples = extractor(waveform.to(dtype), rate)
                found[f"examples {{dtype}} {{rate}}"] = digest(examples)
        found["float32"] = digest(pipe((waveform[0], 44_100)).embeddings)
        found["bfloat16"] = digest(
            VGGishPipeline.from_pretrained("demo", dtype=torch.bfloat16)(
                (waveform[0], 16_000)).embeddings)
        out = VGGishPipeline.from_pretrained("demo", dtype=torch.float64)((waveform[0], 44_100))
        found["float64"] = digest(out.embeddings)
        found["times"] = digest(out.start_seconds)
        found["none"] = digest(pipe((waveform[0, :9], 16_000)).embeddings)
    return found

found = run()
{after}
extractor = VGGishFeatureExtractor()
waveform = torch.full((1, 90_000), 0.1, requires_grad=True)
extractor(waveform, 44_100).sum().backward()  # by the kernels that were made above
print(json.dumps(found))
"""

ALWAYS = "if True"
STATES = {
    "autocast": (ALWAYS, 'with torch.autocast("cpu", dtype=torch.bfloat16)', ""),
    "default bfloat16": (
        "torch.set_default_dtype(torch.bfloat16)",
        ALWAYS,
        "torch.set_default_dtype(torch.float32)",
    ),
    "default float64": (
        "torch.set_default_dtype(torch.float64)",
        ALWAYS,
        "torch.set_default_dtype(torch.float32)",
    ),
    "default device": (
        'torch.set_default_device("meta")',
        ALWAYS,
        "torch.set_default_device(None)",
    ),
    "device": (ALWAYS, 'with torch.device("meta")', ""),
    "matmul precision": ('torch.set_float32_matmul_precision("medium")', ALWAYS, ""),
    "deterministic": ("torch.use_deterministic_algorithms(True)", ALWAYS, ""),
    "inference mode": (ALWAYS, "with torch.inference_mode()", ""),
    "no gradients": (
        "torch.set_grad_enabled(False)",
        ALWAYS,
        "torch.set_grad_enabled(True)",
    ),
    "denormals": ("torch.set_flush_denormal(True)", ALWAYS, ""),
}


def run_under(before, state, after):
    before, after = ("" if text == ALWAYS else text for text in (before, after))
    script = SCRIPT.format(before=before, state=state, after=after)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected():
    return run_under("", ALWAYS, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
def test_it_changes_no_bit(name, expected):
    assert run_under(*STATES[name]) == expected


FORK = """
import os, sys, time
import torch
from vggish_hf import VGGishFeatureExtractor, VGGishModel, VGGishPipeline

torch.set_num_threads(2)
waveform = torch.linspace(-1, 1, 441_000)
pipe = VGGishPipeline.from_pretrained("demo")
extractor, model = VGGishFeatureExtractor(), VGGishModel.from_pretrained("demo")

def run():
    examples = extractor(waveform, 44_100)
    return pipe((waveform, 44_100)).embeddings, model(examples).detach()

expected = run()
child = os.fork()
if child == 0:
    close = [torch.allclose(a, b, atol=1e-4) for a, b in zip(run(), expected)]
    os._exit(0 if all(close) and torch.get_num_threads() == 1 else 1)
end = time.monotonic() + 60
while time.monotonic() < end:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        assert torch.get_num_threads() == 2
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.05)
os.kill(child, 9)
sys.exit("the forked child hangs")
"""

MAP = """
import torch
from datasets import Dataset
from vggish_hf import VGGishPipeline

torch.set_num_threads(2)
pipe = VGGishPipeline.from_pretrained("demo")
pipe((torch.zeros(441_000), 44_100))

def embed(row):
    return {"rows": len(pipe((torch.full((44_100 * 3,), row["x"]), 44_100)).embeddings)}

data = Dataset.from_dict({"x": [0.1, 0.2, 0.3, 0.4]})
print(data.map(embed, num_proc=2)["rows"][:])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("script", [FORK, MAP], ids=["fork", "datasets.map"])
def test_a_fork_after_use(script):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    if script is MAP:
        assert done.stdout == "[3, 3, 3, 3]\n"


def test_without_autocast_on_any_device():
    from vggish_hf._runtime.torch_state import without_autocast

    with torch.autocast("cpu"), without_autocast(torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
    with without_autocast(torch.device("meta")):
        pass
