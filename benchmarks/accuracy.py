"""How far the front end is from the original, beside other resamplers, on real files.

The goldens are the original's log-mel examples. Each contestant resamples; the log-mel is ours.
"""

from pathlib import Path

import numpy as np
import torch
import torchaudio

from benchmarks import describe_machine
from vggish_hf import VGGishFeatureExtractor
from vggish_hf.audio import load_audio

ROOT = Path(__file__).parents[1]
FOLDERS = [
    (ROOT.parent / "shared/golden", ROOT.parent / "shared/data/audio_cases"),
    (ROOT / "tests/golden", ROOT / "tests/data/audio_cases"),
]
# torchaudio's documentation names these settings as the nearest to resampy's kaiser_best.
KAISER_BEST = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}


def main() -> None:
    """Print the table."""
    golden_folder, audio = next(pair for pair in FOLDERS if pair[0].is_dir())
    golden = np.load(golden_folder / "logmel_reference.npz")
    extractor = VGGishFeatureExtractor()
    print(describe_machine("python -m benchmarks accuracy", torch, torchaudio, np))
    print("mean |difference| of log-mel from the original; float32\n")
    print(f"{'file':44} {'Hz':>6} {'ours':>9} {'torchaudio':>11} {'torchaudio':>11}")
    print(f"{'':44} {'':>6} {'':>9} {'kaiser_best':>11} {'default':>11}")
    for name in golden.files:
        waveform, rate = load_audio(audio / name)
        resampled = [
            torchaudio.functional.resample(waveform, rate, 16_000, **options)
            for options in (KAISER_BEST, {})
        ]
        contestants = [extractor(waveform, rate), *map(extractor, resampled)]
        count = len(golden[name])
        errors = [np.abs(found[:count].numpy() - golden[name]).mean() for found in contestants]
        figures = f"{errors[0]:9.1e} {errors[1]:11.1e} {errors[2]:11.1e}"
        print(f"{name:44} {rate:6} {figures}")


if __name__ == "__main__":
    main()
