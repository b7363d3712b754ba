"""Files and folders of embeddings: writing and reading."""

from vggish_hf.outputs.folder import EmbeddingFolder as EmbeddingFolder
from vggish_hf.outputs.formats import check_output as check_output
from vggish_hf.outputs.formats import open_output as open_output
