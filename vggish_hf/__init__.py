"""VGGish audio embeddings: exact, fast, and at home on the Hugging Face Hub."""

from vggish_hf._version import __version__ as __version__
from vggish_hf.configuration import VGGishConfig as VGGishConfig
from vggish_hf.configuration import VGGishFeatureConfig as VGGishFeatureConfig
from vggish_hf.conversion import convert_checkpoint as convert_checkpoint
from vggish_hf.feature_extraction import VGGishFeatureExtractor as VGGishFeatureExtractor
from vggish_hf.modeling import VGGishModel as VGGishModel
from vggish_hf.modeling import VGGishPostprocessor as VGGishPostprocessor
from vggish_hf.pipeline import VGGishOutput as VGGishOutput
from vggish_hf.pipeline import VGGishPipeline as VGGishPipeline
