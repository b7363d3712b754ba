"""The embeddings of AudioSet as Google released them."""
