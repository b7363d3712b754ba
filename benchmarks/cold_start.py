"""What a fresh process takes to begin: the imports, and the first clip by `vggish-hf embed`.

Every run is a process of its own; all take turns. The files are in the system's cache.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import describe_machine
from benchmarks._materials import CLIP_SECONDS, read_sounds, save_model, write_clip
from benchmarks._timing import alternate, ratio, save, spread

SECONDS = 60.0

# What the command does, and when; the first argument is where to write the times to.
STEPS = """
import json, sys, time
start = time.perf_counter()
steps = {}

def end(name):
    global start
    now = time.perf_counter()
    steps[name] = now - start
    start = now

import torch
end("import torch")
import vggish_hf
end("import vggish_hf")
from vggish_hf import *
end("import all of its names")
import vggish_hf.cli.embed
end("import the command")
from pathlib import Path
from vggish_hf.outputs import open_output
times, clip, out, model = sys.argv[1:]
pipeline = vggish_hf.VGGishPipeline.from_pretrained(model)
end("load the model")
provenance = pipeline.provenance("none")
end("hash the weights")
(output,) = pipeline.stream([clip])
end("embed the clip")
with open_output(Path(out), output.embeddings.shape[1], torch.float32, provenance) as write:
    write(clip, output)
end("write")
Path(times).write_text(json.dumps(steps))
"""


def run_python(*arguments: object) -> None:
    """Run an interpreter to its end."""
    command = [sys.executable, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Print the times and write them."""
    machine = describe_machine("python -m benchmarks cold_start", torch, np)
    print(f"{machine}\nthreads: {torch.get_num_threads()}; medians and quartiles, s\n")
    with tempfile.TemporaryDirectory() as scratch:
        clip, out, model, times = (
            Path(scratch, name) for name in ("one.wav", "out.parquet", "model", "times.json")
        )
        save_model(model)
        sound, _ = read_sounds()[0]
        write_clip(clip, sound.numpy(), CLIP_SECONDS, np.random.default_rng(0))
        steps: list[dict[str, float]] = []

        def run_steps() -> None:
            run_python("-c", STEPS, times, clip, out, model)
            steps.append(json.loads(times.read_text()))

        embed = ["-m", "vggish_hf.cli", "embed", clip, "-o", out, "--model", model]
        runs: dict[str, Callable[[], object]] = {
            "python": partial(run_python, "-c", "pass"),
            "import torch": partial(run_python, "-c", "import torch"),
            "import vggish_hf": partial(run_python, "-c", "import vggish_hf"),
            "all of its names": partial(run_python, "-c", "from vggish_hf import *"),
            "vggish-hf --help": partial(run_python, "-m", "vggish_hf.cli", "--help"),
            "vggish-hf embed": partial(run_python, *embed),
            "the same, step by step": run_steps,
        }
        seconds = alternate(runs, SECONDS)
    for name, measured in seconds.items():
        print(f"{name:28}{spread(measured)!s:>22}")
    for name, ours, theirs in (
        ("its names beyond torch", "all of its names", "import torch"),
        ("vggish_hf beyond python", "import vggish_hf", "python"),
        ("--help beyond python", "vggish-hf --help", "python"),
    ):
        pairs = (seconds[ours], seconds[theirs])
        beyond = spread([more - less for more, less in zip(*pairs, strict=True)])
        print(f"{name:28}{beyond!s:>22}   {ratio(*pairs)} times {theirs}")
    print("\nstep by step, one clip of 10 s")
    steps = steps[1:]  # the first was to warm up
    medians = {name: statistics.median(run[name] for run in steps) for name in steps[0]}
    whole = statistics.median(seconds["the same, step by step"])
    medians["start and end of Python"] = whole - sum(medians.values())
    for name, middle in medians.items():
        print(f"{name:28}{middle:10.3f}{middle / whole:8.1%}")
    spreads = {name: spread(measured) for name, measured in seconds.items()}
    save("cold_start", {"machine": machine, "seconds": spreads, "steps": medians})


if __name__ == "__main__":
    main()
