"""Local files and files at URLs, listed and read by fsspec's file systems."""

import glob
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, cast

from vggish_hf.inputs.addresses import has_ending, is_url, is_web_url, without_secrets
from vggish_hf.inputs.search import (
    SkipHandler,
    is_hidden,
    is_litter,
    literal_folder,
    wildcard_filter,
)

_GONE = (404, 410)
# File systems' names for sizes, digests and times.
_VERSION_FACTS = ("size", "ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "updated")
# Bytes read at once, so that memory grows with the received bytes, not with a header's claim.
_PIECE_BYTES = 16 << 20


class NoAudioError(ValueError):
    """A tar or a table without audio."""


class StoredFile(NamedTuple):
    """A file, local or at a URL."""

    path: str
    """Its local path, or its URL."""
    name: str
    """The same as text that is safe to show and store."""


class Member(NamedTuple):
    """A file in an archive, or a row of a table."""

    name: str
    """Its name, or the row's id: text, not a path on disk."""
    offset: int | None = None
    """Its place, in its reader's unit."""
    size: int | None = None
    """Its bytes, if the container says so."""
    problem: str | None = None
    """Why it cannot be read, if known already."""


def open_store(url: str) -> tuple[Any, str]:
    """Find the file system of a URL, and its name for the file.

    Raises:
        ImportError: Its package is not installed.
        ValueError: The file system is unknown.
    """
    import fsspec.core  # type: ignore[import-untyped]

    scheme = url.partition("://")[0]
    if "::" in url:
        raise ValueError(
            f"Expected a URL of one file system, got the chain {without_secrets(url)!r}"
        )
    try:
        store, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ImportError(f"{scheme}:// needs a package that is missing: {error}") from error
    except ValueError as error:
        shown = without_secrets(f"{url!r}: {error}")
        raise ValueError(f"Expected a URL that fsspec knows, got {shown}") from None
    return store, path


@contextmanager
def storage_errors(name: str) -> Iterator[None]:
    """Turn all errors of a file system into an OSError that names the file.

    It has no cause, since the cause's text may show a URL's secrets.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - each becomes an OSError
        failure: BaseException = error
        if isinstance(error, FileNotFoundError):
            # On the web fsspec raises this for any failure to get the size.
            cause = error.__cause__ if is_web_url(name) else None
            if cause is None or getattr(cause, "status", None) in _GONE:
                raise FileNotFoundError(f"No such file: {name!r}") from None
            failure = cause
        reason = without_secrets(f"{type(failure).__name__}: {failure}".removesuffix(": "))
        raise OSError(f"{name!r} cannot be read: {reason}") from None


def file_version(path: str) -> tuple[int, int] | None:
    """Time and size of a local file, which change with its content; None for a URL."""
    if is_url(path):
        return None
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def describe_version(path: str) -> str:
    """A text that changes with the content of a file: time and size, or its store's version.

    Raises:
        OSError: The file does not exist, or the store does not answer.
    """
    if not is_url(path):
        return str(file_version(path))
    store, inner = open_store(path)
    with storage_errors(without_secrets(path)):
        facts = store.info(inner)
    return str({key: str(facts[key]) for key in _VERSION_FACTS if facts.get(key) is not None})


@contextmanager
def open_binary(path: str, *, readahead: int = 0) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Args:
        path: A local path or a URL.
        readahead: Bytes fetched beyond those requested; only for URLs.
    """
    if not is_url(path):
        with open(path, "rb") as file:
            yield file
        return
    store, inner = open_store(path)
    cache = {"cache_type": "readahead", "block_size": readahead} if readahead else {}
    with store.open(inner, "rb", **(cache or {"cache_type": "none"})) as remote:
        yield cast(BinaryIO, remote)


def read_file(file: StoredFile, max_bytes: int) -> bytes:
    """Read a whole file.

    Raises:
        OSError: It cannot be read, or ends early.
        ValueError: It has more than `max_bytes`.
    """
    with storage_errors(file.name), open_binary(file.path) as content:
        size: int | None = getattr(content, "size", None)
        held = b"" if size is not None and size > max_bytes else _read(content, max_bytes + 1)
    if size is None:
        check_size(file.name, len(held), max_bytes, or_more=True)
    else:
        check_size(file.name, size, max_bytes)
    if size is not None and len(held) != size:
        raise OSError(f"{file.name!r} is cut short: {len(held)} of {size} bytes came")
    return held


def read_range(file: StoredFile, offset: int, size: int) -> bytes:
    """Read a part of a file.

    Raises:
        OSError: It cannot be read, or ends early.
    """
    with storage_errors(file.name), open_binary(file.path) as content:
        content.seek(offset)
        held = _read(content, size)
    if len(held) != size:
        raise OSError(f"{file.name!r} is cut short: {len(held)} of {size} bytes came")
    return held


def check_size(name: str, size: int, max_bytes: int, *, or_more: bool = False) -> None:
    """Raise ValueError if a clip of this size, or more, has more than `max_bytes`."""
    if size > max_bytes:
        raise ValueError(
            f"Expected a clip of at most {max_bytes} bytes, {name!r} has {size}"
            f"{' or more' * or_more}; copy it to this machine, or "
            "pass a larger `max_bytes` (in Python)"
        )


def _read(file: BinaryIO, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := file.read(min(size, _PIECE_BYTES))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def find_remote(
    url: str, endings: Collection[str], on_skip: SkipHandler
) -> tuple[list[StoredFile], bool]:
    """List the files that a URL names.

    Paths in a Hub repository name the commit, so that later reads give the listed content; the
    names do not.

    Args:
        url: A file, a folder, which is searched recursively, or a glob. On the web, a folder's URL
            ends in a slash, and `?` is not a glob.
        endings: Endings of the wanted files in a folder.
        on_skip: Called with skipped hidden files; litter is skipped too.

    Returns:
        The files, sorted, and whether a search found them.

    Raises:
        ImportError: The package of the file system is not installed.
        OSError: The store does not answer.
        ValueError: The file system is unknown.
    """
    store, path = open_store(url)
    shown = without_secrets(url)
    with storage_errors(shown):
        path, name_of = _pinned(store, path) if store.protocol == "hf" else (path, _unchanged)
        on_web = is_web_url(url)
        magic = "*" in path or "[" in path if on_web else glob.has_magic(path)
        if magic and not store.exists(path):
            folder = literal_folder(path)
            may_find = wildcard_filter(path[len(folder) :])
            # In fsspec wildcards match hidden names too.
            takes_hidden = is_hidden(path[len(folder) :])
            found = [
                name
                for name, facts in store.glob(path, detail=True).items()
                if facts["type"] == "file"
                and not (on_web and name.endswith("/"))
                and may_find(name[len(folder) :])
                and (takes_hidden or not is_hidden(name[len(folder) :]))
            ]
            is_search = False
        elif url.endswith("/") if on_web else store.isdir(path):
            found = [
                name
                for name in store.find(path)
                if has_ending(name, endings) and not is_litter(name[len(path) :])
            ]
            hidden = {name for name in found if is_hidden(name[len(path) :])}
            for name in sorted(hidden):
                on_skip(without_secrets(name_of(store.unstrip_protocol(name))), "a hidden file")
            found = [name for name in found if name not in hidden]
            is_search = True
        else:
            found, is_search = [path], False
    addresses = map(store.unstrip_protocol, sorted(found))
    files = [StoredFile(url, without_secrets(name_of(url))) for url in addresses]
    return files, is_search


def locate(url: str) -> StoredFile:
    """Treat a URL as that of a file, without asking the store.

    Raises:
        ImportError: The package of the file system is not installed.
        ValueError: The file system is unknown.
    """
    store, path = open_store(url)
    address: str = store.unstrip_protocol(path)
    return StoredFile(address, without_secrets(address))


def _unchanged(address: str) -> str:
    return address


def _pinned(store: Any, path: str) -> tuple[str, Callable[[str], str]]:
    """Name the commit in a path of the Hub; also return the inverse for paths found there."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import REPO_TYPES_URL_PREFIXES

    place = store.resolve_path(path)
    if not hasattr(place, "repo_id"):  # a bucket has no commits
        return path, _unchanged
    api = HfApi(endpoint=store.endpoint, token=store.token)
    commit = api.repo_info(place.repo_id, repo_type=place.repo_type, revision=place.revision).sha
    pinned = f"{REPO_TYPES_URL_PREFIXES.get(place.repo_type, '')}{place.repo_id}@{commit}"
    given = place.unresolve().removesuffix(place.path_in_repo).rstrip("/")
    new_path = f"{pinned}/{place.path_in_repo}".rstrip("/")
    return new_path, lambda address: address.replace(pinned, given, 1)
