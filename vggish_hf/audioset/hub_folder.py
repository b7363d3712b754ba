"""Folders that `datasets.load_dataset` opens anywhere: Parquet shards and a card that lists them.

    README.md                                 `configs:` in its front matter
    embeddings/eval-00000-of-00002.parquet    CONFIG/SPLIT-INDEX-of-COUNT.parquet
    embeddings/eval-00001-of-00002.parquet

A shard's metadata hold its features under `huggingface`, for `datasets`, and its source and options
under `vggish_hf`, so that an interrupted export can be resumed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, RepoCard

from vggish_hf._runtime.files import unfinished_file as unfinished_file
from vggish_hf.hub import CARD_NAME

_MADE_FROM, _NOTES = b"vggish_hf", b"vggish_hf_notes"  # keys of a shard's metadata
_BUFFER_BYTES, _BATCH_ROWS = 1 << 20, 8  # read at once; a row may be a whole video


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """A complete shard.

    Args:
        rows: How many rows it has.
        notes: Those passed to `SplitWriter.write`.
    """

    rows: int
    notes: dict[str, Any]


class SplitWriter:
    """The shards of one split; each appears under its name only when it is complete.

    Args:
        folder: The Hub-ready folder, created if needed.
        config: Name of the configuration.
        split: Name of the split.
        schema: Columns and features, as `datasets.Features.arrow_schema` gives them.
        shards: The number of shards.
        made_from: The source and options that decide every shard's content; JSON values.

    Attributes:
        finished: The existing shards by index, from this and earlier runs.

    Raises:
        ValueError: The folder has shards of this split that are damaged or made from another source
            or other options. Each shard is read and its pages' checksums are compared.

    Example:
        >>> import tempfile
        >>> table = pa.table({"x": [1, 2, 3]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = SplitWriter(Path(folder), "numbers", "train", table.schema, 1, {})
        ...     writer.write(0, [table])
        ...     add_to_card(Path(folder), "numbers", ["train"])
        FinishedShard(rows=3, notes={})
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        split: str,
        schema: pa.Schema,
        shards: int,
        made_from: Mapping[str, Any],
    ) -> None:
        made = json.dumps(made_from, sort_keys=True).encode()
        self.schema = schema.with_metadata({**(schema.metadata or {}), _MADE_FROM: made})
        self.paths = [
            folder / config / f"{split}-{index:05}-of-{shards:05}.parquet"
            for index in range(shards)
        ]
        others = sorted(set(folder.glob(_pattern(config, split))) - set(self.paths))
        if others:
            raise ValueError(
                f"Expected no shards of {split} in {folder / config} but {shards} of this export, "
                f"got {', '.join(path.name for path in others)}; delete them, or write to another "
                "folder"
            )
        self.finished = {
            index: self._inspect(path, verify=True)
            for index, path in enumerate(self.paths)
            if path.exists()
        }
        (folder / config).mkdir(parents=True, exist_ok=True)

    def write(
        self,
        index: int,
        tables: Iterable[pa.Table],
        notes: Mapping[str, Any] | None = None,
    ) -> FinishedShard:
        """Write a shard, one row group per table.

        Args:
            index: Which one.
            tables: Its rows, written one table at a time.
            notes: JSON values to store with the shard; read after `tables` has ended, so `tables`
                may change them.
        """
        path = self.paths[index]
        with (
            unfinished_file(path) as unfinished,
            # zstd shrinks uint8 embeddings to 93 %, Parquet's default to 102 %, as fast.
            pq.ParquetWriter(
                unfinished, self.schema, compression="zstd", write_page_checksum=True
            ) as writer,
        ):
            for table in tables:
                writer.write_table(table)
            writer.add_key_value_metadata({_NOTES: json.dumps(dict(notes or {}))})
        self.finished[index] = self._inspect(path)
        return self.finished[index]

    def _inspect(self, path: Path, *, verify: bool = False) -> FinishedShard:
        """Read a shard's footer, and compare its source and options."""
        try:
            # Without a buffer, memory holds whole columns; with it, one page.
            with pq.ParquetFile(
                path,
                buffer_size=_BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=verify,
            ) as shard:
                footer = shard.metadata
                for _ in shard.iter_batches(_BATCH_ROWS, use_threads=False) if verify else ():
                    pass
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{path} is not a complete Parquet file: {error}; delete it and "
                "run the same export again"
            ) from error
        found = dict(footer.metadata or {})
        for key, value in self.schema.metadata.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{path} is from another source or other options than this export; delete "
                    "it, or write to another folder. Its metadata have "
                    f"{key.decode()!r}: {_shorten(found.get(key))} instead of {_shorten(value)}"
                )
        return FinishedShard(footer.num_rows, json.loads(found.get(_NOTES, b"{}")))


