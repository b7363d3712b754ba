"""Memory of `vggish-hf embed`: the most that it took, for few clips, many, and a very long one.

Each run is a process of its own, whose peak is the system's count. The weights' file is mapped into
memory, and its pages count.
"""

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import describe_machine
from benchmarks._materials import CLIP_SECONDS, read_sounds, save_model, write_clip, write_clips
from benchmarks._timing import save

COUNTS = (20, 200, 2_000)
HOURS = 3
MIB = 1 << 20

RUN = """
import json, sys
from pathlib import Path
import vggish_hf.cli

def peak():
    # Linux; ru_maxrss would begin with the peak of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

imported = peak()
if vggish_hf.cli.main(["embed", *sys.argv[1:]]):
    sys.exit("not every file was embedded")
print(json.dumps([imported, peak()]))
"""


def measure(source: Path, model: Path, out: Path) -> tuple[float, float]:
    """Embed a file or a folder; return the peaks after importing and at the end, MiB."""
    arguments = [source, "-o", out, "--model", model]
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    imported, peak = json.loads(done.stdout.splitlines()[-1])
    return imported, peak


def link_clips(folder: Path, files: Path, count: int) -> None:
    """Fill a folder with links to a few files."""
    folder.mkdir()
    paths = itertools.cycle(sorted(files.iterdir()))
    for number, path in zip(range(count), paths, strict=False):
        (folder / f"{number:05}{path.suffix}").symlink_to(path)


def main() -> None:
    """Print the table and write it."""
    machine = describe_machine("python -m benchmarks memory", torch, np)
    print(f"{machine}\nthreads: {torch.get_num_threads()}; MiB\n")
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        model, files, long = (Path(scratch, name) for name in ("model", "files", "long.flac"))
        save_model(model)
        files.mkdir()
        write_clips(files, min(COUNTS))
        sound, _ = read_sounds()[0]
        write_clip(long, sound.numpy(), HOURS * 3_600, np.random.default_rng(0))
        sources = {}
        for count in COUNTS:
            source = Path(scratch, str(count))
            link_clips(source, files, count)
            sources[f"{count:,} clips of {CLIP_SECONDS} s"] = source
        sources[f"a file of {HOURS} hours"] = long
        weights = (model / "model.safetensors").stat().st_size / MIB
        print(f"{'':24}{'peak':>10}{'imports':>10}{'weights':>10}{'the rest':>10}")
        for name, source in sources.items():
            imported, peak = measure(source, model, Path(scratch, "out.parquet"))
            rest = peak - imported - weights
            print(f"{name:24}{peak:10.0f}{imported:10.0f}{weights:10.0f}{rest:10.0f}")
            results[name] = {"peak": peak, "imports": imported, "weights": weights, "rest": rest}
    save("memory", {"machine": machine, "threads": torch.get_num_threads(), "MiB": results})


if __name__ == "__main__":
    main()
