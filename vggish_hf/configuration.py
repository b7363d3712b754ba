"""Every number of VGGish, once, with its unit; derived numbers are properties.

Source: `vggish_params.py` of the reference implementation (tensorflow/models,
research/audioset/vggish).
"""

import itertools
import reprlib
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from vggish_hf._checks import check_between, check_choice

Padding = Literal["none", "short", "tail"]
Activation = Literal["none", "relu"]

# An untrusted config must not fill the memory. Bounds of each number, wide enough for any use:
_BOUNDS: dict[str, tuple[float, float]] = {
    "sampling_rate": (100, 1_000_000),
    "window_seconds": (1e-5, 10.0),
    "hop_seconds": (1e-6, 10.0),
    "num_mel_bins": (1, 1024),
    "mel_min_hz": (1e-12, 500_000.0),
    "mel_max_hz": (1e-12, 500_000.0),
    "log_offset": (1e-30, 1e6),
    "example_seconds": (1e-6, 3600.0),
    "example_hop_seconds": (1e-6, 3600.0),
}
# Bounds of values derived from several numbers.
_MAX_WINDOW = 1 << 14  # samples
_MAX_EXAMPLE_LENGTH = 1 << 20  # samples: a minute at 16 kHz
_MAX_EXAMPLE_SIZE = 1 << 19  # frames times bands: 85 times that of the original
_LISTED = 8  # unknown keys in a message
_MAX_SIZE = 1 << 16  # of a layer: 16 times the largest of the original
_MAX_PARAMETERS = 1 << 29  # seven times those of the original
_MAX_ACTIVATIONS = 1 << 23  # of a layer and an example: 21 times the most of the original


class FromDict:
    """Builds a config from JSON, and refuses unknown keys."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the config from a dict of its fields.

        Raises:
            ValueError: A key is unknown, or a value is not allowed.
        """
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(known))
        if unknown:
            listed = ", ".join(map(reprlib.repr, unknown[:_LISTED])) + ", ..." * (
                len(unknown) > _LISTED
            )
            raise ValueError(f"{cls.__name__} has no {listed}; its fields are {', '.join(known)}")
        return cls(**values)


