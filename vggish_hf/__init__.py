"""VGGish audio embeddings: exact, fast, and on the Hugging Face Hub."""

from typing import TYPE_CHECKING

from vggish_hf._runtime.lazy import lazy_names
from vggish_hf._version import __version__ as __version__

if TYPE_CHECKING:
    from vggish_hf.configuration import VGGishConfig as VGGishConfig
    from vggish_hf.configuration import VGGishFeatureConfig as VGGishFeatureConfig
    from vggish_hf.conversion import convert_checkpoint as convert_checkpoint
    from vggish_hf.feature_extraction import VGGishFeatureExtractor as VGGishFeatureExtractor
    from vggish_hf.modeling import VGGishModel as VGGishModel
    from vggish_hf.modeling import VGGishPostprocessor as VGGishPostprocessor
    from vggish_hf.pipeline import VGGishOutput as VGGishOutput
    from vggish_hf.pipeline import VGGishPipeline as VGGishPipeline

__all__ = [
    "VGGishConfig",
    "VGGishFeatureConfig",
    "VGGishFeatureExtractor",
    "VGGishModel",
    "VGGishOutput",
    "VGGishPipeline",
    "VGGishPostprocessor",
    "convert_checkpoint",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "VGGishConfig": "configuration",
        "VGGishFeatureConfig": "configuration",
        "VGGishFeatureExtractor": "feature_extraction",
        "VGGishModel": "modeling",
        "VGGishOutput": "pipeline",
        "VGGishPipeline": "pipeline",
        "VGGishPostprocessor": "modeling",
        "convert_checkpoint": "conversion",
    },
)

# Moved modules that users import by their old paths.
__path__.append(f"{__path__[0]}/_moved")
