"""The front end alone: clips to log-mel examples, ours beside the original's and torchaudio's.

The original's is resampy's `kaiser_best` and numpy, as fast as these allow, a clip after the other.
Those of torchaudio are the transforms that people put together in its place, with its defaults;
they give other numbers. The clips last 10 s and are real sounds with faint noise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

from benchmarks import describe_machine
from benchmarks._materials import read_sounds
from benchmarks._timing import alternate, ratio, save, spread
from tests.reference import mel_matrix
from vggish_hf import VGGishFeatureExtractor

RATES = (16_000, 44_100, 48_000)  # Hz
SECONDS = 10  # of a clip
BATCHES = (1, 16)
TURN = 8  # clips, in as many calls as it takes
ROUNDS = 1.5  # seconds of new rounds, for each case; those with many clips take longer

OURS, ORIGINAL, TORCHAUDIO = "vggish-hf", "resampy, numpy", "torchaudio"
MEL = mel_matrix()
WINDOW = 0.5 - 0.5 * np.cos(2 * np.pi / 400 * np.arange(400))

FrontEnd = Callable[[Tensor, int], Any]


def original(clips: Tensor, rate: int) -> Tensor:
    """(clips, time) to (clips, examples, 96, 64), float64."""
    import resampy

    examples = []
    for clip in clips.numpy():
        waveform = clip if rate == 16_000 else resampy.resample(clip, rate, 16_000)
        frames = np.lib.stride_tricks.sliding_window_view(waveform, 400)[::160]
        log_mel = np.log(np.abs(np.fft.rfft(frames * WINDOW, 512)) @ MEL + 0.01)
        examples.append(log_mel[: len(log_mel) // 96 * 96].reshape(-1, 96, 64))
    return torch.from_numpy(np.stack(examples))


class Torchaudio(nn.Module):
    """(clips, time) to (clips, examples, 96, 64)."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.resample = torchaudio.transforms.Resample(rate, 16_000)
        self.mel = torchaudio.transforms.MelSpectrogram(
            n_fft=512, win_length=400, hop_length=160, f_min=125, f_max=7_500, n_mels=64, power=1
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Compute (clips, examples, 96, 64)."""
        log_mel = torch.log(self.mel(self.resample(clips)) + 0.01)
        return log_mel.unfold(-1, 96, 96).permute(0, 2, 3, 1)


def make_clips(count: int, rate: int) -> Tensor:
    """Real sounds, repeated and taken as if they had this rate: (count, time)."""
    sounds = [waveform for waveform, _ in read_sounds()]
    time = torch.arange(SECONDS * rate)
    noise = 1e-3 * torch.randn(count, len(time), generator=torch.Generator().manual_seed(0))
    repeated = [sounds[n % len(sounds)] for n in range(count)]
    return torch.stack([sound[time % len(sound)] for sound in repeated]) + noise


@torch.inference_mode()
def measure(clips: Tensor, rate: int) -> dict[str, Any]:
    """Print a line, and return the milliseconds a clip, the ratios and the differences."""
    extractor, other = VGGishFeatureExtractor(), Torchaudio(rate)
    contestants: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: extractor(clips, rate),
        ORIGINAL: lambda: original(clips, rate),
        TORCHAUDIO: lambda: other(clips),
    }
    calls = max(TURN // len(clips), 1)
    times = alternate(contestants, ROUNDS, dict.fromkeys(contestants, calls))
    clip = {
        name: spread([1e3 * time / len(clips) for time in measured])
        for name, measured in times.items()
    }
    faster = {name: ratio(times[name], times[OURS]) for name in (ORIGINAL, TORCHAUDIO)}
    expected = contestants[ORIGINAL]()
    apart = {
        name: (contestants[name]() - expected).abs().mean().item() for name in (OURS, TORCHAUDIO)
    }
    case = f"{len(clips):5} {rate:6}"
    speed = "".join(f"{clip[name].median:10.2f}" for name in contestants)
    print(
        f"{torch.get_num_threads():7} {case} {speed}"
        f"{faster[ORIGINAL]!s:>22}{faster[TORCHAUDIO]!s:>20}"
        f"{apart[OURS]:10.0e}{apart[TORCHAUDIO]:12.0e}"
    )
    return {"ms a clip": clip, "ours over it": faster, "mean difference": apart}


def main() -> None:
    """Print the table and write it."""
    try:
        import resampy
    except ImportError:
        print("skipped: it needs resampy; `make bench` installs it, or pip install resampy")
        return
    command = "python -m benchmarks front_end"
    machine = describe_machine(command, torch, torchaudio, resampy, np)
    print(
        f"{machine}\nmedians; ratios of pairs with their quartiles; the original's has one thread\n"
    )
    print(
        f"{'':7} {'':5} {'':6} {'ms a clip':^30}{'ours is faster than':^42}{'mean |difference|':>22}"  # noqa: E501
    )
    print(
        f"{'threads':7} {'clips':>5} {'Hz':>6} {'ours':>10}{'original':>10}{'torchaudio':>10}"
        f"{'the original':>22}{TORCHAUDIO:>20}{'ours':>10}{TORCHAUDIO:>12}"
    )
    results: dict[str, Any] = {"machine": machine}
    everything = torch.get_num_threads()
    for threads in sorted({1, everything}):
        torch.set_num_threads(threads)
        for count in BATCHES:
            for rate in RATES:
                name = f"threads {threads}, clips {count}, {rate} Hz"
                results[name] = measure(make_clips(count, rate), rate)
    torch.set_num_threads(everything)
    save("front_end", results)


if __name__ == "__main__":
    main()
