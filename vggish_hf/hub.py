"""Where a model id leads: a built-in name, a local folder or a repository on the Hub."""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

#: Names that stand for a folder, each with the function that finds it, or makes it unless it is
#: told to look on this machine alone.
BUILTIN_MODELS: dict[str, Callable[[bool], Path]] = {
    "demo": lambda _local_files_only: Path(__file__).parent / "assets" / "demo",
    # On a higher floor, and imported when it is asked for.
    "google": lambda local_files_only: cast(
        Path, import_module("vggish_hf.conversion").google_folder(local_files_only)
    ),
}

# organisation/name
_REPO_ID = re.compile(r"[^/]+/[^/]+")

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FEATURE_CONFIG_NAME = "preprocessor_config.json"
CARD_NAME = "README.md"


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


def _check_options(options: Mapping[str, Any], known: type) -> None:
    """Raise TypeError for an option that does not exist, and so would have no effect."""
    unknown = options.keys() - known.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"Expected options among {', '.join(known.__annotations__)}, got "
            f"{', '.join(map(repr, sorted(unknown)))}"
        )


def find_folder(
    model_id: str | Path, filenames: Sequence[str], **options: Unpack[HubOptions]
) -> Path:
    """Find the folder of a model, and fetch its files if they are on the Hub and not in the cache.

    Args:
        model_id: A built-in name, the path of a local folder, or a repository's id on the Hub.
        filenames: The files that must be in it; from the Hub, all of one commit.
        **options: How to fetch from the Hub. For a built-in name `local_files_only` holds too, as
            does the environment variable `HF_HUB_OFFLINE`; for a local folder none has an effect.

    Raises:
        FileNotFoundError: There is no such folder, or it lacks a file, or the cache does and
            nothing may be fetched.
        huggingface_hub.errors.HfHubHTTPError: The Hub refused, or has no such repository,
            revision or file.
        TypeError: There is no such option.
        ValueError: A revision is given for what has none.
    """
    _check_options(options, HubOptions)
    name = str(model_id)
    is_builtin = isinstance(model_id, str) and name in BUILTIN_MODELS
    if options.get("revision") is not None and (is_builtin or Path(name).is_dir()):
        raise ValueError(f"Expected a Hub id for revision={options['revision']!r}, got {name!r}")
    if is_builtin:
        offline = options.get("local_files_only", False) or constants.HF_HUB_OFFLINE
        folder = BUILTIN_MODELS[name](offline)
    elif Path(name).is_dir():
        folder = Path(name)
    elif (
        isinstance(model_id, Path)
        or name.startswith((".", "/", "~"))
        or not _REPO_ID.fullmatch(name)
    ):
        raise FileNotFoundError(
            "Expected a model folder, a Hub id such as 'org/vggish' or one of "
            f"{', '.join(map(repr, sorted(BUILTIN_MODELS)))}; there is no folder {name!r}"
        )
    else:
        return _download(name, filenames, options)
    missing = ", ".join(name for name in filenames if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(
            f"Expected {', '.join(filenames)} in {str(folder)!r}, which has no {missing}; "
            "`VGGishPipeline(extractor, model).save_pretrained` writes all of a model's files"
        )
    return folder


def _download(repo_id: str, filenames: Sequence[str], options: HubOptions) -> Path:
    folders = []
    for filename in filenames:
        try:
            folders.append(Path(hf_hub_download(repo_id, filename, **options)).parent)
        except LocalEntryNotFoundError:
            raise  # it says itself that nothing could be fetched
        except EntryNotFoundError as error:
            error.add_note(f"{repo_id!r} is no model of vggish-hf's: it has no {filename}")
            raise
    if len(set(folders)) > 1:
        # A cached file's folder is named for its commit: the branch moved between two files.
        return _download(repo_id, filenames, {**options, "revision": folders[-1].name})
    return folders[-1]


def push(save: Callable[[Path], object], repo_id: str, **options: Unpack[PushOptions]) -> str:
    """Upload what a function saves into a folder; see `push_folder`.

    The card of a repository that has one stays: somebody may have written it.
    """
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return push_folder(Path(folder), repo_id, keep_card=True, **options)


def push_folder(
    folder: Path, repo_id: str, *, keep_card: bool = False, **options: Unpack[PushOptions]
) -> str:
    """Upload a model's files to a repository in one commit, making the repository if need be.

    Args:
        folder: Where the files are; any other files stay there.
        repo_id: The repository.
        keep_card: Whether a README.md that the repository has stays.
        **options: See `PushOptions`.

    Returns:
        The commit's address.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: The Hub refused.
        TypeError: There is no such option.
    """
    _check_options(options, PushOptions)
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
