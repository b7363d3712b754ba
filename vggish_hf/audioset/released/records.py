"""The records of AudioSet and YouTube-8M: TensorFlow's `SequenceExample` or `Example`.

    SequenceExample: 1 context: Features, 2 feature_lists: FeatureLists
    Example: 1 features: Features

Source: tensorflow/core/example/example.proto; https://research.google.com/audioset/download.html
and https://research.google.com/youtube8m/download.html.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggish_hf.tf_files.features import (
    FIRST,
    SECOND,
    NamedFeatures,
    decode_text,
    decode_varints,
    encode_entry,
    encode_feature,
    encode_sequence_example,
    merged,
    record_errors,
    row_framing,
    uniform_rows,
)
from vggish_hf.tf_files.protobuf import encode_field

EMBEDDING_SIZE = 128  # of audio, in both data sets


@dataclass(frozen=True, slots=True, eq=False)
class AudioSetRecord:
    """A clip of the released AudioSet embeddings.

    Args:
        video_id: YouTube's id of the video.
        start_time_seconds: Start of the clip in the video; records store it in float32.
        end_time_seconds: End of the clip, likewise.
        labels: Indices of the clip's classes; see `AudioSetLabels`.
        embedding: One row a second, uint8, shape (seconds, 128).

    Raises:
        ValueError: `embedding` has another type or shape.
    """

    video_id: str
    start_time_seconds: float
    end_time_seconds: float
    labels: tuple[int, ...]
    embedding: NDArray[np.uint8]

    def __post_init__(self) -> None:
        dtype, shape = self.embedding.dtype, self.embedding.shape
        if dtype != np.uint8 or len(shape) != 2 or shape[1] != EMBEDDING_SIZE:
            raise ValueError(
                f"Expected `embedding` to be uint8 of shape (seconds, {EMBEDDING_SIZE}), got "
                f"{dtype} of shape {shape}; `VGGishPostprocessor.quantize` makes uint8"
            )


def encode_audioset(record: AudioSetRecord) -> bytes:
    """Encode a clip like the released embeddings, for `RecordWriter`.

    The features have the order of most released records.

    Example:
        >>> record = AudioSetRecord("dQw4w9WgXcQ", 0.0, 2.0, (137,), np.zeros((2, 128), np.uint8))
        >>> parse_audioset(encode_audioset(record)).labels
        (137,)
    """
    return encode_sequence_example(
        {
            "video_id": record.video_id.encode(),
            "start_time_seconds": [float(record.start_time_seconds)],
            "labels": record.labels,
            "end_time_seconds": [float(record.end_time_seconds)],
        },
        {"audio_embedding": [row.tobytes() for row in record.embedding]},
    )


def parse_audioset(data: bytes) -> AudioSetRecord:
    """Parse a record of the released AudioSet embeddings, or of `encode_audioset`.

    Raises:
        RecordError: It is not a `SequenceExample`, or a feature is missing or of another kind or
            size.
    """
    record = _parse_plain(data)
    return _parse_audioset(data) if record is None else record


def _parse_audioset(data: bytes) -> AudioSetRecord:
    """Parse a record in any valid form."""
    with record_errors():
        context, lists = NamedFeatures(merged(data, FIRST)), NamedFeatures(merged(data, SECOND))
        return AudioSetRecord(
            video_id=context.string("video_id"),
            start_time_seconds=float(context.floats("start_time_seconds", 1)[0]),
            end_time_seconds=float(context.floats("end_time_seconds", 1)[0]),
            labels=context.integers("labels"),
            embedding=lists.rows("audio_embedding", EMBEDDING_SIZE),
        )


# The bytes before each value of a plain record, taken from the encoder.
_ID_SIZE = 11  # of a YouTube id
_FLOAT = struct.Struct("<f")
_ID_FRAME = encode_entry("video_id", encode_feature(bytes(_ID_SIZE)))[:-_ID_SIZE]
_START_FRAME = encode_entry("start_time_seconds", encode_feature([0.0]))[: -_FLOAT.size]
_END_FRAME = encode_entry("end_time_seconds", encode_feature([0.0]))[: -_FLOAT.size]
# These two depend on the size of the value, so they map to it.
_LABELS_FRAMES = {
    encode_entry("labels", encode_feature([0] * size))[:-size]: size
    for size in range(1, 22)  # more do not fit into a context whose size is one byte
}
_LABELS_FRAME_SIZE = len(next(iter(_LABELS_FRAMES)))
_ROWS_FRAMES = {
    encode_field(2, encode_entry("audio_embedding", bytes(size)))[:-size]: size
    for seconds in range(1, 11)
    for size in [seconds * (len(row_framing(EMBEDDING_SIZE)) + EMBEDDING_SIZE)]
}
_ROWS_FRAME_SIZE = len(next(iter(_ROWS_FRAMES)))


def _parse_plain(data: bytes) -> AudioSetRecord | None:
    """Parse a plain record, as nearly all released ones are, five times as fast.

    The features of the context may have any order. Every byte is compared with the framing, or
    belongs to a value whose size the framing states, so a match has no other reading.

    Returns:
        The record; None if a byte of the framing differs, though the record may be valid.
    """
    if len(data) < 2 or data[0] != FIRST or data[1] > 0x7F:
        return None
    position, stop = 2, 2 + data[1]
    video_id = start = end = labels = 0  # where the values start
    labels_size = 0
    while position < stop:
        if data.startswith(_ID_FRAME, position):
            video_id = position + len(_ID_FRAME)
            position = video_id + _ID_SIZE
        elif data.startswith(_START_FRAME, position):
            start = position + len(_START_FRAME)
            position = start + _FLOAT.size
        elif data.startswith(_END_FRAME, position):
            end = position + len(_END_FRAME)
            position = end + _FLOAT.size
        elif size := _LABELS_FRAMES.get(data[position : position + _LABELS_FRAME_SIZE]):
            labels, labels_size = position + _LABELS_FRAME_SIZE, size
            position = labels + size
        else:
            return None
    if position != stop or not (video_id and start and end):
        return None
    rows = stop + _ROWS_FRAME_SIZE
    if _ROWS_FRAMES.get(data[stop:rows]) != len(data) - rows:
        return None
    embedding = uniform_rows(memoryview(data)[rows:], EMBEDDING_SIZE)
    if embedding is None:
        return None
    return AudioSetRecord(
        decode_text(data[video_id : video_id + _ID_SIZE], "video_id"),
        _FLOAT.unpack_from(data, start)[0],
        _FLOAT.unpack_from(data, end)[0],
        tuple(decode_varints(data[labels : labels + labels_size])),
        embedding,
    )
