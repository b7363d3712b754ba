"""Threads, prefetching, batches and files: nothing here knows of audio."""
