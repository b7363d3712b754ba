"""From log-mel examples to embeddings."""

from vggish_hf.modeling.postprocessor import VGGishPostprocessor as VGGishPostprocessor
from vggish_hf.modeling.vggish import VGGishModel as VGGishModel
