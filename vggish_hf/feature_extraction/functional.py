"""The front end as pure functions: a waveform in, log-mel examples out.

Reproduces `mel_features.py` and `vggish_input.py` of the reference implementation
(tensorflow/models, research/audioset/vggish) exactly. Other libraries differ: here the spectrum is
a magnitude, not a power; the window is at the start of the FFT buffer, not in its middle; frames
are neither centred nor padded; the mel triangles are linear in mel, not in Hz.
"""

import functools
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from vggish_hf._checks import MAX_CHANNELS
from vggish_hf._runtime.torch_state import without_autocast
from vggish_hf.configuration import VGGishFeatureConfig

P = ParamSpec("P")
R = TypeVar("R")


# Frames at once on a CPU: clips of 5 and 10 s have three and six times as many, 498 and 998. The
# caches hold their spectra, and the next ones reuse the memory; fresh pages would cost more than
# the arithmetic.
_CHUNK_FRAMES = 168
# Bands per matrix product: whole vectors of a processor, but so few that few weights are zero.
_BLOCK_BANDS = 16


def cached_constant(build: Callable[P, R], *, maxsize: int = 16) -> Callable[P, R]:
    """Keep the last `maxsize` constants that `build` made.

    `build` sets dtype and device of every tensor, or the cache would keep torch's defaults of its
    first call. They are not buffers because a buffer has one dtype and one device, and these follow
    the waveform: a cast module would compute with rounded filters.
    """
    cached: Callable[..., R] = functools.lru_cache(maxsize)(build)

    @functools.wraps(build)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # A tensor made while tracing is fake, and must not outlive the trace.
        if torch.compiler.is_compiling():
            return build(*args, **kwargs)
        # One made under inference mode could never be used for training.
        with torch.inference_mode(mode=False), torch.no_grad():
            return cached(*args, **kwargs)

    return call


def check_waveform(waveform: Tensor) -> None:
    """Raise ValueError (TypeError if not a tensor) unless `waveform` is valid.

    Args:
        waveform: (..., time), float32 or float64, finite. Exporting or compiling skips the check of
            values.
    """
    if not isinstance(waveform, Tensor):
        raise TypeError(
            f"Expected a waveform as a torch.Tensor, got {type(waveform).__name__}; "
            "torch.from_numpy makes one of an array, VGGishPipeline reads files"
        )
    if waveform.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            "Expected a waveform of float32 or float64 in [-1, 1], got "
            f"{waveform.dtype}; integer PCM is divided by its full scale first (int16: 32768)"
        )
    if waveform.ndim == 0:
        raise ValueError("Expected a waveform of shape (..., time), got a scalar")
    if waveform.shape[-1] == 0:
        raise ValueError(
            f"Expected a waveform of at least one sample, got shape {tuple(waveform.shape)}"
        )
    if waveform.ndim > 1 and waveform.shape[-1] <= MAX_CHANNELS < waveform.shape[-2]:
        raise ValueError(
            f"Expected a waveform of shape (..., time), got {tuple(waveform.shape)}, which looks "
            "like (time, channels); pass `waveform.T`, or `waveform.mean(-1)` to mix to mono"
        )
    if torch.compiler.is_compiling():
        return
    if not _is_finite(waveform):
        raise ValueError("Expected finite samples, got NaN or infinity in the waveform")


def _is_finite(waveform: Tensor) -> bool:
    # A finite sum has finite terms, and is thirty times as fast.
    finite = waveform.sum().isfinite()
    try:
        return bool(finite) or bool(waveform.isfinite().all())
    except RuntimeError as error:
        if "vmap" in str(error):  # torch shows no values in it, and has no public test for it
            return True
        raise


def is_best_in_parts(waveform: Tensor, size: int) -> bool:
    """Whether to work in chunks of at most `size` samples: on a CPU, whose caches are small.

    Not if a graph is recorded, which keeps the memory of all chunks, or traced for any length.
    """
    is_recorded = torch.is_grad_enabled() and waveform.requires_grad
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    is_plain = waveform.device.type == "cpu" and not is_recorded and not is_traced
    return is_plain and waveform.numel() > size


