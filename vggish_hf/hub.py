"""Resolve model ids: a built-in name, a local folder or a repository on the Hub.

huggingface_hub is imported on use: its import takes longer than loading the bundled model.
"""

import importlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack
from urllib.parse import unquote, urlsplit


def _google_folder(local_files_only: bool) -> Path:
    # By name: conversion imports this module.
    conversion = importlib.import_module("vggish_hf.conversion")
    folder: Path = conversion.google_folder(local_files_only)
    return folder


#: Built-in names, each with the function that finds its folder, or makes it unless it may only look
#: on this machine.
BUILTIN_MODELS: dict[str, Callable[[bool], Path]] = {
    "demo": lambda _local_files_only: Path(__file__).parent / "assets" / "demo",
    "google": _google_folder,
}

# organisation/name, with a revision as `org/name@v1` or as in the Hub's addresses
_REPO_ID = re.compile(
    r"(?P<id>[^/@\s]+/[^/@\s]+)(@(?P<at>\S+)|/(tree|blob|resolve|commit)/(?P<path>\S+))?"
)
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_FORMS = "'org/vggish', 'org/vggish@v1', 'hf://org/vggish' or 'https://huggingface.co/org/vggish'"

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FEATURE_CONFIG_NAME = "preprocessor_config.json"
CARD_NAME = "README.md"


class HubOptions(TypedDict, total=False):
    """How to fetch from the Hub; the options of `huggingface_hub.hf_hub_download`.

    Args:
        revision: Branch, tag or commit; the default is the main branch.
        token: Access token, or True for the stored one.
        cache_dir: Folder of the cache, instead of the Hub's.
        local_files_only: Only look in the cache.
        force_download: Fetch even cached files.
    """

    revision: str | None
    token: str | bool | None
    cache_dir: str | Path | None
    local_files_only: bool
    force_download: bool


class PushOptions(TypedDict, total=False):
    """How to upload to the Hub.

    Args:
        revision: Branch to commit to, created if needed; the default is the main branch.
        private: Whether a new repository is private; the default is the organisation's.
        token: Access token, or True for the stored one.
        commit_message: The commit's first line.
    """

    revision: str | None
    private: bool | None
    token: str | bool | None
    commit_message: str


def check_options(options: Mapping[str, Any], known: type, own: Sequence[str] = ()) -> None:
    """Raise TypeError for an unknown option, which would have no effect.

    Args:
        options: The options.
        known: `HubOptions` or `PushOptions`.
        own: The caller's own options, to list them too.
    """
    unknown = options.keys() - known.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"Expected options among {', '.join([*known.__annotations__, *own])}, got "
            f"{', '.join(map(repr, sorted(unknown)))}"
        )


def is_offline() -> bool:
    """Whether the environment variable `HF_HUB_OFFLINE` forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def find_folder(
    model_id: str | Path, filenames: Sequence[str], **options: Unpack[HubOptions]
) -> Path:
    """Find the folder of a model, and fetch its files if they are on the Hub but not in the cache.

    Args:
        model_id: A built-in name, the path of a local folder or of a file in it, or a repository on
            the Hub: `org/name`, `org/name@revision`, `hf://org/name` or its address.
        filenames: The required files; from the Hub, all of one commit.
        **options: How to fetch from the Hub. For a built-in name `local_files_only` and the
            environment variable `HF_HUB_OFFLINE` count too; for a local folder none has an effect.

    Raises:
        FileNotFoundError: The folder does not exist or lacks a file, or the cache does and nothing
            may be fetched.
        huggingface_hub.errors.HfHubHTTPError: The Hub refuses, or lacks the repository,
            revision or file.
        TypeError: An option is unknown.
        ValueError: A revision is given without a Hub id, or two are given.
    """
    check_options(options, HubOptions)
    name = str(model_id)
    is_builtin = isinstance(model_id, str) and name in BUILTIN_MODELS
    folder = None if is_builtin else _local_folder(name)
    if options.get("revision") is not None and (is_builtin or folder is not None):
        raise ValueError(f"Expected a Hub id for revision={options['revision']!r}, got {name!r}")
    if is_builtin:
        folder = BUILTIN_MODELS[name](options.get("local_files_only", False))
    if folder is None:
        repo_id, revision = _parse_id(model_id)
        if revision is not None:
            if options.get("revision", revision) not in (None, revision):
                raise ValueError(
                    f"Expected one revision, got {name!r} and revision={options['revision']!r}"
                )
            options = {**options, "revision": revision}
        return _download(repo_id, filenames, options)
    missing = [name for name in filenames if not (folder / name).is_file()]
    if not missing:
        return folder
    hides = ""
    if missing == list(filenames) and isinstance(model_id, str) and _REPO_ID.fullmatch(name):
        hides = (
            f"; if you mean the Hub's {name!r}, which this folder hides, write 'hf://{name}' "
            f"(and './{name}' for the folder)"
        )
    raise FileNotFoundError(
        f"Expected {', '.join(filenames)} in {str(folder)!r}, which has no {', '.join(missing)}; "
        f"`VGGishPipeline(extractor, model).save_pretrained` writes all of a model's files{hides}"
    )


def _local_folder(name: str) -> Path | None:
    """The folder of a path to a folder or to a model's file; None if it does not exist."""
    if _is_address(name):
        return None
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not path.is_file():
        return None
    if path.name in (CONFIG_NAME, WEIGHTS_NAME, FEATURE_CONFIG_NAME):
        return path.parent
    raise FileNotFoundError(
        f"Expected a model folder, {name!r} is a file; `vggish-hf convert {name} -o DIR` turns a "
        "checkpoint into a model folder"
    )


