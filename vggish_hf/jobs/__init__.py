"""Embed many clips: into one file, or into a resumable folder."""

from vggish_hf.jobs.job import EmbeddingSummary as EmbeddingSummary
from vggish_hf.jobs.progress import Progress as Progress
from vggish_hf.jobs.to_file import embed_to_file as embed_to_file
from vggish_hf.jobs.to_folder import embed_to_folder as embed_to_folder
from vggish_hf.modeling.pooling import Pool as Pool
