"""The whole job, files to Parquet: clips a second, ours beside two loops that users write today.

The clips last 10 s, are in stereo at 44.1 kHz, and are WAV, FLAC and MP3 in turn. Each contestant
has its model loaded, ours has its decoder processes running, and embeds twenty clips in its turn:
the same ones in the same round.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch

from benchmarks import _peers, describe_machine
from benchmarks._materials import CLIP_SECONDS, save_model, write_clips
from benchmarks._timing import alternate, draw, ratio, save, spread
from benchmarks.network import network_flops
from tests.reference import mel_matrix
from vggish_hf import VGGishConfig, VGGishModel, VGGishOutput, VGGishPipeline
from vggish_hf.audio import DEFAULT_LIMITS, Decoder, IsolatedDecoders, load_audio
from vggish_hf.feature_extraction.resampling import resample
from vggish_hf.inputs import Clip, make_decoder
from vggish_hf.outputs import open_output

CLIPS = 200
PLANNED = (2_084_320, 50_000_000)  # AudioSet, a catalogue
CLIP_EXAMPLES = 10
TICK = os.sysconf("SC_CLK_TCK")  # a second
PIECE = 20  # clips a round
SECONDS = 75.0
OURS = "vggish-hf"
MEL = mel_matrix()
STATISTICS = Path("/proc/stat")
WINDOW = 0.5 - 0.5 * np.cos(2 * np.pi / 400 * np.arange(400))

Job = Callable[[Sequence[Path], Path], object]


def embed_with_ours(
    pipeline: VGGishPipeline, decode: Decoder, paths: Sequence[Path], out: Path
) -> None:
    """As `vggish-hf embed` does."""
    clips = [Clip(str(path), str(path)) for path in paths]
    size = pipeline.model.config.embedding_size
    with open_output(out, size, torch.float32, pipeline.provenance("none")) as write:
        for output in pipeline.stream(clips, decode=decode):
            write(clips[output.index].id, output)


def embed_as_today(embed: _peers.Embed, paths: Sequence[Path], out: Path) -> None:
    """A file at a time: soundfile, resampy, the log-mel in numpy, torch as ports write it."""
    import resampy

    tables = []
    for path in paths:
        samples, rate = soundfile.read(path, always_2d=True)
        waveform = resampy.resample(samples.mean(1), rate, 16_000)
        examples = torch.from_numpy(log_mel(waveform)).float()
        tables.append(make_table(path, embed(examples)))
    pq.write_table(pa.concat_tables(tables), out)


def log_mel(waveform: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(time,) at 16 kHz to (examples, 96, 64), all frames at once, in float64."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 400)[::160]
    rows = np.log(np.abs(np.fft.rfft(frames * WINDOW, 512)) @ MEL + 0.01)
    return rows[: len(rows) // 96 * 96].reshape(-1, 96, 64)


def embed_by_onnx(
    pipeline: VGGishPipeline, embed: _peers.Embed, paths: Sequence[Path], out: Path
) -> None:
    """A file at a time: our front end, and the network in ONNX Runtime."""
    tables = []
    for path in paths:
        examples = pipeline.extractor(*load_audio(path))
        tables.append(make_table(path, embed(examples)))
    pq.write_table(pa.concat_tables(tables), out)


def make_table(path: Path, embeddings: torch.Tensor) -> pa.Table:
    """A clip's rows."""
    count, size = embeddings.shape
    values = pa.FixedSizeListArray.from_arrays(embeddings.flatten().numpy(), size)
    numbers = np.arange(count)
    columns = {"id": [str(path)] * count, "example": numbers, "start_seconds": numbers * 0.96}
    return pa.table({**columns, "embedding": values})


