"""The path by which `embed_clips_to_folder` was imported before `vggish_hf.jobs`."""
