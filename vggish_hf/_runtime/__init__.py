"""Threads, prefetching, batches and files, independent of audio."""