def add_to_card(folder: Path, config: str, splits: Sequence[str], about: str = "") -> None:
    """Add splits of a configuration to the list in the folder's README.md.

    Args:
        folder: The Hub-ready folder.
        config: Name of the configuration.
        splits: Names of its splits that are complete.
        about: Markdown to append if the card does not list the configuration yet.

    Raises:
        ValueError: The card lists the configuration in another layout.
    """
    path = folder / CARD_NAME
    card = _read_card(path)
    if not _splits(card, config):
        card.text = "\n\n".join(filter(None, [card.text.strip("\n"), about.strip("\n")])) + "\n"
    _add_splits(card, config, splits)
    with unfinished_file(path) as unfinished:
        card.save(unfinished)


def push_config(
    folder: Path,
    config: str,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a configuration to a dataset repository, created if needed.

    Its splits replace those of the same name; all else stays, including the card's text.

    Args:
        folder: The Hub-ready folder.
        config: Name of the configuration.
        repo_id: The repository.
        revision: Branch to commit to, created if needed; the default is the main branch.
        private: Whether a new repository is private; the default is the organisation's.
        token: Access token, or True for the stored one.
        commit_message: The first line of both commits, files and card.

    Returns:
        The address of the last commit.

    Raises:
        ValueError: The folder's card does not list the configuration, or a card lists it in
            another layout.
        huggingface_hub.errors.HfHubHTTPError: The Hub refuses.
    """
    card = _read_card(folder / CARD_NAME)
    splits = _splits(card, config)
    if not splits:
        raise ValueError(f"Expected {folder / CARD_NAME} to list {config!r}; finish the export")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, repo_type="dataset", branch=revision, exist_ok=True)
    where: dict[str, Any] = {"repo_id": repo_id, "repo_type": "dataset", "revision": revision}
    commit_message = commit_message or f"Upload {config}"
    patterns = [_pattern(config, split) for split in splits]
    api.upload_folder(
        folder_path=folder,
        allow_patterns=patterns,
        delete_patterns=patterns,  # an earlier upload may have had another number of shards
        commit_message=commit_message,
        **where,
    )
    if api.file_exists(filename=CARD_NAME, **where):
        card = _read_card(Path(api.hf_hub_download(filename=CARD_NAME, **where)))
        _add_splits(card, config, splits)
    commit = api.upload_file(
        path_or_fileobj=str(card).encode(),
        path_in_repo=CARD_NAME,
        commit_message=commit_message,
        **where,
    )
    return str(commit.commit_url)


def _pattern(config: str, split: str) -> str:
    return f"{config}/{split}-*.parquet"


def _shorten(value: bytes | None) -> str:
    text = (value or b"nothing").decode(errors="replace")
    return text if len(text) < 200 else f"{text[:200]}..."


def _read_card(path: Path) -> RepoCard:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return RepoCard(text if text.startswith("---") else f"---\n{{}}\n---\n{text}")


def _splits(card: RepoCard, config: str) -> list[str]:
    """List the splits of a configuration that a card lists."""
    for entry in card.data.get("configs", []):
        if entry.get("config_name") == config:
            try:
                return [files["split"] for files in entry["data_files"]]
            except (KeyError, TypeError) as error:
                raise ValueError(
                    f"Expected `split` and `path` in the `data_files` of {config!r} in README.md, "
                    f"got {entry}; delete this entry"
                ) from error
    return []


def _add_splits(card: RepoCard, config: str, splits: Iterable[str]) -> None:
    """Add splits of a configuration to those that a card lists."""
    entry = {
        "config_name": config,
        "data_files": [
            {"split": split, "path": _pattern(config, split)}
            for split in dict.fromkeys([*_splits(card, config), *splits])
        ],
    }
    configs = card.data.get("configs", [])
    others = [other for other in configs if other.get("config_name") != config]
    card.data["configs"] = [*others, entry]