@cached_constant
def hann_window(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Periodic Hann window, `0.5 - 0.5 cos(2 pi i / length)`: (length,)."""
    phase = torch.arange(length, dtype=torch.float64, device="cpu") * (2 * torch.pi / length)
    return (0.5 - 0.5 * torch.cos(phase)).to(device, dtype)


def hertz_to_mel(hertz: Tensor) -> Tensor:
    """HTK mel scale, `1127 ln(1 + f / 700)`."""
    return 1127.0 * torch.log1p(hertz / 700.0)


@cached_constant
def mel_filterbank(config: VGGishFeatureConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Triangular filters, linear in mel, with peak 1 and no area norm.

    Returns:
        (fft_length // 2 + 1, num_mel_bins); the row of 0 Hz is zero.
    """
    bins = torch.arange(config.fft_length // 2 + 1, dtype=torch.float64, device="cpu")
    mel = hertz_to_mel(bins * (config.sampling_rate / config.fft_length))[:, None]
    limits = torch.tensor([config.mel_min_hz, config.mel_max_hz], dtype=bins.dtype, device="cpu")
    low, high = hertz_to_mel(limits)
    steps = torch.arange(config.num_mel_bins + 2, dtype=torch.float64, device="cpu")
    edges = low + steps * ((high - low) / (config.num_mel_bins + 1))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (mel - left) / (centre - left)
    falling = (right - mel) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    return torch.cat((torch.zeros_like(filters[:1]), filters[1:])).to(device, dtype)


@cached_constant
def fft_window(config: VGGishFeatureConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The window at the start of the FFT buffer, and zeros: (fft_length,)."""
    window = hann_window(config.window_length, dtype, device)
    return torch.nn.functional.pad(window, (0, config.fft_length - config.window_length))


@cached_constant
def mel_blocks(
    config: VGGishFeatureConfig, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[slice, Tensor], ...]:
    """Cut the filterbank, which is mostly zero, into blocks of neighbouring bands.

    Returns:
        For each block its bins, and their weights (bins, bands).
    """
    low, high = (math.log1p(hertz / 700.0) for hertz in (config.mel_min_hz, config.mel_max_hz))
    bins_per_hertz = config.fft_length / config.sampling_rate

    def edge_bin(edge: int) -> float:
        mel = low + edge * (high - low) / (config.num_mel_bins + 1)
        return 700.0 * math.expm1(mel) * bins_per_hertz

    filters = mel_filterbank(config, dtype, device)
    blocks = []
    for first in range(0, config.num_mel_bins, _BLOCK_BANDS):
        last = min(first + _BLOCK_BANDS, config.num_mel_bins)
        bins = slice(math.floor(edge_bin(first)), math.ceil(edge_bin(last + 1)) + 1)
        blocks.append((bins, filters[bins, first:last].contiguous()))
    return tuple(blocks)


def log_mel_spectrogram(waveform: Tensor, config: VGGishFeatureConfig) -> Tensor:
    """Logarithm of the mel-weighted magnitude spectrum.

    Args:
        waveform: (..., time) at `config.sampling_rate`, at least one window long.
        config: The front end's numbers.

    Returns:
        (..., frames, num_mel_bins) with `frames = 1 + (time - window) // hop`.
    """
    hop, overlap = config.hop_length, config.window_length - config.hop_length
    if not is_best_in_parts(waveform, _CHUNK_FRAMES * hop):
        return _log_mel(waveform, config)
    *batch, time = waveform.shape
    num_frames = 1 + (time - config.window_length) // hop
    together = max(_CHUNK_FRAMES * hop // time, 1)  # several short clips, or chunks of a long one
    chunks = [
        _log_mel(clips[:, first * hop : (first + _CHUNK_FRAMES) * hop + overlap], config)
        for clips in torch.split(waveform.reshape(-1, time), together)
        for first in range(0, num_frames, _CHUNK_FRAMES)
    ]
    frames = torch.cat([chunk.flatten(0, 1) for chunk in chunks])
    return frames.reshape(*batch, num_frames, config.num_mel_bins)


def _log_mel(waveform: Tensor, config: VGGishFeatureConfig) -> Tensor:
    # The transform is in double precision: in single, a loud tone leaks a thousand times the
    # result's rounding into the silent bins. MPS has no float64.
    precision = torch.float32 if waveform.device.type == "mps" else torch.float64
    window = fft_window(config, precision, waveform.device)
    # Samples after the last frame's window are multiplied by its zeros.
    padding = (0, config.fft_length - config.window_length)
    samples = torch.nn.functional.pad(waveform.to(precision), padding)
    frames = samples.unfold(-1, config.fft_length, config.hop_length)
    single = waveform.dtype == torch.float32
    spectrum = torch.fft.rfft(frames * window).to(torch.complex64 if single else torch.complex128)
    real, imaginary = torch.view_as_real(spectrum).square().unbind(-1)
    # `abs` takes twice as long. The tiny addend makes the root's slope finite at zero.
    tiny = torch.finfo(waveform.dtype).tiny
    magnitude = (real + imaginary).add_(tiny).sqrt_()
    blocks = mel_blocks(config, waveform.dtype, waveform.device)
    with without_autocast(waveform.device):
        # Two dimensions: with more, torch chooses the product by the batch, and a program exported
        # for any batch would reject one.
        rows = magnitude.flatten(0, -2)
        bands = [rows[:, bins] @ weight for bins, weight in blocks]
    mel = torch.cat(bands, dim=-1).reshape(*magnitude.shape[:-1], config.num_mel_bins)
    return torch.log(mel + config.log_offset)


def extract_examples(waveform: Tensor, config: VGGishFeatureConfig) -> Tensor:
    """Log-mel examples of waveforms of one length, padded by `config.padding`.

    Args:
        waveform: (..., time) at `config.sampling_rate`, float32 or float64.
        config: The front end's numbers.

    Returns:
        (..., examples, example_frames, num_mel_bins).
    """
    time = waveform.shape[-1]
    if config.padding != "none":
        num_examples = config.num_examples(time)
        length = (num_examples - 1) * config.example_hop_length + config.example_length
        waveform = torch.nn.functional.pad(waveform, (0, max(length - time, 0)))
    if waveform.shape[-1] < config.example_length or waveform.numel() == 0:
        example = (config.example_frames, config.num_mel_bins)
        return waveform.new_zeros((*waveform.shape[:-1], config.num_examples(time), *example))
    log_mel = log_mel_spectrogram(waveform, config)
    # unfold drops the frames that fill no example, and puts those of an example last
    return log_mel.unfold(-2, config.example_frames, config.example_hop_frames).mT
