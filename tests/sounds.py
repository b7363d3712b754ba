"""A folder of sounds to learn in seconds: three classes, at several rates and lengths."""

from pathlib import Path

import numpy as np
import soundfile

CLASSES = ["bird", "engine", "rain"]
_PITCHES = {"bird": 3_000, "engine": 300}  # Hz; rain is noise
_RATES = (8_000, 16_000, 22_050)


def make_sound(name, seconds, rate, generator):
    """A sound of a class, with a pitch of its own."""
    time = np.arange(int(rate * seconds)) / rate
    noise = 0.2 * generator.standard_normal(len(time))
    if name not in _PITCHES:
        return noise
    pitch = _PITCHES[name] * generator.uniform(0.8, 1.25)
    return 0.2 * noise + 0.3 * np.sin(2 * np.pi * pitch * time)


def write_sounds(folder: Path, clips: int = 12) -> Path:
    """Write `clips` files a class, each named for one of four folds as ESC-50's are: `3-7.wav`."""
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(clips):
            rate = _RATES[i % len(_RATES)]
            sound = make_sound(name, generator.uniform(1.0, 2.0), rate, generator)
            soundfile.write(folder / name / f"{i % 4 + 1}-{i}.wav", sound, rate)
    return folder
