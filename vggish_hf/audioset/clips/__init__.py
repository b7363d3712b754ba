"""AudioSet's clips as people hold them: audio files, archives and tables."""
