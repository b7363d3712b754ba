"""The front end, slowly and obviously: numpy in float64, a loop where the original has one.

Written from the description of the reference implementation; shares no code with the package.
"""

import math

import numpy as np


def log_mel_examples(waveform: np.ndarray, hop_frames: int = 96) -> np.ndarray:
    """(time,) at 16 kHz to (examples, 96, 64)."""
    filters = mel_matrix()
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * i / 400) for i in range(400)])
    frames = []
    for start in range(0, len(waveform) - 400 + 1, 160):
        buffer = np.zeros(512)
        buffer[:400] = waveform[start : start + 400] * window
        frames.append(np.log(np.abs(np.fft.rfft(buffer)) @ filters + 0.01))
    starts = range(0, len(frames) - 96 + 1, hop_frames)
    return np.array([frames[start : start + 96] for start in starts]).reshape(-1, 96, 64)


def mel_matrix() -> np.ndarray:
    """(257, 64)."""

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    edges = np.linspace(mel(125.0), mel(7500.0), 66)
    matrix = np.zeros((257, 64))
    for row in range(1, 257):
        for band in range(64):
            left, centre, right = edges[band : band + 3]
            here = mel(row * 16000 / 512)
            rising, falling = (here - left) / (centre - left), (right - here) / (right - centre)
            matrix[row, band] = max(0.0, min(rising, falling))
    return matrix


def resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """(time,) to (time * new_rate // rate,), a sum over all neighbours for each output sample."""
    scale = min(1.0, new_rate / rate)
    step = math.floor(scale * 8192) / 8192
    output = np.zeros(len(waveform) * new_rate // rate)
    for m in range(len(output)):
        nearest, remainder = divmod(m * rate, new_rate)
        fraction = remainder / new_rate
        reach = math.ceil(50 / step) + 1
        index = np.arange(max(nearest - reach, 0), min(nearest + reach, len(waveform)))
        behind = nearest - index
        distance = np.where(
            behind >= 0,
            fraction * scale + behind * step,
            (1 - fraction) * scale + (-behind - 1) * step,
        )
        inside = distance < 50
        window = np.i0(12.984585247040012 * np.sqrt(np.where(inside, 1 - (distance / 50) ** 2, 0)))
        rolloff = 0.9173473712608761
        weight = rolloff * np.sinc(rolloff * distance) * window / np.i0(12.984585247040012)
        output[m] = scale * np.sum(np.where(inside, weight, 0) * waveform[index])
    return output


def tensorflow_weights(seed: int, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """The variables of the golden networks, by the formula they were made with."""
    variables = []
    for i, shape in enumerate(shapes):
        values = np.random.Generator(np.random.PCG64([seed, i])).standard_normal(shape, np.float32)
        is_bias = len(shape) == 1
        scale = 0.05 if is_bias else math.sqrt(2 / math.prod(shape[:-1]))
        variables.append(values * np.float32(scale))
    return variables
