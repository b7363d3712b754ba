"""Embed many clips: into one file, or into a folder that an interrupted job resumes."""

from vggish_hf.jobs.job import EmbeddingSummary as EmbeddingSummary
from vggish_hf.jobs.job import Progress as Progress
from vggish_hf.jobs.to_folder import embed_clips_to_folder as embed_clips_to_folder
