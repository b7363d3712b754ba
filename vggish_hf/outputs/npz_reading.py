"""Read embeddings of clips from `.npz` files, in bounded memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vggish_hf.outputs.npz_members import NpzArray, open_npz
from vggish_hf.outputs.reading import (
    BATCH_VALUES,
    MAX_EMBEDDING_SIZE,
    NamedEmbeddings,
    check_value_type,
    join_rows,
    parse_json,
    to_floats,
)
from vggish_hf.outputs.schema import METADATA_KEY

_EXPECTED = "an .npz file of embeddings"
_MAX_TEXT_BYTES = 1 << 22  # four a character
_MAX_ROWS = 1 << 40


class EmbeddingArrays:
    """An `.npz` file of embeddings from `vggish-hf embed`.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It has other content, or is damaged.

    Attributes:
        provenance: How the embeddings were made, `{}` if unknown.
        has_metadata: Whether it has this package's metadata.
        size: Length of an embedding.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: str | Path = path
        self.provenance: dict[str, Any] = {}
        with open_npz(Path(path), _EXPECTED) as archive:
            ids, embeddings = NpzArray(archive, "id"), NpzArray(archive, "embedding")
            check_value_type(embeddings.dtype, str(path))
            if len(embeddings.shape) != 2 or ids.shape != embeddings.shape[:1]:
                raise ValueError(f"it has `id` {ids.shape} and `embedding` {embeddings.shape}")
            self._rows, self.size = embeddings.shape
            if self._rows > _MAX_ROWS or not 0 < self.size <= MAX_EMBEDDING_SIZE:
                raise ValueError(f"`embedding` is {embeddings.shape}")
            if not np.issubdtype(ids.dtype, np.str_) or ids.dtype.itemsize > _MAX_TEXT_BYTES:
                raise ValueError(f"`id` is of {ids.dtype}")
            self.has_metadata = f"{METADATA_KEY}.npy" in archive.namelist()
            if self.has_metadata:
                text = NpzArray(archive, METADATA_KEY)
                text.check(np.str_, 1, max_item_bytes=_MAX_TEXT_BYTES)
                provenance = parse_json(text.read_all().item())
                self.provenance = provenance if isinstance(provenance, dict) else {}

    def clips(self) -> Iterator[NamedEmbeddings]:
        """Read the clips in order.

        Yields:
            A clip's id, and its embeddings (examples, size), of a float type.

        Raises:
            ValueError: The file is damaged.
        """
        return join_rows(self._parts())

    def _parts(self) -> Iterator[NamedEmbeddings]:
        with open_npz(Path(self.path), _EXPECTED) as archive:
            ids, embeddings = NpzArray(archive, "id"), NpzArray(archive, "embedding")
            at_once = max(1, min(BATCH_VALUES // self.size, 2 * BATCH_VALUES // ids.dtype.itemsize))
            for start in range(0, self._rows, at_once):
                count = min(at_once, self._rows - start)
                names = ids.read(count).tolist()
                rows = to_floats(embeddings.read(count * self.size).reshape(count, self.size))
                for number, name in enumerate(names):
                    yield name, rows[number : number + 1]
            ids.finish()
            embeddings.finish()


def is_npz_of_embeddings(path: str | Path) -> bool:
    """Tell whether an `.npz` file holds embeddings, by the names of its arrays.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is not an `.npz` file.
    """
    with open_npz(Path(path), "an .npz file of embeddings or of statistics") as archive:
        return "embedding.npy" in archive.namelist()
