"""Files and folders of stored embeddings from any writer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from vggish_hf.inputs.addresses import has_ending
from vggish_hf.outputs.folder import EmbeddingFolder
from vggish_hf.outputs.npz_reading import EmbeddingArrays
from vggish_hf.outputs.parts import find_repeated
from vggish_hf.outputs.reading import EmbeddingFile, NamedEmbeddings
from vggish_hf.provenance import is_provenance_known, provenance_differences

_MANIFEST = ".embeddings.json"


class StoredEmbeddings(Protocol):
    """The embeddings of clips in a file or folder."""

    path: str | Path
    size: int
    provenance: dict[str, Any]
    has_metadata: bool

    def clips(self) -> Iterator[NamedEmbeddings]:
        """Read the clips in order."""


def open_embeddings(path: str | Path) -> StoredEmbeddings:
    """Open a file of embeddings, `.npz` or Parquet.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It has other content, or is damaged.
    """
    return EmbeddingArrays(path) if has_ending(str(path), {".npz"}) else EmbeddingFile(path)


def is_embedding_folder(path: str | Path) -> bool:
    """Tell whether `vggish-hf embed` wrote the folder."""
    return Path(path, _MANIFEST).is_file()


class StoredFolder:
    """The embeddings in a folder of `vggish-hf embed`, finished or not.

    Args:
        path: The folder.

    Raises:
        ValueError: It holds no embeddings yet, or a file is damaged or was made differently.

    Attributes:
        path: The folder.
        provenance: How the embeddings were made.
        has_metadata: Whether all of its files have this package's metadata.
        size: Length of an embedding.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: str | Path = path
        self._folder = EmbeddingFolder(path)
        self._parts = sorted(Path(path).glob("*.parquet"))
        if not self._parts:
            raise ValueError(f"No embeddings in {str(path)!r} yet")
        files = [EmbeddingFile(part) for part in self._parts]
        self.size = files[0].size
        self.provenance = files[0].provenance
        self.has_metadata = all(file.has_metadata for file in files)
        for file in files[1:]:
            differences = provenance_differences(self.provenance, file.provenance)
            is_known = any(map(is_provenance_known, (self.provenance, file.provenance)))
            if differences and is_known and file.has_metadata and files[0].has_metadata:
                raise ValueError(
                    f"Embeddings in {str(path)!r} were made differently: {file.path!r} "
                    f"differs: {'; '.join(differences)}"
                )

    def clips(self) -> Iterator[NamedEmbeddings]:
        """Read each clip once: an unfinished job may have written one twice.

        Raises:
            ValueError: A file is damaged.
        """
        _, repeated = find_repeated(self._parts)
        for part in self._parts:
            again = repeated.get(part, set())
            for name, rows in EmbeddingFile(part).clips():
                if name not in again:
                    yield name, rows

    def failed(self) -> dict[str, str]:
        """List the failed clips with reasons."""
        return self._folder.failed()
