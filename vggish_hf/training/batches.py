"""Batches of clips for the models, and the examples of a batch.

Clips keep their stored rate: workers decode and cut, the device resamples.
"""

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

import torch
from torch import Tensor

from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.feature_extraction.resampling import resample, resampled_length

#: Whether a clip has one class or any number of them.
Task = Literal["single_label", "multi_label"]


class WaveformClip(TypedDict):
    """A clip of audio from a data set.

    `waveform` is (time,), float32 and mono, `sampling_rate` its rate in Hz; `target` is (classes,),
    float32, and missing if a clip has no labels.
    """

    id: str
    waveform: Tensor
    sampling_rate: int
    target: NotRequired[Tensor]


class WaveformBatch(TypedDict):
    """Clips of any lengths and rates; see `collate_waveforms`.

    - `waveform`: (batch, time), zeros after each clip's end
    - `length`: (batch,), int64, samples of each clip at its own rate
    - `sampling_rate`: (batch,), int64, Hz
    - `target`: (batch, classes), float32: 1 for each of a clip's classes, fractions after mixup
    """

    id: list[str]
    waveform: Tensor
    length: Tensor
    sampling_rate: Tensor
    target: NotRequired[Tensor]


class EmbeddingBatch(TypedDict):
    """Embedded clips of any lengths.

    - `embedding`: (batch, examples, size), float32, or uint8 like the released AudioSet embeddings
    - `mask`: (batch, examples), bool, False where the embedding is padding
    - `target`: as in `WaveformBatch`
    """

    id: list[str]
    embedding: Tensor
    mask: Tensor
    target: NotRequired[Tensor]


def collate_waveforms(clips: Sequence[WaveformClip]) -> WaveformBatch:
    """Stack clips; zeros pad the shorter ones at the end.

    Args:
        clips: The clips of a batch; either all or none have a target.

    Example:
        >>> clips = [
        ...     WaveformClip(id="a", waveform=torch.ones(3), sampling_rate=8_000),
        ...     WaveformClip(id="b", waveform=torch.ones(5), sampling_rate=16_000),
        ... ]
        >>> batch = collate_waveforms(clips)
        >>> batch["waveform"].shape, batch["length"], batch["sampling_rate"]
        (torch.Size([2, 5]), tensor([3, 5]), tensor([ 8000, 16000]))
    """
    waveforms = [clip["waveform"] for clip in clips]
    batch = WaveformBatch(
        id=[clip["id"] for clip in clips],
        waveform=torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True),
        length=torch.tensor([len(waveform) for waveform in waveforms]),
        sampling_rate=torch.tensor([clip["sampling_rate"] for clip in clips]),
    )
    targets = [clip["target"] for clip in clips if "target" in clip]
    if targets:
        batch["target"] = torch.stack(targets)
    return batch


def extract_batch(extractor: VGGishFeatureExtractor, batch: WaveformBatch) -> tuple[Tensor, Tensor]:
    """Compute the examples of a batch, the same for each clip as from the extractor alone.

    Autocast is off here: in sixteen bits a waveform would lose quiet sounds.

    Args:
        extractor: The front end; its config decides the padding of short clips and tails.
        batch: The clips. Those of one rate are resampled together, and all go through the extractor
            at once.

    Returns:
        The examples (batch, examples, example_frames, num_mel_bins), as many as the longest clip
        has, and a mask (batch, examples), False where an example is padding; it is zero there.

    Raises:
        ValueError: The waveform or a rate is invalid, see `VGGishFeatureExtractor.forward`.

    Example:
        >>> clips = [
        ...     WaveformClip(id="a", waveform=torch.zeros(8_000), sampling_rate=8_000),
        ...     WaveformClip(id="b", waveform=torch.zeros(44_100 * 2), sampling_rate=44_100),
        ... ]
        >>> examples, mask = extract_batch(VGGishFeatureExtractor(), collate_waveforms(clips))
        >>> examples.shape, mask
        (torch.Size([2, 2, 96, 64]), tensor([[ True, False], [ True,  True]]))
    """
    device = batch["waveform"].device
    with torch.autocast(device.type, enabled=False):
        waveform, lengths = _resample_batch(batch, extractor.config.sampling_rate)
        examples: Tensor = extractor(waveform)
    counts = torch.tensor([extractor.config.num_examples(n) for n in lengths], device=device)
    mask = torch.arange(examples.shape[1], device=device) < counts[:, None]
    return examples.masked_fill(~mask[..., None, None], 0.0), mask


def _resample_batch(batch: WaveformBatch, new_rate: int) -> tuple[Tensor, list[int]]:
    """Resample clips to one rate: (batch, time), zeros after their ends, and the new lengths."""
    waveform = batch["waveform"]
    rates = batch["sampling_rate"].tolist()
    samples = batch["length"].tolist()
    lengths = [resampled_length(n, rate, new_rate) for n, rate in zip(samples, rates, strict=True)]
    # A clip too short for one sample at the lower rate is silence.
    resampled = waveform.new_zeros(len(waveform), max([*lengths, 1]))
    for rate in set(rates):
        rows = [i for i, found in enumerate(rates) if found == rate]
        longest = max(samples[i] for i in rows)
        part = resample(waveform[rows, :longest], rate, new_rate)
        resampled[rows, : part.shape[1]] = part
    # The filter rings after a clip's end, which the extractor alone does not see.
    ends = torch.tensor(lengths, device=waveform.device)
    padding = torch.arange(resampled.shape[1], device=waveform.device) >= ends[:, None]
    return resampled.masked_fill(padding, 0.0), lengths
