"""What the published tools do to a clip before and after the network, by name.

The facts come from the tools' code; docs/fad.md lists each, and what a preset does not imitate.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vggish_hf._checks import check_choice, check_sampling_rate
from vggish_hf.audio import Decoder, open_audio
from vggish_hf.configuration import Padding
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.feature_extraction.resampling import resample_blocks
from vggish_hf.pipeline import ErrorHandler, VGGishPipeline

PresetName = Literal["default", "google", "google-int16", "gudgud", "fadtk"]

_INT16_SCALE = 32_768


@dataclass(frozen=True)
class Preset:
    """How a tool prepares clips and stores embeddings; all take them before activation and PCA.

    Args:
        name: The preset.
        example_hop_seconds: Distance between two examples, seconds; None keeps the pipeline's.
        padding: See `VGGishFeatureConfig`; None keeps the pipeline's.
        peak_floor: Each clip is divided by its largest sample (not magnitude), but at least by
            this; None for no normalisation.
        window_samples: An example needs this many samples, though it spans fewer.
        int16: Whether clips are rounded to 16 bits after the resampler.
        float16: Whether embeddings are rounded to half precision.
    """

    name: PresetName
    example_hop_seconds: float | None = None
    padding: Padding | None = None
    peak_floor: float | None = None
    window_samples: int | None = None
    int16: bool = False
    float16: bool = False


_GOOGLE = Preset(
    "google", example_hop_seconds=0.5, padding="none", peak_floor=0.1, window_samples=16_000
)
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("default"),
        _GOOGLE,
        # That tool uses integer samples; the floor is a tenth of the smallest step.
        replace(_GOOGLE, name="google-int16", peak_floor=0.1 / _INT16_SCALE),
        Preset("gudgud", example_hop_seconds=0.96, padding="none"),
        Preset("fadtk", example_hop_seconds=0.96, padding="short", int16=True, float16=True),
    )
}


class ClipEmbedder:
    """Embeds clips as a preset does.

    Args:
        model: A pipeline, or the id of a model: a built-in name, a folder or a Hub id.
        preset: The tool to imitate; `"default"` keeps the pipeline.

    Raises:
        ValueError: The preset is unknown, or the model's rate is not 16 kHz.

    Example:
        >>> from vggish_hf import VGGishConfig, VGGishFeatureExtractor, VGGishModel
        >>> config = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16)
        >>> pipe = VGGishPipeline(VGGishFeatureExtractor(), VGGishModel(config))  # random weights
        >>> embedder = ClipEmbedder(pipe, "google")
        >>> [rows.shape for _, rows in embedder.stream([(torch.zeros(32_000), 16_000)])]
        [(3, 128)]
    """

    def __init__(self, model: VGGishPipeline | str | Path, preset: PresetName = "default") -> None:
        check_choice("preset", preset, PresetName)
        self.preset = PRESETS[preset]
        if not isinstance(model, VGGishPipeline):
            model = VGGishPipeline.from_pretrained(model)
        self.pipeline = model
        if preset != "default":
            self.pipeline = copy.copy(model)  # shares the network
            self.pipeline.extractor = _PresetExtractor(model.extractor, self.preset)

    @property
    def size(self) -> int:
        """Length of an embedding."""
        return self.pipeline.model.config.embedding_size

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance of the embeddings, ready for JSON."""
        provenance = self.pipeline.provenance("none")
        preset = asdict(self.preset)
        del preset["example_hop_seconds"], preset["padding"]  # they are in the features' config
        return {
            **provenance,
            "preset": preset,
            "resampler": "kaiser_best of resampy 0.4.3",
        }

    def stream(
        self,
        clips: Iterable[Any],
        *,
        batch_size: int = 32,
        num_workers: int = 2,
        on_error: ErrorHandler | None = None,
        decode: Decoder = open_audio,
    ) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """Embed clips, see `VGGishPipeline.stream`.

        Yields:
            The clip's position and its embeddings (examples, size).
        """
        for output in self.pipeline.stream(
            clips,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
            decode=decode,
        ):
            embeddings = output.embeddings
            if self.preset.float16:
                embeddings = embeddings.half().to(embeddings.dtype)
            yield output.index, embeddings.numpy()


class _PresetExtractor(VGGishFeatureExtractor):
    """The front end after a preset's preprocessing; the pipeline only calls `stream`."""

    def __init__(self, extractor: VGGishFeatureExtractor, preset: Preset) -> None:
        config = extractor.config
        if config.sampling_rate != 16_000:
            raise ValueError(
                f"The preset {preset.name!r} needs a model of 16 kHz, got one of "
                f"{config.sampling_rate} Hz; use the preset 'default'"
            )
        hop = preset.example_hop_seconds or config.example_hop_seconds
        padding = preset.padding or config.padding
        super().__init__(replace(config, example_hop_seconds=hop, padding=padding))
        self.preset = preset

    def stream(
        self, blocks: Iterable[Tensor], sampling_rate: int | None = None, *, max_examples: int = 64
    ) -> Iterator[Tensor]:
        rate = self.config.sampling_rate if sampling_rate is None else sampling_rate
        check_sampling_rate(rate)
        blocks = _or_silence(resample_blocks(blocks, rate, self.config.sampling_rate))
        preset = self.preset
        if preset.int16:
            blocks = map(_round_to_int16, blocks)
        if preset.peak_floor is not None:
            # The only step that needs the whole clip.
            waveform = torch.cat(list(blocks))
            blocks = [waveform / waveform.max().clamp(min=preset.peak_floor)]
        if preset.window_samples is not None:
            waveform = torch.cat(list(blocks))
            hop = self.config.example_hop_length
            beyond_last = (len(waveform) - preset.window_samples) % hop
            is_short = len(waveform) < preset.window_samples
            # One sample makes no example, but is a clip.
            blocks = [waveform[: 1 if is_short else len(waveform) - beyond_last]]
        return super().stream(blocks, max_examples=max_examples)


def _or_silence(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Return one sample of silence for a clip that is empty at the lower rate."""
    is_empty = True
    for block in blocks:
        is_empty = False
        yield block
    if is_empty:
        yield torch.zeros(1)


def _round_to_int16(block: Tensor) -> Tensor:
    steps = (block * _INT16_SCALE).round().clamp(-_INT16_SCALE, _INT16_SCALE - 1)
    return steps / _INT16_SCALE
