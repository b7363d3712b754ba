"""Very many small clips into a folder: memory on one machine, and what more actors of Ray do.

The clips last a second, so that what a clip costs beside its examples shows. On this machine actors
beyond its cores can only take turns: what they show is what Ray costs, as processor time of all
processes for a clip.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks import describe_machine
from benchmarks._materials import read_sounds, save_model
from benchmarks._timing import save
from benchmarks.whole_job import TICK, core_ticks

CLIPS = 100_000
RAY_CLIPS = 5_000
ACTORS = (1, 2, 4)
FILES = 256  # the others are links to these
FOLDER = 1_000  # clips
RATE = 16_000  # Hz
STEPS = 10
WARM = 0.2  # of the clips, not counted in a rate

RUN = """
import json, sys
from pathlib import Path
from vggish_hf import VGGishPipeline
from vggish_hf.jobs import embed_to_folder
from vggish_hf.inputs import find_clips

clips, model, out, steps = sys.argv[1:]

def memory():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024

clips = find_clips([clips])
pipeline = VGGishPipeline.from_pretrained(model)
done, next_step = 0, 1
found = []

def progress(count):
    global done, next_step
    done += count
    while done >= next_step * len(clips) / int(steps):
        found.append((done, memory()))
        next_step += 1

summary = embed_to_folder(pipeline, clips, out, progress=progress)
assert summary.clips == len(clips), summary.failed
print(json.dumps(found))
"""


def write_small_clips(folder: Path, count: int) -> None:
    """Write so many clips of a second into folders of a thousand."""
    files = folder / "files"
    files.mkdir()
    sounds = [waveform.numpy() for waveform, rate in read_sounds()]
    for number in range(FILES):
        start = np.random.default_rng(number).integers(100_000)
        sound = sounds[number % len(sounds)]
        samples = sound[(start + np.arange(RATE)) % len(sound)]
        soundfile.write(files / f"{number}.flac", samples, RATE)
    for number in range(count):
        group = folder / f"clips/{number // FOLDER:04}"
        group.mkdir(parents=True, exist_ok=True)
        (group / f"{number:06}.flac").hardlink_to(files / f"{number % FILES}.flac")


def measure_one_machine(scratch: Path) -> dict[str, Any]:
    """Embed all clips in a process of its own; print how its memory goes."""
    arguments = [scratch / "clips", scratch / "model", scratch / "one", STEPS]
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    busy, _ = core_ticks()
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    seconds = time.perf_counter() - start
    busy = core_ticks()[0] - busy
    steps = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{CLIPS:,} clips on one machine: {CLIPS / seconds:.0f}/s from start to end, with imports"
    )
    print(f"processor time: {1e3 * busy / TICK / CLIPS:.2f} ms a clip")
    print("clips done  " + "".join(f"{count:>9,}" for count, _ in steps))
    print("memory, MiB " + "".join(f"{memory:9.0f}" for _, memory in steps))
    return {"clips": CLIPS, "seconds": seconds, "busy_seconds": busy / TICK, "memory": steps}


def measure_engine(scratch: Path, actors: int | None) -> tuple[float, float]:
    """Embed some of the clips; return clips a second, when warm, and core seconds for a clip."""
    from vggish_hf import VGGishPipeline
    from vggish_hf.distributed import embed_to_folder as embed_on_cluster
    from vggish_hf.inputs import find_clips
    from vggish_hf.jobs import embed_to_folder

    clips = find_clips([str(scratch / "clips")])[:RAY_CLIPS]
    moments: list[tuple[int, float, int]] = [(0, time.perf_counter(), core_ticks()[0])]

    def progress(count: int) -> None:
        moments.append((moments[-1][0] + count, time.perf_counter(), core_ticks()[0]))

    options: dict[str, Any] = {"progress": progress, "part_clips": 64}
    out, model = scratch / f"actors-{actors}", scratch / "model"
    if actors is None:
        embed_to_folder(VGGishPipeline.from_pretrained(model), clips, out, **options)
    else:
        embed_on_cluster(model, clips, out, num_actors=actors, **options)
    warm = next(moment for moment in moments if moment[0] >= WARM * RAY_CLIPS)
    count, seconds, ticks = (last - first for first, last in zip(warm, moments[-1], strict=True))
    return count / seconds, ticks / TICK / count


def measure_ray(scratch: Path) -> dict[str, Any]:
    """Embed some of the clips by more and more actors; print rates, and what Ray costs."""
    import ray

    found: dict[str, Any] = {}
    # As many CPUs as are asked for, though the machine has fewer.
    ray.init(
        num_cpus=2 * max(ACTORS),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    cores = os.cpu_count() or 1
    print(f"\n{RAY_CLIPS:,} clips, ray {ray.__version__} on {cores} cores")
    print(f"{'':14}{'clips/s':>9}{'over 1 actor':>14}{'efficiency':>12}{'core ms a clip':>16}")
    for actors in (None, *ACTORS):
        rate, busy = measure_engine(scratch, actors)
        name = "without Ray" if actors is None else f"{actors} actors"
        found[name] = {"clips_per_second": rate, "core_seconds_a_clip": busy}
        line = f"{name:14}{rate:9.0f}"
        if actors is None:
            line += " " * 26
        else:
            over = rate / found[f"{ACTORS[0]} actors"]["clips_per_second"]
            line += f"{over:14.2f}{over / min(actors, cores):12.0%}"
        print(f"{line}{1e3 * busy:16.2f}", flush=True)
    ray.shutdown()
    return found


def main() -> None:
    """Print both tables and write them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    machine = describe_machine("python -m benchmarks load", torch, np, soundfile)
    print(f"{machine}\nthreads: {torch.get_num_threads()}; clips of 1 s\n")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        save_model(scratch / "model")
        write_small_clips(scratch, CLIPS)
        results = {"one machine": measure_one_machine(scratch), "ray": measure_ray(scratch)}
    save("load", {"machine": machine, "threads": torch.get_num_threads(), **results})


if __name__ == "__main__":
    main()
