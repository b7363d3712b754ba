"""Decode with FFmpeg and torchcodec."""

from pathlib import Path
from typing import Any

import numpy as np

from vggish_hf.audio.blocks import RawAudio, RawBlocks, block_length
from vggish_hf.audio.limits import DEFAULT_LIMITS, AudioError, AudioLimits
from vggish_hf.audio.parts import EncodedContent
from vggish_hf.audio.streams import Stream, open_stream

# Blocks to decode at once: five minutes, at most 240 MiB.
_RANGE_BLOCKS = 15


def open_container(
    file: Path | EncodedContent, stream: Stream, limits: AudioLimits, reason: str
) -> RawAudio:
    """Open with torchcodec.

    Args:
        file: The file.
        stream: A stream of it that soundfile cannot open.
        limits: Its limits.
        reason: Why soundfile cannot open it.

    Raises:
        AudioError: torchcodec is missing or cannot open it, or it exceeds the limits.
    """
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError):
        raise AudioError(
            f"libsndfile cannot open it ({reason}); other containers (m4a, mp4, webm) need the "
            "extra `video` and FFmpeg: pip install 'vggish-hf[video]'"
        ) from None
    part = open_stream(file, stream)
    try:
        # Absolute: FFmpeg would read `concat:a.mp3` as more than a file name.
        decoder = AudioDecoder(part.absolute() if isinstance(part, Path) else part)
    except (RuntimeError, ValueError):
        raise AudioError(
            f"libsndfile ({reason}) and FFmpeg cannot open it; it may be damaged or incomplete"
        ) from None
    return open_decoder(decoder, limits)


def is_decoder(source: Any) -> bool:
    """Tell whether a source is a `torchcodec.decoders.AudioDecoder`."""
    return hasattr(source, "get_samples_played_in_range")


def find_encoded_row(decoder: Any) -> dict[str, Any] | None:
    """Return the file that a decoder reads, which `datasets` keeps; None if it is missing.

    A second read of a decoder gives other samples: it seeks, and lossy formats (m4a, webm) need
    what comes before.

    Returns:
        `path` and `bytes`, one of which may be None; None if the decoder resamples or mixes.
    """
    row = _encoded_row(decoder)
    if row is None:
        return None
    nothing = decoder.get_samples_played_in_range(0, 0)
    made = (nothing.sample_rate, len(nothing.data))
    return row if made == (decoder.metadata.sample_rate, decoder.metadata.num_channels) else None


def reopen_decoder(decoder: Any) -> Any:
    """Return an unread copy of a decoder; the same one if that is impossible."""
    row = _encoded_row(decoder)
    if row is None:
        return decoder
    nothing = decoder.get_samples_played_in_range(0, 0)
    return type(decoder)(
        row["bytes"] or row["path"],
        sample_rate=nothing.sample_rate,
        num_channels=len(nothing.data),
    )


def _encoded_row(decoder: Any) -> dict[str, Any] | None:
    match getattr(decoder, "_hf_encoded", None):
        case {"bytes": bytes(content)}:
            return {"bytes": content, "path": None}
        case {"path": str(name)} if Path(name).is_file():  # it may be a URL
            return {"bytes": None, "path": name}
    return None


def open_decoder(decoder: Any, limits: AudioLimits) -> RawAudio:
    """Read from a `torchcodec.decoders.AudioDecoder`.

    Raises:
        AudioError: It cannot be decoded or exceeds the limits.
    """
    # The metadata have the file's rate; the decoder may resample.
    try:
        nothing = decoder.get_samples_played_in_range(0, 0)
    except RuntimeError as error:
        raise AudioError(f"FFmpeg cannot decode it: {str(error).splitlines()[0]}") from None
    sampling_rate = nothing.sample_rate
    limits.check_format(sampling_rate, len(nothing.data))
    return RawAudio(sampling_rate, _read_ranges(decoder, sampling_rate, len(nothing.data), limits))


def _read_ranges(decoder: Any, sampling_rate: int, channels: int, limits: AudioLimits) -> RawBlocks:
    metadata = decoder.metadata
    length = block_length(sampling_rate, channels)
    # Ranges are long because time stamps cut them, which some containers round.
    seconds = _RANGE_BLOCKS * length / sampling_rate
    start = begin = max(metadata.begin_stream_seconds_from_header or 0.0, 0.0)
    claimed_end = start + (metadata.duration_seconds or 0.0)
    received = 0
    # Even without a limit, a header that claims years must not cause a long search.
    gap_limits = DEFAULT_LIMITS if limits.max_seconds is None else limits
    gap_seconds = 0.0
    is_short = False  # the latest range, at a gap or the end
    while True:
        if is_short:
            # torchcodec has read the whole file to find its end, and now must seek back.
            try:
                decoder.get_samples_played_in_range(begin, begin + 1)
            except RuntimeError:  # not every format can
                break
        try:
            samples = decoder.get_samples_played_in_range(start, start + seconds).data.numpy()
        except RuntimeError as error:
            # torchcodec's message for a range after the end or in a gap.
            if "No audio frames were decoded" in str(error):
                start += seconds
                if start >= claimed_end:
                    break
                is_short = True
                gap_seconds += seconds
                gap_limits.check_duration(
                    received + round(gap_seconds * sampling_rate), sampling_rate
                )
                continue
            reason = str(error).splitlines()[0]
            raise AudioError(f"decoding failed after {received} samples: {reason}") from None
        num_samples = samples.shape[1]
        received += num_samples
        for first in range(0, num_samples, length):
            yield np.ascontiguousarray(samples[:, first : first + length].T)
        start += seconds
        is_short = num_samples < (seconds - 1) * sampling_rate
        # A range after the end makes torchcodec seek, which not every format can.
        if start >= claimed_end and is_short:
            break
