"""AudioSet: labels, records, embeddings and clips.

Names that need the optional package `datasets` are imported on first use.
"""

from typing import TYPE_CHECKING

from vggish_hf._runtime.lazy import lazy_names
from vggish_hf.audioset.labels import AudioSetClass as AudioSetClass
from vggish_hf.audioset.labels import AudioSetLabels as AudioSetLabels
from vggish_hf.audioset.labels import Ontology as Ontology
from vggish_hf.audioset.labels import OntologyNode as OntologyNode
from vggish_hf.audioset.released.records import AudioSetRecord as AudioSetRecord
from vggish_hf.audioset.released.records import encode_audioset as encode_audioset
from vggish_hf.audioset.released.records import parse_audioset as parse_audioset
from vggish_hf.audioset.released.youtube8m import YouTube8MFrames as YouTube8MFrames
from vggish_hf.audioset.released.youtube8m import YouTube8MVideo as YouTube8MVideo
from vggish_hf.audioset.released.youtube8m import parse_youtube8m_frames as parse_youtube8m_frames
from vggish_hf.audioset.released.youtube8m import parse_youtube8m_video as parse_youtube8m_video
from vggish_hf.tf_files.records import RecordError as RecordError
from vggish_hf.tf_files.records import RecordReader as RecordReader
from vggish_hf.tf_files.records import RecordWriter as RecordWriter

if TYPE_CHECKING:
    from vggish_hf.audioset.clips.builder import AudioSetClips as AudioSetClips
    from vggish_hf.audioset.clips.embed import embed_clips as embed_clips
    from vggish_hf.audioset.clips.export import export_clips as export_clips
    from vggish_hf.audioset.clips.torch_dataset import AudioSetClipsDataset as AudioSetClipsDataset
    from vggish_hf.audioset.released.builder import AudioSetEmbeddings as AudioSetEmbeddings
    from vggish_hf.audioset.released.export import export_embeddings as export_embeddings
    from vggish_hf.audioset.released.torch_dataset import (
        AudioSetEmbeddingsDataset as AudioSetEmbeddingsDataset,
    )
    from vggish_hf.audioset.released.torch_dataset import collate_padded as collate_padded
    from vggish_hf.audioset.released.torch_dataset import collate_ragged as collate_ragged

__all__ = [
    "AudioSetClass",
    "AudioSetClips",
    "AudioSetClipsDataset",
    "AudioSetEmbeddings",
    "AudioSetEmbeddingsDataset",
    "AudioSetLabels",
    "AudioSetRecord",
    "Ontology",
    "OntologyNode",
    "RecordError",
    "RecordReader",
    "RecordWriter",
    "YouTube8MFrames",
    "YouTube8MVideo",
    "collate_padded",
    "collate_ragged",
    "embed_clips",
    "encode_audioset",
    "export_clips",
    "export_embeddings",
    "parse_audioset",
    "parse_youtube8m_frames",
    "parse_youtube8m_video",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AudioSetClips": "clips.builder",
        "AudioSetClipsDataset": "clips.torch_dataset",
        "AudioSetEmbeddings": "released.builder",
        "AudioSetEmbeddingsDataset": "released.torch_dataset",
        "collate_padded": "released.torch_dataset",
        "collate_ragged": "released.torch_dataset",
        "embed_clips": "clips.embed",
        "export_clips": "clips.export",
        "export_embeddings": "released.export",
    },
    needs="datasets",
)
