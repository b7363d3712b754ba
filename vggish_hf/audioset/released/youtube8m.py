"""The records of YouTube-8M, at frame and at video level.

Source: https://research.google.com/youtube8m/download.html.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggish_hf.audioset.released.records import EMBEDDING_SIZE
from vggish_hf.tf_files.features import (
    FIRST,
    SECOND,
    NamedFeatures,
    merged,
    record_errors,
)

RGB_SIZE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class YouTube8MFrames:
    """A video of YouTube-8M at frame level.

    Args:
        id: The data set's id of the video.
        labels: Indices into YouTube-8M's vocabulary; none in its test partition.
        rgb: One row a second, uint8, shape (seconds, 1024).
        audio: One row a second, uint8, shape (seconds, 128).
    """

    id: str
    labels: tuple[int, ...]
    rgb: NDArray[np.uint8]
    audio: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class YouTube8MVideo:
    """A video of YouTube-8M at video level.

    Args:
        id: The data set's id of the video.
        labels: Indices into YouTube-8M's vocabulary; none in its test partition.
        mean_rgb: Mean of the image features, float32, shape (1024,).
        mean_audio: Mean of the audio features, float32, shape (128,).
    """

    id: str
    labels: tuple[int, ...]
    mean_rgb: NDArray[np.float32]
    mean_audio: NDArray[np.float32]


def parse_youtube8m_frames(data: bytes) -> YouTube8MFrames:
    """Parse a record of YouTube-8M's frame-level features.

    Raises:
        RecordError: It is not a `SequenceExample`, or a feature is missing or of another kind or
            size.
    """
    with record_errors():
        context, lists = NamedFeatures(merged(data, FIRST)), NamedFeatures(merged(data, SECOND))
        return YouTube8MFrames(
            id=context.string("id"),
            labels=context.integers("labels"),
            rgb=lists.rows("rgb", RGB_SIZE),
            audio=lists.rows("audio", EMBEDDING_SIZE),
        )


def parse_youtube8m_video(data: bytes) -> YouTube8MVideo:
    """Parse a record of YouTube-8M's video-level features.

    Raises:
        RecordError: It is not an `Example`, or a feature is missing or of another kind or size.
    """
    with record_errors():
        features = NamedFeatures(merged(data, FIRST))
        return YouTube8MVideo(
            id=features.string("id"),
            labels=features.integers("labels"),
            mean_rgb=features.floats("mean_rgb", RGB_SIZE),
            mean_audio=features.floats("mean_audio", EMBEDDING_SIZE),
        )
