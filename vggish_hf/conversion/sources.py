"""The published checkpoints: their addresses, their hashes, and how to fetch them."""

import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class PublishedFile:
    """A file at an address, pinned by its size in bytes and its SHA-256."""

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]


#: The original weights, a TensorFlow V1 checkpoint.
GOOGLE_CHECKPOINT = PublishedFile(
    "https://storage.googleapis.com/audioset/vggish_model.ckpt",
    291_108_469,
    "0962b1914e3e053922d957c45bc84a78c985765641dc6bceeeb3a7d8dfecfdf6",
)

#: The original PCA of the post-processor.
GOOGLE_PCA = PublishedFile(
    "https://storage.googleapis.com/audioset/vggish_pca_params.npz",
    73_020,
    "4d878af3e306defbfb37095365aa7e5a6cecb86bad13e859e626151c4e6a8b9d",
)


def cache_folder() -> Path:
    """Folder of fetched files: `VGGISH_HF_CACHE`, or one beside the Hub's cache."""
    if chosen := os.environ.get("VGGISH_HF_CACHE"):
        return Path(chosen)
    from huggingface_hub.constants import HF_ASSETS_CACHE

    return Path(HF_ASSETS_CACHE, "vggish-hf")


def fetch(file: PublishedFile, folder: Path) -> Path:
    """Fetch a published file unless it is there; resume an interrupted download.

    Args:
        file: What to fetch.
        folder: Where to put it; made if missing.

    Returns:
        Its path; the content has the pinned SHA-256.

    Raises:
        ValueError: The download has another size or SHA-256; it is deleted.
        OSError: The server cannot be reached, refuses or breaks off; the download is kept.
    """
    path = folder / file.name
    if path.is_file() and _sha256(path) == file.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{file.name}.part"
    try:
        _append(file, part)
    except (OSError, HTTPException) as error:
        raise OSError(f"{file.url} cannot be fetched: {error}") from error
    size = part.stat().st_size
    if size < file.size:
        raise OSError(
            f"{file.url} broke off after {size} of {file.size} bytes; run it again to resume"
        )
    sha256 = _sha256(part)
    if sha256 != file.sha256:
        part.unlink()
        raise ValueError(
            f"Expected {file.size} bytes of SHA-256 {file.sha256} from {file.url}, got {size} of "
            f"{sha256}, thrown away; try again, and then fetch and check the file by hand"
        )
    part.replace(path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _append(file: PublishedFile, part: Path) -> None:
    """Fetch what `part` lacks; stop soon if the server sends too much."""
    from tqdm import tqdm

    with part.open("ab") as output:
        have = output.tell()
        if have >= file.size:
            return
        request = urllib.request.Request(file.url, headers={"Range": f"bytes={have}-"})
        try:
            response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                output.truncate(0)  # it belongs to another file
            raise
        with response:
            if response.status != HTTPStatus.PARTIAL_CONTENT:  # all of it, from the start
                output.truncate(0)
                have = 0
            with tqdm(
                desc=file.name,
                total=file.size,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as progress:
                while have <= file.size and (chunk := response.read(_CHUNK_BYTES)):
                    have += output.write(chunk)
                    progress.update(len(chunk))
