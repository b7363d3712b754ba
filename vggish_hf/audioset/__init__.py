"""AudioSet: labels, records, embeddings and clips.

What needs the optional package `datasets` is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vggish_hf.audioset.labels import AudioSetClass as AudioSetClass
from vggish_hf.audioset.labels import AudioSetLabels as AudioSetLabels
from vggish_hf.audioset.labels import Ontology as Ontology
from vggish_hf.audioset.labels import OntologyNode as OntologyNode
from vggish_hf.audioset.sequence_example import AudioSetRecord as AudioSetRecord
from vggish_hf.audioset.sequence_example import YouTube8MFrames as YouTube8MFrames
from vggish_hf.audioset.sequence_example import YouTube8MVideo as YouTube8MVideo
from vggish_hf.audioset.sequence_example import encode_audioset as encode_audioset
from vggish_hf.audioset.sequence_example import parse_audioset as parse_audioset
from vggish_hf.audioset.sequence_example import parse_youtube8m_frames as parse_youtube8m_frames
from vggish_hf.audioset.sequence_example import parse_youtube8m_video as parse_youtube8m_video
from vggish_hf.audioset.tfrecord import RecordError as RecordError
from vggish_hf.audioset.tfrecord import RecordReader as RecordReader
from vggish_hf.audioset.tfrecord import RecordWriter as RecordWriter

if TYPE_CHECKING:
    from vggish_hf.audioset.clip_dataset import AudioSetClipsDataset as AudioSetClipsDataset
    from vggish_hf.audioset.clip_embeddings import embed_clips as embed_clips
    from vggish_hf.audioset.clip_export import export_clips as export_clips
    from vggish_hf.audioset.clips import AudioSetClips as AudioSetClips
    from vggish_hf.audioset.embedding_export import export_embeddings as export_embeddings
    from vggish_hf.audioset.embeddings import AudioSetEmbeddings as AudioSetEmbeddings
    from vggish_hf.audioset.torch_datasets import (
        AudioSetEmbeddingsDataset as AudioSetEmbeddingsDataset,
    )
    from vggish_hf.audioset.torch_datasets import collate_padded as collate_padded
    from vggish_hf.audioset.torch_datasets import collate_ragged as collate_ragged

_NEED_DATASETS = {
    "AudioSetClips": "clips",
    "AudioSetClipsDataset": "clip_dataset",
    "AudioSetEmbeddings": "embeddings",
    "AudioSetEmbeddingsDataset": "torch_datasets",
    "collate_padded": "torch_datasets",
    "collate_ragged": "torch_datasets",
    "embed_clips": "clip_embeddings",
    "export_clips": "clip_export",
    "export_embeddings": "embedding_export",
}


def __getattr__(name: str) -> Any:
    """Find the names that need `datasets`.

    Raises:
        ImportError: `datasets` is not installed.
    """
    if name not in _NEED_DATASETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_DATASETS[name]}"), name)
