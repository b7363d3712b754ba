"""Export AudioSet's clips, from files that are clips and from whole videos, and embed them.

Each run is a process of its own, whose peak memory is the system's count. The sound is noise.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import soundfile
import torch

from benchmarks import describe_machine
from vggish_hf import VGGishConfig, VGGishFeatureExtractor, VGGishModel

RATE = 44_100  # Hz, in stereo
SECONDS = 10

RUN = """
import json, sys, time
from pathlib import Path
from vggish_hf import VGGishPipeline
from vggish_hf.audioset import embed_clips, export_clips

def peak():
    # Linux; ru_maxrss would begin with the peak of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

command, *arguments = sys.argv[1:]
if command == "embed":
    arguments[1] = VGGishPipeline.from_pretrained(arguments[1])
before, start = peak(), time.perf_counter()
done = export_clips(*arguments) if command == "export" else embed_clips(*arguments)["eval"]
print(json.dumps([done.clips / (time.perf_counter() - start), before, peak()]))
"""


def write_clips(folder: Path, count: int, ending: str, seconds: int) -> None:
    """Write a CSV and the files of so many clips, all of them links to one file."""
    (folder / "audio").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (RATE, 2)).clip(-1, 1)
    with soundfile.SoundFile(folder / f"sound.{ending}", "w", RATE, 2) as sound:
        for _ in range(seconds):
            sound.write(noise)
    lines = ["# a\n", "# b\n", "# c\n"]
    start = float(seconds // 2 if seconds > SECONDS else 0)
    for number in range(count):
        (folder / "audio" / f"Y{number:011}.{ending}").symlink_to(folder / f"sound.{ending}")
        lines.append(f'{number:011}, {start:.3f}, {start + SECONDS:.3f}, "/m/09x0r"\n')
    (folder / "eval_segments.csv").write_text("".join(lines))


def main() -> None:
    """Print the table."""
    print(describe_machine("python -m benchmarks audioset_clips", datasets, pa, torch))
    title = f"{SECONDS} s in stereo at {RATE} Hz"
    print(f"\n{title:36}{'clips/s':>10}{'peak MiB':>10}{'before':>10}")
    with tempfile.TemporaryDirectory() as scratch:
        for count, ending, seconds in (
            (200, "ogg", SECONDS),
            (1_000, "ogg", SECONDS),
            (200, "flac", 300),
            (200, "mp3", 300),
        ):
            folder = Path(scratch, f"{count}-{ending}-{seconds}")
            write_clips(folder, count, ending, seconds)
            sources = (folder / "eval_segments.csv", folder / "audio")
            kind = "clips" if seconds == SECONDS else f"cut out of {seconds} s"
            report(f"export {count:,}, {ending}, {kind}", "export", *sources, folder / "out")
        torch.manual_seed(0)
        model = Path(scratch, "model")
        VGGishModel(VGGishConfig(postprocessor=True)).save_pretrained(model)
        VGGishFeatureExtractor().save_pretrained(model)
        clips = Path(scratch, f"200-ogg-{SECONDS}", "out")
        report("embed 200, float32", "embed", clips, model, Path(scratch, "embedded"))


def report(name: str, *arguments: str | Path) -> None:
    """Run in a process of its own, and print clips a second, MiB at the most and before."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=True)
    speed, before, peak = json.loads(done.stdout)
    print(f"{name:36}{speed:10,.1f}{peak:10,.0f}{before:10,.0f}")


if __name__ == "__main__":
    main()
