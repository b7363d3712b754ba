"""Where a model id leads: a built-in name, a local folder or a repository on the Hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, Unpack

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

#: Names that stand for a folder, each with the function that finds or makes it.
BUILTIN_MODELS: dict[str, Callable[[], Path]] = {}

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FEATURE_CONFIG_NAME = "preprocessor_config.json"


class HubOptions(TypedDict, total=False):
    """How to fetch from the Hub; each is passed on to `huggingface_hub.hf_hub_download`.

    Args:
        revision: Branch, tag or commit; without it, the main branch.
        token: Access token, or True for the stored one.
        cache_dir: Folder of the cache in place of the Hub's own.
        local_files_only: Look in the cache alone.
        force_download: Fetch even what is cached.
    """

    revision: str | None
    token: str | bool | None
    cache_dir: str | Path | None
    local_files_only: bool
    force_download: bool


class PushOptions(TypedDict, total=False):
    """How to upload to the Hub.

    Args:
        revision: Branch to commit to, made if need be; without it, the main branch.
        private: Whether a new repository is private; without it, the organisation's default.
        token: Access token, or True for the stored one.
        commit_message: The commit's first line.
    """

    revision: str | None
    private: bool | None
    token: str | bool | None
    commit_message: str


def find_file(model_id: str | Path, filename: str, options: HubOptions) -> Path:
    """Find a file of a model, and fetch it if it is on the Hub and not in the cache.

    Args:
        model_id: A built-in name, the path of a local folder, or a repository's id on the Hub.
        filename: The file's name within it.
        options: How to fetch from the Hub; of no effect otherwise.

    Raises:
        FileNotFoundError: There is no such folder, or it lacks the file.
        huggingface_hub.errors.HfHubHTTPError: The Hub refused, or has no such repository,
            revision or file.
    """
    name = str(model_id)
    if name in BUILTIN_MODELS:
        folder = BUILTIN_MODELS[name]()
    elif Path(name).is_dir():
        folder = Path(name)
    elif isinstance(model_id, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(
            f"Expected a model folder, a Hub id such as 'org/vggish' or one of "
            f"{', '.join(map(repr, sorted(BUILTIN_MODELS)))}; there is no folder {name!r}"
        )
    else:
        try:
            return Path(hf_hub_download(name, filename, **options))
        except EntryNotFoundError as error:
            error.add_note(f"{name!r} is no model that vggish-hf saved: it has no {filename}")
            raise
    path = folder / filename
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a folder that vggish-hf saved; {str(folder)!r} has no {filename}"
        )
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected a JSON object in {str(path)!r}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"Expected a JSON object in {str(path)!r}, got {type(values).__name__}")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object, indented, its keys in the given order."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def push_folder(folder: Path, repo_id: str, **options: Unpack[PushOptions]) -> str:
    """Upload a model's files to a repository in one commit, making the repository if need be.

    Returns:
        The commit's address.
    """
    revision = options.get("revision")
    api = HfApi(token=options.get("token"))
    repo_id = api.create_repo(repo_id, private=options.get("private"), exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, FEATURE_CONFIG_NAME, "README.md"],
        revision=revision,
        commit_message=options.get("commit_message", "Upload VGGish"),
    )
    return str(commit.commit_url)
