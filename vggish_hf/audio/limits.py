"""Limits of encoded audio, and the error of audio that cannot be decoded."""

import math
from dataclasses import dataclass


class AudioError(ValueError):
    """Audio that cannot be decoded; the message says why."""


class DecoderStartError(RuntimeError):
    """A decoder process cannot be started: the machine's fault, not a clip's."""


class UnknownFormatError(AudioError):
    """Audio that libsndfile cannot open, in a container that FFmpeg may know."""


@dataclass(frozen=True)
class AudioLimits:
    """Limits of encoded audio; audio beyond them raises AudioError.

    Channels and rate are checked before memory for them is allocated. The duration is counted
    while decoding, because headers lie. A header is trusted only if the file is at least as large
    as the samples that it claims, as in uncompressed formats.

    Args:
        max_seconds: Duration, seconds; None for any.
        max_channels: Number of channels.
        max_sampling_rate: Rate, Hz.

    Raises:
        ValueError: A value is out of its range.

    Example:
        >>> AudioLimits(max_seconds=600)
        AudioLimits(max_seconds=600, max_channels=32, max_sampling_rate=768000)
    """

    max_seconds: float | None = 43_200.0
    max_channels: int = 32
    max_sampling_rate: int = 768_000

    def __post_init__(self) -> None:
        seconds = self.max_seconds
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and 0 < seconds < math.inf):
            raise ValueError(
                f"Expected `max_seconds` to be a positive number, or None for any, got {seconds!r}"
            )
        for name in ("max_channels", "max_sampling_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected `{name}` to be a positive whole number, got {value!r}")

    def check_format(self, sampling_rate: int, channels: int) -> None:
        """Raise AudioError if the rate, in Hz, or the channels exceed the limits."""
        for unit, value, name in (
            ("Hz", sampling_rate, "max_sampling_rate"),
            ("channels", channels, "max_channels"),
        ):
            if value > getattr(self, name):
                raise AudioError(
                    f"Expected audio of at most {getattr(self, name)} {unit}, got {value}; "
                    f"raise the limit `{name}` (in Python, of `AudioLimits`)"
                )

    def check_duration(self, num_samples: int, sampling_rate: int) -> None:
        """Raise AudioError if so many samples are too long."""
        if self.max_seconds is not None and num_samples > self.max_seconds * sampling_rate:
            raise AudioError(
                f"Expected audio of at most {self.max_seconds:.10g} seconds, got "
                f"{num_samples / sampling_rate:.10g} or more; raise the limit `max_seconds`"
            )


#: Half a day, 32 channels, 768 kHz.
DEFAULT_LIMITS = AudioLimits()
