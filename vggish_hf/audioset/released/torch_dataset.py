"""The AudioSet embeddings as a torch data set, and functions that batch its clips.

`Dataset.with_format("torch")` turns uint8 into int64, eight times the memory; here they stay uint8.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from vggish_hf.audioset._datasets import datasets
from vggish_hf.audioset.released.records import EMBEDDING_SIZE
from vggish_hf.audioset.released.tables import embedding_features
from vggish_hf.modeling import VGGishPostprocessor


class EmbeddingClip(TypedDict):
    """A clip: see `AudioSetEmbeddingsDataset`."""

    video_id: str
    start_time_seconds: float
    end_time_seconds: float
    embedding: Tensor
    target: Tensor


class AudioSetEmbeddingsDataset(torch.utils.data.Dataset[EmbeddingClip]):
    """Clips of the AudioSet embeddings as tensors, with random access.

    A `DataLoader` fetches a batch's clips at once; give it `collate_padded` or `collate_ragged`.

    Args:
        dataset: A split from `AudioSetEmbeddings`, or from a folder of `export_embeddings`, opened
            by `datasets.load_dataset`; it may be filtered or shuffled.
        dequantize: Give float32, by `VGGishPostprocessor.dequantize`, instead of uint8.

    Raises:
        ValueError: `dataset` has other columns, or is streaming.

    Shape:
        - `embedding`: `(seconds, 128)`, uint8 or float32
        - `target`: `(527,)`, float32, 1 for each of the clip's labels

    Example:
        >>> loader = torch.utils.data.DataLoader(  # doctest: +SKIP
        ...     AudioSetEmbeddingsDataset(dataset), batch_size=256, collate_fn=collate_padded
        ... )
    """

    def __init__(self, dataset: "datasets.Dataset", *, dequantize: bool = False) -> None:
        if not isinstance(dataset, datasets.Dataset):
            raise ValueError(
                f"Expected a datasets.Dataset, got {type(dataset).__name__}; pass one split, not "
                "streaming"
            )
        features = embedding_features()
        for name, feature in features.items():
            if dataset.features.get(name) != feature:
                raise ValueError(
                    f"Expected the columns of `embedding_features()`, got for `{name}` "
                    f"{dataset.features.get(name)}"
                )
        self.dequantize = dequantize
        self._dataset = dataset.with_format("arrow", columns=list(features))
        self._classes = features["labels"].feature.num_classes

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> EmbeddingClip:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[EmbeddingClip]:
        """Fetch several clips at once, as `DataLoader` does."""
        table = self._dataset[list(indices)]
        embedding = table["embedding"].combine_chunks()
        rows = torch.from_numpy(embedding.flatten().flatten().to_numpy().copy())
        if self.dequantize:
            rows = VGGishPostprocessor.dequantize(rows)
        lengths = embedding.value_lengths().to_pylist()
        targets = torch.zeros(len(table), self._classes)
        for target, labels in zip(targets, table["labels"].to_pylist(), strict=True):
            target[labels] = 1
        return [
            EmbeddingClip(
                video_id=video_id,
                start_time_seconds=start,
                end_time_seconds=end,
                embedding=embedding,
                target=target,
            )
            for video_id, start, end, embedding, target in zip(
                table["video_id"].to_pylist(),
                table["start_time_seconds"].to_pylist(),
                table["end_time_seconds"].to_pylist(),
                torch.split(rows.view(-1, EMBEDDING_SIZE), lengths),
                targets,
                strict=True,
            )
        ]


def collate_padded(clips: Sequence[EmbeddingClip], seconds: int = 10) -> dict[str, Any]:
    """Stack clips; zeros pad the shorter ones at the end.

    Args:
        clips: The clips of a batch.
        seconds: The length to pad to; the longest released clips have 10.

    Returns:
        `embedding`, `mask`, `target`, `video_id` (a list), `start_time_seconds` and
        `end_time_seconds` (float64). The mask is False where the embedding is padding: zeros of
        uint8 are not silence but -2 in each dimension.

    Raises:
        ValueError: A clip is longer than `seconds`.

    Shape:
        - `embedding`: `(batch, seconds, 128)`
        - `mask`: `(batch, seconds)`
        - `target`: `(batch, 527)`
    """
    longest = max(len(clip["embedding"]) for clip in clips)
    if longest > seconds:
        raise ValueError(
            f"Expected clips of at most {seconds} rows, got one of {longest}; pass `seconds`, as "
            f"in functools.partial(collate_padded, seconds={longest})"
        )
    first = clips[0]["embedding"]
    embedding = first.new_zeros(len(clips), seconds, first.shape[1])
    mask = torch.zeros(len(clips), seconds, dtype=torch.bool)
    for i, clip in enumerate(clips):
        embedding[i, : len(clip["embedding"])] = clip["embedding"]
        mask[i, : len(clip["embedding"])] = True
    return {"embedding": embedding, "mask": mask, **_collate_rest(clips)}


def collate_ragged(clips: Sequence[EmbeddingClip]) -> dict[str, Any]:
    """Concatenate the rows of all clips.

    Returns:
        `embedding`, `lengths` (int64, rows of each clip) and the rest as in `collate_padded`;
        `embedding.split(lengths.tolist())` gives the clips.

    Shape:
        - `embedding`: `(rows of all clips, 128)`
        - `lengths`: `(batch,)`
        - `target`: `(batch, 527)`
    """
    lengths = torch.tensor([len(clip["embedding"]) for clip in clips])
    embedding = torch.cat([clip["embedding"] for clip in clips])
    return {"embedding": embedding, "lengths": lengths, **_collate_rest(clips)}


def _collate_rest(clips: Sequence[EmbeddingClip]) -> dict[str, Any]:
    def seconds(name: Literal["start_time_seconds", "end_time_seconds"]) -> Tensor:
        return torch.tensor([clip[name] for clip in clips], dtype=torch.float64)

    return {
        "target": torch.stack([clip["target"] for clip in clips]),
        "video_id": [clip["video_id"] for clip in clips],
        "start_time_seconds": seconds("start_time_seconds"),
        "end_time_seconds": seconds("end_time_seconds"),
    }
