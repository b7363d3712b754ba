"""Parts of training that only need torch: heads, losses, schedules, sampling, augmentation."""

from vggish_hf.training.augmentation import SpecAugment as SpecAugment
from vggish_hf.training.augmentation import WaveformAugmentation as WaveformAugmentation
from vggish_hf.training.augmentation import mixup as mixup
from vggish_hf.training.batch_norm import add_batch_norm as add_batch_norm
from vggish_hf.training.batch_norm import fold_batch_norm as fold_batch_norm
from vggish_hf.training.batches import EmbeddingBatch as EmbeddingBatch
from vggish_hf.training.batches import Task as Task
from vggish_hf.training.batches import WaveformBatch as WaveformBatch
from vggish_hf.training.batches import WaveformClip as WaveformClip
from vggish_hf.training.batches import collate_waveforms as collate_waveforms
from vggish_hf.training.batches import extract_batch as extract_batch
from vggish_hf.training.heads import HeadConfig as HeadConfig
from vggish_hf.training.heads import make_head as make_head
from vggish_hf.training.losses import classification_loss as classification_loss
from vggish_hf.training.masking import MaskedBatchNorm as MaskedBatchNorm
from vggish_hf.training.masking import masked_mean as masked_mean
from vggish_hf.training.sampling import BalancedSampler as BalancedSampler
from vggish_hf.training.sampling import hold_out as hold_out
from vggish_hf.training.schedule import WarmupCosine as WarmupCosine
from vggish_hf.training.scores import d_prime as d_prime
from vggish_hf.training.scores import f1 as f1
from vggish_hf.training.scores import ranking_scores as ranking_scores
