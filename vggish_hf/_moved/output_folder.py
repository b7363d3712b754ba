"""The path by which `EmbeddingFolder` was imported before `vggish_hf.outputs`."""

from vggish_hf.outputs import EmbeddingFolder as EmbeddingFolder