def read_embeddings(path: Path) -> np.ndarray[Any, Any]:
    """The embeddings of a Parquet file, (rows, 128)."""
    column = pq.read_table(path)["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def measure_stages(pipeline: VGGishPipeline, paths: Sequence[Path], out: Path) -> dict[str, float]:
    """What each stage takes for a clip when it runs alone, with one thread of torch, ms."""
    stages: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Any:
        start = time.process_time()
        yield
        stages[name] = 1e3 * (time.process_time() - start) / len(paths)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(2):  # the first is to warm up
            with stage("decoding"):
                clips = [load_audio(path) for path in paths]
            with stage("resampling"):
                waveforms = [resample(waveform, rate, 16_000) for waveform, rate in clips]
            with stage("log-mel"):
                examples = [pipeline.extractor(waveform) for waveform in waveforms]
            batches = torch.cat(examples).split(32)
            with stage("network"):
                embeddings = torch.cat([pipeline.embed_examples(batch) for batch in batches])
            parts = embeddings.split([len(part) for part in examples])
            size = pipeline.model.config.embedding_size
            with stage("writing"), open_output(out, size, torch.float32, {}) as write:
                for path, part in zip(paths, parts, strict=True):
                    times = pipeline.extractor.example_times(len(part))
                    write(str(path), VGGishOutput(part, times))
    finally:
        torch.set_num_threads(threads)
    return stages


def main() -> None:
    """Print the table and the stages, write them and draw them."""
    threads = torch.get_num_threads()
    modules = [import_module(name) for name in ("onnxruntime", "resampy", "soundfile")]
    machine = describe_machine("python -m benchmarks whole_job", torch, np, pa, *modules)
    print(f"{machine}\nthreads of each network: {threads}; {CLIPS} clips, {PIECE} a round")
    with tempfile.TemporaryDirectory() as scratch, IsolatedDecoders() as decoders:
        clips, model_folder = Path(scratch, "clips"), Path(scratch, "model")
        clips.mkdir()
        write_clips(clips, CLIPS)
        save_model(model_folder)
        pipeline = VGGishPipeline.from_pretrained(model_folder)
        model = VGGishModel.from_pretrained(model_folder)
        jobs: dict[str, Job] = {
            OURS: partial(embed_with_ours, pipeline, make_decoder(decoders, DEFAULT_LIMITS)),
            "resampy, numpy, torch": partial(embed_as_today, _peers.port(model)),
            "ours, ONNX Runtime": partial(
                embed_by_onnx, pipeline, _peers.onnx_runtime(model, threads)
            ),
        }
        paths = sorted(clips.iterdir())
        outputs = {name: Path(scratch, f"{number}.parquet") for number, name in enumerate(jobs)}
        ticks: list[tuple[int, int]] = []
        runs = {
            name: piece_by_piece(job, paths, outputs[name], ticks if name == OURS else [])
            for name, job in jobs.items()
        }
        seconds = alternate(runs, SECONDS)
        rates = {name: spread([PIECE / time for time in times]) for name, times in seconds.items()}
        ahead = {name: ratio(times, seconds[OURS]) for name, times in seconds.items()}
        # All have ended with the same piece.
        ours, *others = [read_embeddings(path) for path in outputs.values()]
        errors = [float(np.linalg.norm(other - ours) / np.linalg.norm(ours)) for other in others]
        del ticks[0]  # to warm up
        busy = spread([busy / max(busy + idle, 1) for busy, idle in ticks])
        core_ms = 1e3 * sum(busy for busy, _ in ticks) / TICK / PIECE / len(ticks)
        stages = measure_stages(pipeline, paths[:PIECE], outputs[OURS])
        half = VGGishPipeline.from_pretrained(model_folder, dtype=torch.bfloat16)
        network_ms = {
            "float32": stages["network"],
            "bfloat16": measure_stages(half, paths[:PIECE], outputs[OURS])["network"],
        }
        plans = [plan(count, core_ms, network_ms) for count in PLANNED]
    print(f"\n{len(seconds[OURS])} rounds{'':17}{'clips/s':>10}{'ours over it':>20}{'apart':>10}")
    for name, error in zip(jobs, [0.0, *errors], strict=True):
        print(f"{name:26}{rates[name].median:10.1f}{ahead[name]!s:>20}{error:10.1e}")
    print(f"ours keeps {busy} of the cores busy, and takes {core_ms:.1f} ms of a core for a clip")
    total = sum(stages.values())
    print(f"\nours, each stage alone on one thread: {total:.1f} ms of CPU a clip")
    for name, milliseconds in stages.items():
        print(f"{name:26}{milliseconds:10.2f} ms {milliseconds / total:8.1%}")
    print(f"\nwhat follows for more clips of {CLIP_SECONDS} s")
    for name in plans[0]:
        print(f"{name:44}" + "".join(f"{each[name]:>16,.4g}" for each in plans))
    save(
        "whole_job",
        {"machine": machine, "threads": threads, "clips_per_second": rates, "ours_over": ahead}
        | {"busy": busy, "core_ms": core_ms, "stages_ms": stages, "network_ms": network_ms}
        | {"plans": plans},
    )
    title = f"Files to Parquet, {PIECE} clips of 10 s at a time, threads: {threads}"
    draw("whole_job", title, "clips a second", {"WAV, FLAC and MP3": rates})


def piece_by_piece(
    job: Job, paths: Sequence[Path], out: Path, ticks: list[tuple[int, int]]
) -> Callable[[], None]:
    """Make what runs the job on the next piece, and appends how the cores were busy and idle."""
    pieces = itertools.cycle([paths[at : at + PIECE] for at in range(0, len(paths), PIECE)])

    def run() -> None:
        before = core_ticks()
        job(next(pieces), out)
        busy, idle = (now - then for now, then in zip(core_ticks(), before, strict=True))
        ticks.append((busy, idle))

    return run


def plan(count: int, core_ms: float, network_ms: Mapping[str, float]) -> dict[str, float]:
    """What so many clips take, from what one took."""
    config = VGGishConfig()
    without = core_ms - network_ms["float32"]
    hours = {name: count * (without + each) / 3.6e6 for name, each in network_ms.items()}
    rows = count * CLIP_EXAMPLES
    return {
        "clips": count,
        **{f"core-hours, {name}": each for name, each in hours.items()},
        "core-hours without the network": count * without / 3.6e6,
        "the network, 10^15 operations": rows * network_flops(config) / 1e15,
        "between machines on a cluster, TB": rows
        * config.num_frames
        * config.num_mel_bins
        * 4
        / 1e12,
        "embeddings, float32, GB": rows * config.embedding_size * 4 / 1e9,
        "embeddings, uint8, GB": rows * config.embedding_size / 1e9,
    }


def core_ticks() -> tuple[int, int]:
    """For how long all cores have been busy, with whatever process, and idle; Linux's count."""
    if not STATISTICS.exists():
        return 0, 0
    ticks = list(map(int, STATISTICS.read_text().split("\n", 1)[0].split()[1:9]))
    idle = ticks[3] + ticks[4]  # also waiting for the disk
    return sum(ticks) - idle, idle


if __name__ == "__main__":
    main()
