"""The path by which `embed_clips_to_folder` was imported before `vggish_hf.jobs`."""

from vggish_hf.jobs import embed_to_folder

embed_clips_to_folder = embed_to_folder
