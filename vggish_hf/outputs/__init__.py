"""The files and folders that embeddings are written to, and read from."""

from vggish_hf.outputs.folder import EmbeddingFolder as EmbeddingFolder
from vggish_hf.outputs.formats import check_output as check_output
from vggish_hf.outputs.formats import open_output as open_output
