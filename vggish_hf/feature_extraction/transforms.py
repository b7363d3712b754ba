"""The front end as a module that composes with torchaudio's transforms."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Self, Unpack

import torch
from torch import Tensor, nn

from vggish_hf import hub
from vggish_hf._checks import check_at_least_one, check_sampling_rate
from vggish_hf._runtime.files import read_json, write_json
from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.feature_extraction.functional import check_waveform, extract_examples
from vggish_hf.feature_extraction.resampling import resample, resample_blocks

# Its name in the config, the same for subclasses, which read each other's configs.
_TYPE = "VGGishFeatureExtractor"


class VGGishFeatureExtractor(nn.Module):
    """Waveforms to VGGish's log-mel examples.

    Stateless: the filters are built in float64 once per dtype, device and sampling rate, and follow
    the waveform, so there is nothing to move or cast.

    Args:
        config: The front end's numbers; the default is the reference's.

    Shape:
        - Input: (..., time)
        - Output: (..., examples, example_frames, num_mel_bins), (..., examples, 96, 64) by default

    Example:
        >>> extractor = VGGishFeatureExtractor()
        >>> extractor(torch.zeros(2, 160_000)).shape
        torch.Size([2, 10, 96, 64])
        >>> extractor(torch.zeros(441_000), sampling_rate=44_100).shape
        torch.Size([10, 96, 64])
        >>> extractor.example_times(3)
        tensor([0.0000, 0.9600, 1.9200], dtype=torch.float64)
    """

    def __init__(self, config: VGGishFeatureConfig | None = None) -> None:
        super().__init__()
        self.config = VGGishFeatureConfig() if config is None else config

    def forward(self, waveform: Tensor, sampling_rate: int | None = None) -> Tensor:
        """Compute the examples; differentiable.

        Args:
            waveform: (..., time), float32 or float64, in [-1, 1], on any device. The leading
                dimensions, including channels, are kept: mix to mono first by `waveform.mean(-2)`,
                like the reference.
            sampling_rate: The waveform's rate, Hz; the default is the config's (16 kHz). Other
                rates are resampled like the reference.

        Returns:
            (..., examples, example_frames, num_mel_bins), on the waveform's device and of its
            dtype.

        Raises:
            ValueError: The waveform is an integer tensor, a scalar, empty, not finite or looks like
                (time, channels), or the rate is not a positive whole number.
        """
        check_waveform(waveform)
        if sampling_rate is not None:
            check_sampling_rate(sampling_rate)
            waveform = resample(waveform, sampling_rate, self.config.sampling_rate)
        return extract_examples(waveform, self.config)

    def stream(
        self, blocks: Iterable[Tensor], sampling_rate: int | None = None, *, max_examples: int = 64
    ) -> Iterator[Tensor]:
        """Compute the examples of a waveform of any length in blocks.

        Args:
            blocks: Consecutive blocks (time,) of one waveform, of any lengths.
            sampling_rate: As for `forward`.
            max_examples: The most examples at once.

        Yields:
            (examples, example_frames, num_mel_bins); together, the result of `forward`. The length
            of a block and `max_examples` bound the memory.

        Raises:
            ValueError: As for `forward`.
        """
        config = self.config
        hop = config.example_hop_length
        rate = config.sampling_rate if sampling_rate is None else sampling_rate
        check_sampling_rate(rate)
        check_at_least_one(max_examples=max_examples)
        full = (max_examples - 1) * hop + max(config.example_length, hop)
        parts: list[Tensor] = []
        pending = emitted = 0
        for part in resample_blocks(_checked(blocks), rate, config.sampling_rate):
            parts.append(part)
            pending += part.shape[-1]
            while pending >= full:
                waveform = torch.cat(parts)
                yield extract_examples(waveform[:full], config)
                parts = [waveform[max_examples * hop :]]
                pending -= max_examples * hop
                emitted += max_examples
        remaining = config.num_examples(emitted * hop + pending) - emitted
        if remaining > 0:
            # A clip too short for one sample at the lower rate is silence.
            yield extract_examples(torch.cat(parts) if pending else torch.zeros(1), config)

    def example_times(self, num_examples: int, first_example: int = 0) -> Tensor:
        """Start of each of `num_examples` examples: (num_examples,), seconds, float64.

        Args:
            num_examples: The number of examples.
            first_example: The number of the first one in its clip.
        """
        numbers = torch.arange(
            first_example, first_example + num_examples, dtype=torch.float64, device="cpu"
        )
        # Whole samples give the nearest float64 to each time: only the division rounds.
        return numbers * self.config.example_hop_length / self.config.sampling_rate

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **options: Unpack[hub.HubOptions]
    ) -> Self:
        """Read preprocessor_config.json of a built-in model, a local folder or a Hub repository.

        Args:
            pretrained_model_name_or_path: The model's id.
            **options: How to fetch from the Hub, see `HubOptions`.

        Raises:
            FileNotFoundError: The folder does not exist, or lacks the file.
            ValueError: The file has unknown keys or invalid values.
            TypeError: An option is unknown.
        """
        files = (hub.FEATURE_CONFIG_NAME,)
        folder = hub.find_folder(pretrained_model_name_or_path, files, **options)
        path = folder / hub.FEATURE_CONFIG_NAME
        values = read_json(path)
        kind = values.pop("feature_extractor_type", _TYPE)
        if kind != _TYPE:
            raise ValueError(
                f"Expected the config of a {_TYPE} in {str(path)!r}, got that of a {kind!r}"
            )
        return cls(VGGishFeatureConfig.from_dict(values))

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write preprocessor_config.json into a folder, created if needed."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        values = {"feature_extractor_type": _TYPE, **asdict(self.config)}
        write_json(folder / hub.FEATURE_CONFIG_NAME, values)

    def push_to_hub(self, repo_id: str, **options: Unpack[hub.PushOptions]) -> str:
        """Upload preprocessor_config.json to a Hub repository.

        Args:
            repo_id: The repository, `org/name`; created if needed.
            **options: See `PushOptions`.

        Returns:
            The commit's address.
        """
        return hub.push(self.save_pretrained, repo_id, **options)

    def extra_repr(self) -> str:
        """Show the config in the module's `repr`."""
        return repr(self.config)


def _checked(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    block = None
    for block in blocks:
        if block.ndim != 1:
            raise ValueError(f"Expected blocks of shape (time,), got {tuple(block.shape)}")
        check_waveform(block)
        yield block
    if block is None:
        raise ValueError("Expected a waveform of at least one sample, got no blocks")