@dataclass(frozen=True)
class VGGishFeatureConfig(FromDict):
    """The front end: from a waveform to log-mel examples.

    Args:
        sampling_rate: Rate of the features' waveform, Hz.
        window_seconds: Length of the analysis window, seconds.
        hop_seconds: Distance between two frames, seconds.
        num_mel_bins: Number of mel bands.
        mel_min_hz: Lower edge of the lowest band, Hz.
        mel_max_hz: Upper edge of the highest band, Hz.
        log_offset: Added to the mel magnitudes before the logarithm.
        example_seconds: Length of an example, the network's input, seconds.
        example_hop_seconds: Distance between the starts of two examples, seconds; less than
            `example_seconds` makes them overlap. Both are whole numbers of frames.
        padding: What to do with samples that fill no example. `"none"`: dropped, as in the
            reference. `"short"`: a clip shorter than one example is padded with zeros to one.
            `"tail"`: the last, partial example is padded too, so that every sample is in one.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> config = VGGishFeatureConfig(example_hop_seconds=0.48)
        >>> config.window_length, config.hop_length, config.example_hop_frames
        (400, 160, 48)
    """

    sampling_rate: int = 16_000
    window_seconds: float = 0.025
    hop_seconds: float = 0.010
    num_mel_bins: int = 64
    mel_min_hz: float = 125.0
    mel_max_hz: float = 7_500.0
    log_offset: float = 0.01
    example_seconds: float = 0.96
    example_hop_seconds: float = 0.96
    padding: Padding = "none"

    def __post_init__(self) -> None:
        check_choice("padding", self.padding, Padding)
        for name, (low, high) in _BOUNDS.items():
            check_between(name, getattr(self, name), low, high)
        for name in ("window_seconds", "hop_seconds"):
            if getattr(self, name) * self.sampling_rate < 1:
                raise ValueError(f"Expected `{name}` of at least one sample, got {self!r}")
        if not self.mel_min_hz < self.mel_max_hz <= self.sampling_rate / 2:
            raise ValueError(
                "Expected `mel_min_hz` < `mel_max_hz` <= `sampling_rate` / 2, got "
                f"{self.mel_min_hz}, {self.mel_max_hz} and {self.sampling_rate}"
            )
        for name in ("example_seconds", "example_hop_seconds"):
            frames = getattr(self, name) * self.sampling_rate / self.hop_length
            if abs(frames - round(frames)) > 1e-6 or frames < 0.5:
                raise ValueError(
                    f"Expected `{name}` to be a multiple of {self.hop_length / self.sampling_rate} "
                    f"s (one frame), got {getattr(self, name)}"
                )
        check_between("window_seconds * sampling_rate", self.window_length, 1, _MAX_WINDOW)
        lengths = max(self.example_length, self.example_hop_length)
        check_between(
            "max(example_seconds, example_hop_seconds) * sampling_rate",
            lengths,
            1,
            _MAX_EXAMPLE_LENGTH,
        )
        frames = max(self.example_frames, self.example_hop_frames)
        check_between(
            "frames of an example * num_mel_bins", frames * self.num_mel_bins, 1, _MAX_EXAMPLE_SIZE
        )

    @property
    def window_length(self) -> int:
        """Length of the analysis window, samples."""
        return round(self.window_seconds * self.sampling_rate)

    @property
    def hop_length(self) -> int:
        """Distance between two frames, samples."""
        return round(self.hop_seconds * self.sampling_rate)

    @property
    def fft_length(self) -> int:
        """Length of the Fourier transform, samples: the smallest power of two for the window."""
        return 1 << (self.window_length - 1).bit_length()

    @property
    def example_frames(self) -> int:
        """Length of an example, frames."""
        return round(self.example_seconds * self.sampling_rate / self.hop_length)

    @property
    def example_hop_frames(self) -> int:
        """Distance between the starts of two examples, frames."""
        return round(self.example_hop_seconds * self.sampling_rate / self.hop_length)

    @property
    def example_length(self) -> int:
        """Length of an example, samples: from its first frame's start to its last frame's end."""
        return (self.example_frames - 1) * self.hop_length + self.window_length

    @property
    def example_hop_length(self) -> int:
        """Distance between the starts of two examples, samples."""
        return self.example_hop_frames * self.hop_length

    def num_examples(self, num_samples: int) -> int:
        """Count the examples of a waveform with this config's `padding`.

        Args:
            num_samples: Length of the waveform at `sampling_rate`, samples.

        Example:
            >>> VGGishFeatureConfig().num_examples(160_000)
            10
            >>> VGGishFeatureConfig(padding="tail").num_examples(160_000)
            11
        """
        beyond_first = num_samples - self.example_length
        whole = 1 + beyond_first // self.example_hop_length if beyond_first >= 0 else 0
        if self.padding == "none":
            return whole
        if self.padding == "tail" and whole:
            # Hops larger than an example leave gaps; samples in a gap start no example.
            covering = 1 - (-beyond_first // self.example_hop_length)
            return min(covering, -(-num_samples // self.example_hop_length))
        return max(whole, 1)


@dataclass(frozen=True)
class VGGishConfig(FromDict):
    """The network: sizes of its layers.

    Args:
        conv_channels: Output channels of conv1, conv2, conv3_1, conv3_2, conv4_1 and conv4_2.
        hidden_size: Width of the two hidden linear layers, fc1_1 and fc1_2.
        embedding_size: Width of the embedding, fc2.
        embedding_activation: `"none"`, as in the reference and the released AudioSet embeddings,
            or `"relu"`, as in older ports.
        postprocessor: Whether the model has the PCA post-processor.
        num_frames: Length of an example, frames.
        num_mel_bins: Number of mel bands of an example.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> VGGishConfig(hidden_size=256).flat_size
        12288
    """

    conv_channels: tuple[int, ...] = (64, 128, 256, 256, 512, 512)
    hidden_size: int = 4096
    embedding_size: int = 128
    embedding_activation: Activation = "none"
    postprocessor: bool = False
    num_frames: int = VGGishFeatureConfig().example_frames
    num_mel_bins: int = VGGishFeatureConfig().num_mel_bins

    def __post_init__(self) -> None:
        if not isinstance(self.conv_channels, (tuple, list)) or len(self.conv_channels) != 6:
            raise ValueError(
                f"Expected six `conv_channels`, got {reprlib.repr(self.conv_channels)}"
            )
        # JSON has no tuples.
        object.__setattr__(self, "conv_channels", tuple(self.conv_channels))
        check_choice("embedding_activation", self.embedding_activation, Activation)
        for number, size in enumerate(self.conv_channels):
            check_between(f"conv_channels[{number}]", size, 1, _MAX_SIZE)
        for name in ("hidden_size", "embedding_size", "num_frames", "num_mel_bins"):
            check_between(name, getattr(self, name), 1, _MAX_SIZE)
        if self.num_frames % 16 or self.num_mel_bins % 16:
            raise ValueError(
                "Expected `num_frames` and `num_mel_bins` to be multiples of 16 (four poolings), "
                f"got {self.num_frames} and {self.num_mel_bins}"
            )
        if not isinstance(self.postprocessor, bool):
            raise ValueError(
                f"Expected `postprocessor` to be a bool, got {reprlib.repr(self.postprocessor)}"
            )
        check_between("number of parameters", self._num_parameters(), 1, _MAX_PARAMETERS)
        check_between("values of a layer", self._num_activations(), 1, _MAX_ACTIVATIONS)

    def _num_parameters(self) -> int:
        """Count the values of all weights, and of the post-processor."""
        widths = (1, *self.conv_channels)
        convolutions = sum(9 * a * b for a, b in itertools.pairwise(widths))
        linear = (self.flat_size, self.hidden_size, self.hidden_size, self.embedding_size)
        postprocessor = self.embedding_size**2 if self.postprocessor else 0
        biases = sum(self.conv_channels) + sum(linear[1:])
        matrices = sum(a * b for a, b in itertools.pairwise(linear))
        return convolutions + matrices + biases + postprocessor

    def _num_activations(self) -> int:
        """Count the values of the largest convolution's output for one example."""
        shrunk = (1, 4, 16, 16, 64, 64)  # by the poolings before it
        size = self.num_frames * self.num_mel_bins
        return max(c * size // by for c, by in zip(self.conv_channels, shrunk, strict=True))

    @property
    def flat_size(self) -> int:
        """Width of the flattened output of the convolutions, the input of fc1_1."""
        return (self.num_frames // 16) * (self.num_mel_bins // 16) * self.conv_channels[-1]
