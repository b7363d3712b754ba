"""The resampler of the reference, resampy's `kaiser_best`, as a polyphase filter.

A band-limited signal is interpolated by a windowed sinc (J. O. Smith, "Digital Audio Resampling"):
output sample m lies at input position `m * rate / new_rate`, and an input sample at the distance t
from it, in samples of the slower rate, weighs

    s * r * sinc(r t) * I0(b sqrt(1 - (t / Z)^2)) / I0(b)    for |t| < Z, and 0 beyond,
    s = min(1, new_rate / rate)

Rates are rational, so after `stride` input samples the positions repeat: `phases` filters, each one
row of a matrix, and the whole signal is one strided product.

The reference reads its window from a table of 8192 points a zero crossing and walks it in whole
steps, so its taps stand floor(8192 s) / 8192 apart and not s. That is followed here; without it
log-mel values would differ by up to 2e-4 in the mean, with it by less than 1e-6.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vggish_hf._checks import check_sampling_rate
from vggish_hf._runtime.torch_state import without_autocast
from vggish_hf.feature_extraction.functional import cached_constant, is_best_in_parts

_ZERO_CROSSINGS = 50
_KAISER_BETA = 12.984585247040012
_ROLLOFF = 0.9173473712608761
_TABLE_STEPS = 8192

# 2^25 float64 values are 256 MiB. Common rates need under 2^17.
_MAX_KERNEL_SIZE = 1 << 25
# Phases of one product of matrices: whole vectors of a processor, and yet so few that they look at
# but a third more samples than a single one.
_GROUP_SIZE = 32
# Samples at once on a CPU, half a megabyte: in its cache, and never in fresh pages.
_CHUNK_SAMPLES = 1 << 17
# Of larger kernels, for odd rates, one alone is kept: sixteen would fill the memory.
_MAX_SMALL_SIZE = 1 << 20


class PhaseGroup(NamedTuple):
    """Filters of neighbouring phases, which look at nearly the same samples."""

    offset: int
    """Distance of the first tap from the start of the (padded) block, input samples."""
    weight: Tensor
    """(phases of the group, taps)."""


class ResampleKernel(NamedTuple):
    """The polyphase filter from one rate to another."""

    stride: int
    """Input samples a block."""
    phases: int
    """Output samples a block."""
    reach: int
    """Taps on one side of a position: the zeros that belong before the first sample."""
    span: int
    """Input samples that one block looks at."""
    groups: tuple[PhaseGroup, ...]


def resampled_length(num_samples: int, sampling_rate: int, new_rate: int) -> int:
    """Length of a resampled waveform, samples: the floor of `num_samples * new_rate / rate`."""
    return num_samples * new_rate // sampling_rate


def _interpolation_weight(distance: Tensor) -> Tensor:
    """The windowed sinc at a distance in zero crossings; zero from the fiftieth on."""
    beta = torch.tensor(_KAISER_BETA, dtype=distance.dtype, device=distance.device)
    inside = (1 - (distance / _ZERO_CROSSINGS).square()).clamp(min=0.0)
    window = torch.special.i0(beta * inside.sqrt()) / torch.special.i0(beta)
    window = torch.where(distance < _ZERO_CROSSINGS, window, 0.0)
    return _ROLLOFF * torch.sinc(_ROLLOFF * distance) * window


def resample_kernel(
    sampling_rate: int, new_rate: int, dtype: torch.dtype, device: torch.device
) -> ResampleKernel:
    """Build the filter from `sampling_rate` to `new_rate`, Hz, in float64, and cast it.

    Raises:
        ValueError: A rate is no positive int, or their ratio needs a filter of more than 2^25
            values (rates above 200 kHz that share no divisor with the new one).
    """
    check_sampling_rate(sampling_rate)
    common = math.gcd(sampling_rate, new_rate)
    stride, phases = sampling_rate // common, new_rate // common
    scale = min(1.0, new_rate / sampling_rate)
    step = max(math.floor(scale * _TABLE_STEPS), 1) / _TABLE_STEPS
    reach = math.floor(_ZERO_CROSSINGS / step) + 1
    # Short repetitions are put together until they fill a group.
    repeats = -(-_GROUP_SIZE // phases)
    stride, phases = repeats * stride, repeats * phases
    size = phases if repeats > 1 else _GROUP_SIZE
    # Blocks as long as the filters make the matrix of their samples a view, and no copy.
    taps = 2 * reach + size * stride // phases + 1
    # Not at rates below 162 Hz, where the repetitions would fill the memory.
    repeats = -(-taps // stride)
    if repeats * phases * taps <= _MAX_SMALL_SIZE:
        stride, phases = repeats * stride, repeats * phases
    num_values = phases * taps
    if num_values > _MAX_KERNEL_SIZE:
        raise ValueError(
            f"Expected rates with a common divisor, got {sampling_rate} Hz, from which the way to "
            f"{new_rate} Hz takes {phases} filters of {2 * reach} taps; resample the audio first"
        )
    build = _small_kernel if num_values <= _MAX_SMALL_SIZE else _large_kernel
    return build(stride, phases, reach, size, scale, step, dtype, device)


def _build_kernel(
    stride: int,
    phases: int,
    reach: int,
    size: int,
    scale: float,
    step: float,
    dtype: torch.dtype,
    device: torch.device,
) -> ResampleKernel:
    """Build a kernel in groups of `size` phases; taps stand `step` zero crossings apart."""
    groups = []
    for first in range(0, phases, size):
        last = min(first + size, phases) - 1
        phase = torch.arange(first, last + 1, device="cpu")
        position, remainder = phase * stride // phases, phase * stride % phases
        offset = first * stride // phases
        taps = torch.arange(2 * reach + last * stride // phases - offset + 1, device="cpu")
        # How many samples each tap lies behind its phase's position, rounded down.
        behind = ((position - offset + reach)[:, None] - taps).double()
        fraction = (remainder.double() / phases)[:, None]
        distance = torch.where(
            behind >= 0,
            fraction * scale + behind * step,
            (1 - fraction) * scale + (-behind - 1) * step,
        )
        weight = scale * _interpolation_weight(distance)
        groups.append(PhaseGroup(offset, weight.to(device, dtype)))
    span = max(group.offset + group.weight.shape[1] for group in groups)
    return ResampleKernel(stride, phases, reach, span, tuple(groups))


_small_kernel = cached_constant(_build_kernel)
_large_kernel = cached_constant(_build_kernel, maxsize=1)


def _apply_kernel(padded: Tensor, kernel: ResampleKernel, num_blocks: int) -> Tensor:
    """Filter (..., time), which holds the samples of `num_blocks` blocks, to whole blocks."""
    blocks = []
    for offset, weight in kernel.groups:
        length = (num_blocks - 1) * kernel.stride + weight.shape[1]
        taps = padded[..., offset : offset + length].unfold(-1, weight.shape[1], kernel.stride)
        with without_autocast(padded.device):
            blocks.append(taps @ weight.mT)
    return torch.cat(blocks, dim=-1).flatten(-2)


def resample(waveform: Tensor, sampling_rate: int, new_rate: int) -> Tensor:
    """Resample as the reference does.

    Args:
        waveform: (..., time), float32 or float64.
        sampling_rate: The waveform's rate, Hz.
        new_rate: The rate wanted, Hz.

    Returns:
        (..., time * new_rate // sampling_rate), on the same device and of the same dtype.

    Raises:
        ValueError: See `resample_kernel`.

    Example:
        >>> resample(torch.zeros(2, 44_100), 44_100, 16_000).shape
        torch.Size([2, 16000])
    """
    if sampling_rate == new_rate:
        return waveform
    kernel = resample_kernel(sampling_rate, new_rate, waveform.dtype, waveform.device)
    *batch, time = waveform.shape
    length = resampled_length(time, sampling_rate, new_rate)
    # One more than needed where the length is a whole number of blocks, and so always something to
    # cut off: a program exported for any length must not depend on which it is.
    num_blocks = length // kernel.phases + 1
    right = (num_blocks - 1) * kernel.stride + kernel.span - kernel.reach - time
    padding = kernel.reach, max(right, 0)
    padded_time = time + sum(padding)
    if is_best_in_parts(waveform, _CHUNK_SAMPLES * time // padded_time):
        if not batch:
            return torch.cat(list(resample_blocks([waveform], sampling_rate, new_rate)))
        # Several short clips at a time, or one long one by itself.
        clips, together = waveform.reshape(-1, time), _CHUNK_SAMPLES // padded_time
        parts = torch.split(clips, together) if together else clips.unbind()
        outputs = [resample(part, sampling_rate, new_rate).flatten() for part in parts]
        return torch.cat(outputs).reshape(*batch, length)
    padded = torch.nn.functional.pad(waveform, padding)
    whole = _apply_kernel(padded, kernel, num_blocks)
    # A copy, whose strides do not depend on whether there is more than one clip.
    return whole[..., :length].clone(memory_format=torch.contiguous_format)


def resample_blocks(
    blocks: Iterable[Tensor], sampling_rate: int, new_rate: int
) -> Iterator[Tensor]:
    """Resample a waveform that comes in blocks, without a seam.

    Args:
        blocks: Consecutive parts (time,) of one waveform, of any lengths.
        sampling_rate: Their rate, Hz.
        new_rate: The rate wanted, Hz.

    Yields:
        Consecutive parts of what `resample` makes of the whole. What is kept between two of them
        is one block and the filter's length.
    """
    if sampling_rate == new_rate:
        yield from blocks
        return
    pending: Tensor | None = None
    received = emitted = 0
    chunks = (torch.split(block, _CHUNK_SAMPLES) for block in blocks)
    for block in itertools.chain.from_iterable(chunks):
        if pending is None:
            kernel = resample_kernel(sampling_rate, new_rate, block.dtype, block.device)
            pending = block.new_zeros(kernel.reach)
        pending = torch.cat((pending, block))
        received += block.shape[-1]
        num_blocks = (pending.shape[-1] - kernel.span) // kernel.stride + 1
        if num_blocks > 0:
            yield _apply_kernel(pending, kernel, num_blocks)
            emitted += num_blocks * kernel.phases
            pending = pending[num_blocks * kernel.stride :]
    remaining = resampled_length(received, sampling_rate, new_rate) - emitted
    if pending is not None and remaining > 0:
        num_blocks = -(-remaining // kernel.phases)
        right = (num_blocks - 1) * kernel.stride + kernel.span - pending.shape[-1]
        padded = torch.nn.functional.pad(pending, (0, max(right, 0)))
        yield _apply_kernel(padded, kernel, num_blocks)[:remaining]
