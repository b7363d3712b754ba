"""AudioSet: labels, records and embeddings."""
