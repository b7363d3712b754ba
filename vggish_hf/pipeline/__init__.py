"""Audio in, embeddings with times out: decoding, front end, network and post-processor as one."""

from vggish_hf.pipeline.output import VGGishOutput as VGGishOutput
from vggish_hf.pipeline.pipeline import Postprocess as Postprocess
from vggish_hf.pipeline.pipeline import VGGishPipeline as VGGishPipeline
from vggish_hf.pipeline.reading import example_dtype as example_dtype
from vggish_hf.pipeline.reading import stream_examples as stream_examples
from vggish_hf.pipeline.streaming import ErrorHandler as ErrorHandler
