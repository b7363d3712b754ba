"""The published checkpoints: where they lie, what they must hash to, and how they are fetched."""

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

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
    """Where fetched files lie: `VGGISH_HF_CACHE`, or the system's cache folder."""
    import pooch

    return Path(os.environ.get("VGGISH_HF_CACHE") or pooch.os_cache("vggish_hf"))


def fetch(file: PublishedFile, folder: Path) -> Path:
    """Fetch a published file unless it is there, going on where an earlier try stopped.

    Args:
        file: What to fetch.
        folder: Where to put it; made if need be.

    Returns:
        Its path; the content has the pinned SHA-256.

    Raises:
        ValueError: What came has another size or SHA-256; it is thrown away.
        OSError: The server cannot be reached or refuses; what came so far is kept.
    """
    import pooch

    part = folder / f"{file.name}.part"
    path = pooch.retrieve(
        file.url, f"sha256:{file.sha256}", file.name, folder, downloader=_resume(file, part)
    )
    return Path(path)


def _resume(file: PublishedFile, part: Path) -> Callable[[str, Any, Any], None]:
    """Make a downloader as pooch takes it, which collects the content in `part`."""

    def download(url: str, output: Any, _pooch: Any) -> None:
        have = part.stat().st_size if part.exists() else 0
        if have > file.size:
            part.unlink()
            have = 0
        if have < file.size:
            _append(url, part, have, file.size)
        # Whatever it is now, the next try starts anew: pooch compares the hash, and throws it away.
        part.replace(output)

    return download


def _append(url: str, part: Path, have: int, size: int) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} cannot be fetched: {error}") from error
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise OSError(f"{url} cannot be resumed: the server sent another range")
        have = have if resumed else 0
        with (
            part.open("ab" if resumed else "wb") as output,
            tqdm(
                desc=part.stem, total=size, initial=have, unit="B", unit_scale=True, disable=None
            ) as progress,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                have += len(chunk)
                if have > size:
                    output.truncate(0)
                    raise ValueError(f"Expected {size} bytes from {url}, it sends more")
                output.write(chunk)
                progress.update(len(chunk))
    if have < size:
        raise OSError(f"{url} broke off after {have} of {size} bytes; the next try goes on there")
