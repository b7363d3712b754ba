"""AudioSet's clips as a torch data set of waveforms, with or without torchcodec."""

from typing import Any, TypedDict

import torch
from torch import Tensor

from vggish_hf.audio import AudioError, WorkerDecoders, open_audio
from vggish_hf.audioset._datasets import datasets
from vggish_hf.audioset.clips.tables import clip_features
from vggish_hf.feature_extraction.resampling import resample


class AudioClip(TypedDict):
    """A clip: see `AudioSetClipsDataset`."""

    video_id: str
    start_time_seconds: float
    end_time_seconds: float
    waveform: Tensor
    sampling_rate: int
    target: Tensor


class AudioSetClipsDataset(torch.utils.data.Dataset[AudioClip]):
    """AudioSet's clips as waveforms, decoded on access, with random access.

    Args:
        dataset: A split from `AudioSetClips`, or from a folder of `export_clips`, opened by
            `datasets.load_dataset`; it may be filtered or shuffled.
        sampling_rate: The rate of all waveforms, Hz; None keeps each at its own.
        seconds: The length to cut or zero-pad to, for batches; None keeps each at its own.
        isolated: Whether to decode clips in separate processes, for untrusted audio: a clip that
            crashes a decoder raises an error that names it.

    Raises:
        ValueError: `dataset` has other columns, or is streaming.

    Shape:
        - `waveform`: `(time,)`, float32, channels averaged
        - `target`: `(527,)`, float32, 1 for each of the clip's labels

    Example:
        >>> loader = torch.utils.data.DataLoader(  # doctest: +SKIP
        ...     AudioSetClipsDataset(dataset, seconds=10), batch_size=32, num_workers=4
        ... )
    """

    def __init__(
        self,
        dataset: "datasets.Dataset",
        *,
        sampling_rate: int | None = 16_000,
        seconds: float | None = None,
        isolated: bool = False,
    ) -> None:
        if not isinstance(dataset, datasets.Dataset):
            raise ValueError(
                f"Expected a datasets.Dataset, got {type(dataset).__name__}; pass one split, not "
                "streaming"
            )
        features = clip_features()
        for name, feature in features.items():
            found = dataset.features.get(name)
            # Its options are for torchcodec, which is not used here.
            if found != feature and not (isinstance(found, datasets.Audio) and name == "audio"):
                columns = ", ".join(
                    f"{key}: {type(kind).__name__ if isinstance(kind, datasets.List) else kind}"
                    for key, kind in dataset.features.items()
                )
                raise ValueError(
                    f"Expected a column `{name}` of {type(feature).__name__}, as "
                    f"`clip_features()` has it, got the columns {columns}; undo the renaming or "
                    "casting (`rename_column`, `cast_column`)"
                )
        self.sampling_rate = sampling_rate
        self.seconds = seconds
        self._decoders = WorkerDecoders() if isolated else None
        # Arrow gives the stored data, with the audio encoded.
        self._dataset = dataset.with_format("arrow", columns=list(features))
        self._classes = features["labels"].feature.num_classes

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> AudioClip:
        """Decode a clip.

        Raises:
            AudioError: It cannot be decoded.
            IndexError: The index is out of range.
        """
        (row,) = self._dataset[index].to_pylist()
        target = torch.zeros(self._classes)
        target[row["labels"]] = 1
        waveform, sampling_rate = self._decode(row)
        return AudioClip(
            video_id=row["video_id"],
            start_time_seconds=row["start_time_seconds"],
            end_time_seconds=row["end_time_seconds"],
            waveform=waveform,
            sampling_rate=sampling_rate,
            target=target,
        )

    def _decode(self, row: dict[str, Any]) -> tuple[Tensor, int]:
        try:
            decode = open_audio if self._decoders is None else self._decoders.here().open
            waveform, sampling_rate = decode(row["audio"]).read()
        except AudioError as error:
            raise AudioError(f"{row['video_id']}: {error}") from error
        if self.sampling_rate is not None:
            waveform = resample(waveform, sampling_rate, self.sampling_rate)
            sampling_rate = self.sampling_rate
        if self.seconds is None:
            return waveform, sampling_rate
        missing = round(self.seconds * sampling_rate) - len(waveform)
        # A negative number cuts.
        return torch.nn.functional.pad(waveform, (0, missing)), sampling_rate
