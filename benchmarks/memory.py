"""Memory of `vggish-hf embed`: the most that it took, for few clips, many, and a very long one.

Each run is a process of its own, whose peak is the system's count. The weights' file is mapped into
memory, and its pages count. The decoders are processes more, whose peaks are looked up while they
are running.
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
import json, sys, threading, time
from pathlib import Path
import vggish_hf.cli

def peak(process="self"):
    # Linux; ru_maxrss would begin with the peak of the process that started this one
    status = Path("/proc", process, "status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

decoders = [0]

def watch():
    while True:
        pids = [pid for task in Path("/proc/self/task").glob("*/children")
                for pid in task.read_text().split()]
        try:
            decoders.append(sum(map(peak, pids)))
        except (OSError, IndexError):  # one has ended
            pass
        time.sleep(0.2)

threading.Thread(target=watch, daemon=True).start()

imported = peak()
if vggish_hf.cli.main(["embed", *sys.argv[1:]]):
    sys.exit("not every file was embedded")
print(json.dumps([imported, peak(), max(decoders)]))
"""


def measure(source: Path, model: Path, out: Path) -> tuple[float, float, float]:
    """Embed a file or a folder; return peaks: after importing, at the end, of decoders; MiB."""
    arguments = [source, "-o", out, "--model", model]
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    imported, peak, decoders = json.loads(done.stdout.splitlines()[-1])
    return imported, peak, decoders


def link_clips(folder: Path, files: Path, count: int) -> None:
    """Fill a folder with links to a few files."""
    folder.mkdir()
    paths = itertools.cycle(sorted(files.iterdir()))
    for number, path in zip(range(count), paths, strict=False):
        (folder / f"{number:05}{path.suffix}").hardlink_to(path)


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
        columns = ("peak", "imports", "weights", "the rest", "decoders")
        print(" " * 24 + "".join(f"{column:>10}" for column in columns))
        for name, source in sources.items():
            imported, peak, decoders = measure(source, model, Path(scratch, "out.parquet"))
            found = (peak, imported, weights, peak - imported - weights, decoders)
            print(f"{name:24}" + "".join(f"{value:10.0f}" for value in found))
            results[name] = dict(zip(columns, found, strict=True))
    save("memory", {"machine": machine, "threads": torch.get_num_threads(), "MiB": results})


if __name__ == "__main__":
    main()
