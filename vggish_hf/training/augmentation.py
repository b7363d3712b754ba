"""Augmentation of batches on the device; the modules act only in training mode.

All draw from torch's generator, which `lightning.pytorch.seed_everything` seeds.
"""

import math

import torch
from torch import Tensor, nn

from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.training.batches import WaveformBatch

# A multiple of this rate needs a filter of at most 160 phases to 16 kHz. An odd one needs 16,000:
# half a second to build, and the resampler keeps only the last one.
_RATE_STEP = 100
# With few speeds the filters of three stored rates fit into the resampler's cache of sixteen.
_SPEEDS = 5


class WaveformAugmentation(nn.Module):
    """Change each clip's loudness, position and speed at random.

    Args:
        gain_db: The most to raise or lower the level, dB.
        shift_seconds: The most to shift a clip, in either direction; samples that leave at one end
            return at the other.
        speed: The most to speed a clip up or slow it down, as a fraction (0.1: up to a tenth),
            including pitch. There are five evenly spaced speeds, with rates that are multiples of
            100 Hz, so that resampling stays cheap.

    Raises:
        ValueError: A number is negative, or the speed is 1 or more.

    Example:
        >>> augment = WaveformAugmentation(gain_db=6.0, shift_seconds=0.5, speed=0.1)
        >>> batch = WaveformBatch(
        ...     id=["a"],
        ...     waveform=torch.ones(1, 44_100),
        ...     length=torch.tensor([44_100]),
        ...     sampling_rate=torch.tensor([44_100]),
        ... )
        >>> int(augment(batch)["sampling_rate"]) in (39_700, 41_900, 44_100, 46_300, 48_500)
        True
        >>> augment.eval()(batch) is batch
        True
    """

    def __init__(
        self, *, gain_db: float = 0.0, shift_seconds: float = 0.0, speed: float = 0.0
    ) -> None:
        super().__init__()
        for name, value, limit in (
            ("gain_db", gain_db, math.inf),
            ("shift_seconds", shift_seconds, math.inf),
            ("speed", speed, 1.0),
        ):
            if not 0 <= value < limit:
                raise ValueError(f"Expected `{name}` from 0 to below {limit}, got {value}")
        self.gain_db = gain_db
        self.shift_seconds = shift_seconds
        self.speed = speed

    def forward(self, batch: WaveformBatch) -> WaveformBatch:
        """Return an augmented batch; the input stays as it is."""
        if not self.training:
            return batch
        batch = batch.copy()
        if self.shift_seconds:
            batch["waveform"] = self._shift(batch)
        if self.gain_db:
            gain = self.gain_db * _uniform(batch["length"])
            batch["waveform"] = batch["waveform"] * (10 ** (gain / 20))[:, None]
        if self.speed:
            batch["sampling_rate"] = self._change_speed(batch["sampling_rate"])
        return batch

    def _shift(self, batch: WaveformBatch) -> Tensor:
        waveform, length = batch["waveform"], batch["length"][:, None]
        most = self.shift_seconds * batch["sampling_rate"]
        shift = (most * _uniform(length[:, 0])).round().long()[:, None]
        time = torch.arange(waveform.shape[1], device=waveform.device)
        moved = (time - shift) % length.clamp(min=1)
        return waveform.gather(1, torch.where(time < length, moved, time))

    def _change_speed(self, rate: Tensor) -> Tensor:
        step = torch.randint(_SPEEDS, rate.shape, device=rate.device) - _SPEEDS // 2
        claimed = rate * (1 + self.speed * step / (_SPEEDS // 2))
        claimed = (claimed / _RATE_STEP).round().clamp(min=1).long() * _RATE_STEP
        return torch.where(step == 0, rate, claimed)

    def extra_repr(self) -> str:
        """Show the limits in the module's `repr`."""
        return f"gain_db={self.gain_db}, shift_seconds={self.shift_seconds}, speed={self.speed}"


class SpecAugment(nn.Module):
    """Silence a range of mel bands and a range of frames in each log-mel example.

    The masking of Park et al., "SpecAugment", 2019, drawn like torchaudio's `FrequencyMasking` and
    `TimeMasking`. The masked values are the logarithm of silence: zero would be as loud as speech.

    Args:
        max_bands: A mask spans fewer mel bands than this; 0 for none.
        max_frames: A mask spans fewer frames than this; 0 for none.
        log_offset: The front end's, see `VGGishFeatureConfig`.

    Raises:
        ValueError: A number is negative.

    Shape:
        - Input: (..., frames, bands)
        - Output: like the input

    Example:
        >>> augment = SpecAugment(max_bands=16, max_frames=24)
        >>> augment(torch.zeros(2, 10, 96, 64)).shape
        torch.Size([2, 10, 96, 64])
    """

    def __init__(
        self,
        max_bands: int = 0,
        max_frames: int = 0,
        *,
        log_offset: float = VGGishFeatureConfig().log_offset,
    ) -> None:
        super().__init__()
        for name, value in (("max_bands", max_bands), ("max_frames", max_frames)):
            if not 0 <= value < math.inf:
                raise ValueError(f"Expected `{name}` of at least 0, got {value}")
        self.max_bands = max_bands
        self.max_frames = max_frames
        self.silence = math.log(log_offset)

    def forward(self, examples: Tensor) -> Tensor:
        """Mask each example at its own places."""
        if not self.training:
            return examples
        bands = _draw_range(examples[..., 0, 0], examples.shape[-1], self.max_bands)
        frames = _draw_range(examples[..., 0, 0], examples.shape[-2], self.max_frames)
        return examples.masked_fill(bands[..., None, :] | frames[..., :, None], self.silence)

    def extra_repr(self) -> str:
        """Show the limits in the module's `repr`."""
        return f"max_bands={self.max_bands}, max_frames={self.max_frames}"


def mixup(
    values: Tensor, mask: Tensor, target: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each clip of a batch with another one (Zhang et al., "mixup", 2018).

    Args:
        values: (batch, steps, ...), float: embeddings, examples or, at one rate, waveforms.
        mask: (batch, steps), False where the values are padding.
        target: (batch, classes), float.
        alpha: A pair is mixed in the proportion `weight` to `1 - weight`, drawn per pair from
            Beta(alpha, alpha): near 0 or 1 for a small alpha, near a half for a large one.

    Returns:
        Values, mask and target. A step that only one of the two clips has is not mixed.

    Raises:
        ValueError: The values are integers, or `alpha` is not positive.

    Example:
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> values, mask, target = mixup(torch.randn(2, 2, 128), mask, torch.eye(2), alpha=0.5)
        >>> target.sum(1)
        tensor([1., 1.])
    """
    if not values.is_floating_point():
        raise ValueError(f"Expected values of floats, got {values.dtype}; dequantize them first")
    if not alpha > 0:
        raise ValueError(
            f"Expected `alpha` to be positive, got {alpha}; to mix nothing, do not call mixup"
        )
    partner = torch.randperm(len(values), device=values.device)
    concentration = torch.full((len(values), 1), alpha, device=values.device)
    weight = torch.distributions.Beta(concentration, concentration).sample()
    share = torch.where(mask == mask[partner], weight, mask.to(weight.dtype))
    share = share.view(*mask.shape, *[1] * (values.ndim - 2)).to(values.dtype)
    return (
        torch.lerp(values[partner], values, share),
        mask | mask[partner],
        torch.lerp(target[partner], target, weight),
    )


def _uniform(like: Tensor) -> Tensor:
    """Draw from -1 to 1, as many numbers as in `like`, on its device."""
    return 2 * torch.rand(like.shape, device=like.device) - 1


def _draw_range(like: Tensor, size: int, limit: int) -> Tensor:
    """Draw a range of fewer than `limit` places for each value of `like`: (..., size), bool."""
    if not limit:
        return torch.zeros(*like.shape, size, dtype=torch.bool, device=like.device)
    # First the length, then a start that fits it.
    length = torch.rand(like.shape, device=like.device) * min(limit, size)
    start = (torch.rand(like.shape, device=like.device) * (size - length)).long()[..., None]
    place = torch.arange(size, device=like.device)
    return (place >= start) & (place < start + length.long()[..., None])