def _is_address(name: str) -> bool:
    return name.startswith(("hf://", "https://", "http://"))


def _parse_id(model_id: str | Path) -> tuple[str, str | None]:
    """Split a repository's id or address into `org/name` and the revision, if any."""
    name = rest = str(model_id)
    if name.startswith("hf://"):
        rest = name.removeprefix("hf://").removeprefix("models/").rstrip("/")
    elif _is_address(name):
        parts = urlsplit(name)
        rest = parts.path.strip("/")
        if parts.netloc not in (*_HUB_HOSTS, urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc):
            rest = ""  # another server's
    match = _REPO_ID.fullmatch(rest)
    is_path = isinstance(model_id, Path) or rest.startswith((".", "/", "~"))
    if match is None or is_path:
        raise FileNotFoundError(
            f"Expected a model folder, a Hub id ({_FORMS}) or one of "
            f"{', '.join(map(repr, sorted(BUILTIN_MODELS)))}; "
            + (
                f"{name!r} is not the address of a model on the Hub"
                if _is_address(name)
                else f"there is no folder {name!r}"
            )
        )
    revision = match["at"]
    if match["path"]:
        # `refs/pr/1` is one revision; other revisions' slashes are encoded, else a file's path
        # begins.
        parts_of = match["path"].split("/")
        revision = unquote("/".join(parts_of[:3] if parts_of[0] == "refs" else parts_of[:1]))
    return match["id"], revision


def _download(repo_id: str, filenames: Sequence[str], options: HubOptions) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
    )

    folders = []
    for filename in filenames:
        try:
            folders.append(Path(hf_hub_download(repo_id, filename, **options)).parent)
        except LocalEntryNotFoundError as error:
            reason = _why_not_fetched(error, options)
            raise LocalEntryNotFoundError(
                f"{filename} of {repo_id!r} is not in the cache, and was not fetched: {reason}"
            ) from error
        except EntryNotFoundError as error:
            error.add_note(f"{repo_id!r} is not a model of vggish-hf: it has no {filename}")
            raise
        except HfHubHTTPError as error:
            error.add_note(f"while fetching {filename} of {repo_id!r}")
            raise
    if len(set(folders)) > 1:
        # A cached file's folder has the name of its commit: the branch moved between two files.
        return _download(repo_id, filenames, {**options, "revision": folders[-1].name})
    return folders[-1]


def _why_not_fetched(error: BaseException, options: HubOptions) -> str:
    """Say why a file was not fetched, and the way out."""
    from huggingface_hub import constants

    if options.get("local_files_only"):
        return "local_files_only=True; load the model once without it"
    if is_offline():
        return "HF_HUB_OFFLINE is set; load the model once without it"
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            return (
                f"{constants.ENDPOINT} answered with status {status}; if the model is private or "
                "gated, log in (`hf auth login`) or set HF_TOKEN, else try again later"
            )
        cause = cause.__cause__ or cause.__context__
    return f"{constants.ENDPOINT} cannot be reached; check the connection and load the model again"


def push(save: Callable[[Path], object], repo_id: str, **options: Unpack[PushOptions]) -> str:
    """Upload the files that a function saves into a folder; see `push_folder`.

    A repository's own card stays: somebody may have written it.
    """
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return push_folder(Path(folder), repo_id, keep_card=True, **options)


def push_folder(
    folder: Path, repo_id: str, *, keep_card: bool = False, **options: Unpack[PushOptions]
) -> str:
    """Upload a model's files to a repository in one commit, creating the repository if needed.

    Args:
        folder: The files' folder; other files in it are not uploaded.
        repo_id: The repository.
        keep_card: Whether to keep the repository's README.md.
        **options: See `PushOptions`.

    Returns:
        The commit's address.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: The Hub refuses.
        OSError: The Hub cannot be reached.
        TypeError: An option is unknown.
    """
    check_options(options, PushOptions)
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return _upload(folder, repo_id, keep_card, options)
    except Exception as error:
        # The Hub's errors have the same base as a lost connection in its HTTP library.
        lost = isinstance(error, HfHubHTTPError.__bases__[0])
        if isinstance(error, HfHubHTTPError) or not lost:
            raise
        raise OSError(
            f"{constants.ENDPOINT} cannot be reached, nothing was uploaded to {repo_id!r}: {error}"
        ) from error


def _upload(folder: Path, repo_id: str, keep_card: bool, options: PushOptions) -> str:
    from huggingface_hub import HfApi

    revision = options.get("revision")
    api = HfApi(token=options.get("token"))
    repo_id = api.create_repo(repo_id, private=options.get("private"), exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    names = [CONFIG_NAME, WEIGHTS_NAME, FEATURE_CONFIG_NAME]
    if not (keep_card and api.file_exists(repo_id, CARD_NAME, revision=revision)):
        names.append(CARD_NAME)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        allow_patterns=names,
        revision=revision,
        commit_message=options.get("commit_message", "Upload VGGish"),
    )
    return str(commit.commit_url)
