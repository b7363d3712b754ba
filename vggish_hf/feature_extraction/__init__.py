"""From a waveform to log-mel examples."""

from vggish_hf.feature_extraction.transforms import (
    VGGishFeatureExtractor as VGGishFeatureExtractor,
)
