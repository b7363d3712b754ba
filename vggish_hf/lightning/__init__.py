"""Training with Lightning: data modules, a classifier, callbacks.

Names that need the optional package `datasets` are imported on first use.
"""

from typing import TYPE_CHECKING

try:
    import lightning.pytorch as _lightning  # noqa: F401
    import torchmetrics as _torchmetrics  # noqa: F401
except ModuleNotFoundError as error:
    _missing = (error.name or "").partition(".")[0]
    if _missing not in ("lightning", "torchmetrics"):
        raise
    raise ImportError(f"Training needs `{_missing}`: pip install 'vggish-hf[lightning]'") from None

from vggish_hf._runtime.lazy import lazy_names
from vggish_hf.lightning.audio_files import AudioFilesDataModule as AudioFilesDataModule
from vggish_hf.lightning.audio_folder import AudioFolderDataModule as AudioFolderDataModule
from vggish_hf.lightning.classified import ClassifiedClip as ClassifiedClip
from vggish_hf.lightning.classifier import VGGishClassifier as VGGishClassifier
from vggish_hf.lightning.data_module import ClipDataModule as ClipDataModule
from vggish_hf.lightning.embedder import VGGishEmbedder as VGGishEmbedder
from vggish_hf.lightning.fad_callback import FADCallback as FADCallback
from vggish_hf.lightning.finetuning import VGGishFinetuning as VGGishFinetuning
from vggish_hf.lightning.projector import EmbeddingProjector as EmbeddingProjector
from vggish_hf.lightning.writer import VGGishEmbeddingWriter as VGGishEmbeddingWriter
from vggish_hf.training.augmentation import SpecAugment as SpecAugment
from vggish_hf.training.augmentation import WaveformAugmentation as WaveformAugmentation
from vggish_hf.training.augmentation import mixup as mixup
from vggish_hf.training.batches import EmbeddingBatch as EmbeddingBatch
from vggish_hf.training.batches import WaveformBatch as WaveformBatch
from vggish_hf.training.batches import WaveformClip as WaveformClip
from vggish_hf.training.batches import collate_waveforms as collate_waveforms
from vggish_hf.training.batches import extract_batch as extract_batch
from vggish_hf.training.heads import HeadConfig as HeadConfig
from vggish_hf.training.heads import make_head as make_head
from vggish_hf.training.sampling import BalancedSampler as BalancedSampler

if TYPE_CHECKING:
    from vggish_hf.lightning.audioset_data import (
        AudioSetClipsDataModule as AudioSetClipsDataModule,
    )
    from vggish_hf.lightning.audioset_data import (
        AudioSetEmbeddingsDataModule as AudioSetEmbeddingsDataModule,
    )

__all__ = [
    "AudioFilesDataModule",
    "AudioFolderDataModule",
    "AudioSetClipsDataModule",
    "AudioSetEmbeddingsDataModule",
    "BalancedSampler",
    "ClassifiedClip",
    "ClipDataModule",
    "EmbeddingBatch",
    "EmbeddingProjector",
    "FADCallback",
    "HeadConfig",
    "SpecAugment",
    "VGGishClassifier",
    "VGGishEmbedder",
    "VGGishEmbeddingWriter",
    "VGGishFinetuning",
    "WaveformAugmentation",
    "WaveformBatch",
    "WaveformClip",
    "collate_waveforms",
    "extract_batch",
    "make_head",
    "mixup",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AudioSetClipsDataModule": "audioset_data",
        "AudioSetEmbeddingsDataModule": "audioset_data",
    },
    needs="datasets",
)
