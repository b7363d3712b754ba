"""AudioSet's clips in audio files, archives and tables."""
