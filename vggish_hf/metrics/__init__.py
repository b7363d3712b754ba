"""Frechet Audio Distance: the arithmetic, baselines in files, published tools' preprocessing.

The metric class needs torchmetrics, and is imported on first use.
"""

from typing import TYPE_CHECKING

from vggish_hf._runtime.lazy import lazy_names
from vggish_hf.metrics.embedding_sets import EmbeddingSet as EmbeddingSet
from vggish_hf.metrics.embedding_sets import embed_set as embed_set
from vggish_hf.metrics.found_sets import ClipFailure as ClipFailure
from vggish_hf.metrics.found_sets import FoundSet as FoundSet
from vggish_hf.metrics.found_sets import find_set as find_set
from vggish_hf.metrics.frechet import frechet_distance as frechet_distance
from vggish_hf.metrics.infinity import InfinityFit as InfinityFit
from vggish_hf.metrics.infinity import Interval as Interval
from vggish_hf.metrics.infinity import bootstrap_interval as bootstrap_interval
from vggish_hf.metrics.infinity import fad_infinity as fad_infinity
from vggish_hf.metrics.presets import PRESETS as PRESETS
from vggish_hf.metrics.presets import ClipEmbedder as ClipEmbedder
from vggish_hf.metrics.presets import Preset as Preset
from vggish_hf.metrics.presets import PresetName as PresetName
from vggish_hf.metrics.scoring import ClipScore as ClipScore
from vggish_hf.metrics.scoring import FadResult as FadResult
from vggish_hf.metrics.scoring import frechet_audio_distance as frechet_audio_distance
from vggish_hf.metrics.statistics import EmbeddingStatistics as EmbeddingStatistics
from vggish_hf.metrics.statistics import SmallSampleWarning as SmallSampleWarning
from vggish_hf.provenance import provenance_differences as provenance_differences

if TYPE_CHECKING:
    from vggish_hf.metrics.audio_distance import FrechetAudioDistance as FrechetAudioDistance

__all__ = [
    "PRESETS",
    "ClipEmbedder",
    "ClipFailure",
    "ClipScore",
    "EmbeddingSet",
    "EmbeddingStatistics",
    "FadResult",
    "FoundSet",
    "FrechetAudioDistance",
    "InfinityFit",
    "Interval",
    "Preset",
    "PresetName",
    "SmallSampleWarning",
    "bootstrap_interval",
    "embed_set",
    "fad_infinity",
    "find_set",
    "frechet_audio_distance",
    "frechet_distance",
    "provenance_differences",
]

__getattr__, __dir__ = lazy_names(
    __name__, {"FrechetAudioDistance": "audio_distance"}, needs="torchmetrics"
)
