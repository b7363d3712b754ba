"""Embeddings as a resumable folder of Parquet files that many processes write.

    .embeddings.json                      weights, options, size: what all files have in common
    .embeddings.lock                      while a job writes to the folder: who does
    part-00000-00000-1f0c93ab.parquet     whole clips: rank, number and what keeps names apart
    part-8f14e45fceea167a.parquet         whole clips: what their ids hash to, see `part_name`
    .failed.part-00000-….jsonl            clips without rows, and why

`pyarrow.dataset`, `pandas.read_parquet` and `datasets.load_dataset("parquet", data_dir=...)` open
the folder as one table, with the columns of `vggish_hf.outputs`: they skip names with a dot.
"""

import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vggish_hf._runtime.files import locked, read_json, write_json
from vggish_hf.outputs.failed import (
    FAILED_NAME,
    NoRows,
    finish_failed,
    part_file,
    read_failed,
    write_failed,
)
from vggish_hf.outputs.formats import open_output
from vggish_hf.outputs.parts import drop_clips, find_repeated, merge_parts, read_ids
from vggish_hf.outputs.sources import Source, merge_sources, pack_sources, read_sources
from vggish_hf.pipeline import VGGishOutput
from vggish_hf.provenance import find_differences

_MANIFEST = ".embeddings.json"
_LOCK = ".embeddings.lock"
_MERGED = "embeddings.parquet"
_MODEL, _WEIGHTS = "model", "weights_sha256"
_DIGESTS = (_WEIGHTS, "state_sha256")
_UNFINISHED = ".*.unfinished"  # what `unfinished_file` and `merge_parts` call theirs


def part_name(ids: Iterable[str]) -> str:
    """Name a part after the clips in it, so that one that is made again replaces itself.

    Args:
        ids: The part's clips, in any order.

    Example:
        >>> part_name(["b.wav", "a.wav"])
        'part-3098e7062d09a10e'
    """
    return f"part-{hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()[:16]}"


class CompletedClip(NamedTuple):
    """A clip that has rows, or no whole example."""

    id: str
    source: Source | None
    """What its file was when it was embedded, where that is known."""
    part: Path | None
    """The file with its rows."""


class EmbeddingFolder:
    """A folder of embeddings, each file of which appears whole or not at all.

    Any number of processes on any number of machines may write parts at the same time; the last
    one calls `finish`. All that is known is on disk: a copy in another process is as good.

    Args:
        path: The folder, which `start` makes if need be.

    Raises:
        ValueError: There is something else.

    Example:
        >>> import tempfile
        >>> from vggish_hf import VGGishOutput
        >>> out = VGGishOutput(torch.zeros(2, 128), torch.tensor([0.0, 0.96]))
        >>> with tempfile.TemporaryDirectory() as path:
        ...     folder = EmbeddingFolder(path)
        ...     folder.start({"model": "org/vggish"}, 128, torch.float32)
        ...     folder.write_part({"a.wav": out}, failed={"b.wav": "it holds no samples"})
        ...     print(folder.finish(), list(folder.completed_ids()), folder.failed())
        1 ['a.wav'] {'b.wav': 'it holds no samples'}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._manifest_path = self.path / _MANIFEST
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"Expected a folder, {str(path)!r} is a file")
        # Listed first: another process may be making the manifest, which precedes the parts.
        foreign = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
        if foreign and not self._manifest_path.exists():
            raise ValueError(
                f"Expected a folder of embeddings, or an empty or new one, {str(path)!r} has other "
                f"content, such as {min(foreign)!r}; choose another"
            )

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What `start` was given, or None before its first call."""
        return read_json(self._manifest_path) if self._manifest_path.exists() else None

    @property
    def failed_path(self) -> Path:
        """The JSON Lines that `finish` writes: `id`, and as `reason` why it failed.

        The reason is null for a clip that holds no whole example; it has not failed.
        """
        return self.path / FAILED_NAME

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other jobs from the folder; one process of a job does.

        The folder is made if need be, and deleted again if nothing comes into it.

        Raises:
            OSError: Another job writes to it; the message says which process.
        """
        is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.path / _LOCK, self.path):
                yield
        finally:
            if is_new:
                with suppress(OSError):  # it is not empty
                    self.path.rmdir()

    def check(self, provenance: Mapping[str, Any]) -> None:
        """Raise ValueError, with what differs, if the folder was made from something else.

        So it does if neither the folder nor `provenance` says which weights: they may be others.
        """
        self._compare({"provenance": dict(provenance)})
        manifest = self.manifest
        if manifest is not None and not any(
            values.get(key) for values in (manifest["provenance"], provenance) for key in _DIGESTS
        ):
            raise ValueError(
                f"Expected to know which weights {str(self.path)!r} was made with, its provenance "
                "has neither `weights_sha256` nor `state_sha256`; write to another folder, or "
                "state one of them in the provenance"
            )

    def start(self, provenance: Mapping[str, Any], embedding_size: int, dtype: torch.dtype) -> None:
        """Make the folder, or make sure that an existing one can be continued in the same way.

        Args:
            provenance: What the embeddings come from, see `VGGishPipeline.provenance`; JSON
                values, and nothing that may change from one run to the next.
            embedding_size: Width of an embedding.
            dtype: `torch.float32` or `torch.uint8`.

        Raises:
            ValueError: The folder was made from something else; the message lists what differs.
        """
        manifest = {
            "embedding_size": embedding_size,
            "dtype": str(dtype).removeprefix("torch."),
            "provenance": dict(provenance),
        }
        if not self._manifest_path.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            # Processes that start at the same time write the same; `unfinished_file` would delete
            # what another is writing.
            unfinished = self.path / f"{_MANIFEST}.{secrets.token_hex(4)}.unfinished"
            write_json(unfinished, manifest)
            unfinished.replace(self._manifest_path)
        self._compare(manifest)

    def completed_ids(self) -> Iterator[str]:
        """List the clips that need not be embedded again, read from the files piece by piece.

        They have rows, or no whole example. Those that failed may be tried again and are not among
        them. A clip that two processes have embedded comes twice until `finish`.
        """
        return (clip.id for clip in self.completed())

    def completed(self) -> Iterator[CompletedClip]:
        """List the same with what is known of their files."""
        for part in self._parts():
            sources = read_sources(part)
            for clip in read_ids(part):
                yield CompletedClip(clip, sources.get(clip), part)
        for clip, (reason, source) in read_failed(self.path).items():
            if reason is None:
                yield CompletedClip(clip, source, None)

    def drop(self, part: Path, clips: Iterable[str]) -> None:
        """Delete the rows of clips from a part, which newer rows replace."""
        if part.exists():
            drop_clips(part, set(clips))

    def failed(self) -> dict[str, str]:
        """Collect the clips that failed and have not been embedded since, and why."""
        failed = {
            clip: no_rows.reason
            for clip, no_rows in read_failed(self.path).items()
            if no_rows.reason is not None
        }
        if failed:
            for part in self._parts():
                for clip in read_ids(part):
                    failed.pop(clip, None)
        return failed

    def write_part(
        self,
        clips: Mapping[str, VGGishOutput],
        failed: Mapping[str, str] | None = None,
        *,
        sources: Mapping[str, Source] | None = None,
        rank: int = 0,
        name: str | None = None,
    ) -> None:
        """Write whole clips to a new file, which appears when all of them are in it.

        Args:
            clips: Their outputs by id, those without an example too.
            failed: Those that could not be embedded, each with the reason.
            sources: What the clips' files were when they were read, of those that are known.
            rank: Which process this is; a part of the file's name, so that parts of one process
                stand together.
            name: The file's name, as `part_name` gives it, in place of one that no other has; a
                part of that name is replaced.

        Raises:
            ValueError: `start` was never called, or an output has another size or dtype than it
                was told.
            OSError: It cannot be written; what is in the folder stays as it is.
        """
        manifest = self.manifest
        if manifest is None:
            raise ValueError(f"Expected `start` before `write_part`, {str(self.path)!r} is new")
        name = name or self._new_name(rank)
        sources = sources or {}
        no_rows = {
            clip: NoRows(None, sources.get(clip))
            for clip, output in clips.items()
            if not len(output.embeddings)
        }
        no_rows.update((clip, NoRows(reason)) for clip, reason in (failed or {}).items())
        embedded = sorted(clip for clip, output in clips.items() if len(output.embeddings))
        known = {clip: sources[clip] for clip in embedded if clip in sources}
        # In a folder of its own: two processes may write the same part, one of which was given up.
        with tempfile.TemporaryDirectory(
            dir=self.path, prefix=f".{name}.", suffix=".unfinished"
        ) as unfinished:
            rows, lines = Path(unfinished, "rows.parquet"), Path(unfinished, "failed.jsonl")
            if embedded:
                dtype = getattr(torch, manifest["dtype"])
                size, provenance = manifest["embedding_size"], manifest["provenance"]
                with open_output(
                    rows, size, dtype, provenance, sources=pack_sources(known)
                ) as write:
                    for clip in embedded:
                        write(clip, clips[clip])
            if no_rows:
                write_failed(lines, no_rows)
                lines.replace(part_file(self.path, name))
            if embedded:
                rows.replace(self.path / f"{name}.parquet")

    def finish(self, *, merge: bool = False) -> int:
        """Put the folder in order, when no process writes any more.

        Of a clip that several parts have, the newest keeps it; the clips that failed are listed in
        one file; what killed processes have left is deleted. May be interrupted and repeated.

        Args:
            merge: Make one file, `embeddings.parquet`, sorted by id, of all parts.

        Returns:
            How many clips have rows.
        """
        newest_first = sorted(self._parts(), key=lambda part: -part.stat().st_mtime_ns)
        embedded, repeated = find_repeated(newest_first)
        for part, clips in repeated.items():
            drop_clips(part, clips)
        parts = self._parts()
        merged = self.path / _MERGED
        if merge and set(parts) - {merged}:
            merge_sources(parts, merged)
            merge_parts(parts, merged)
            for part in set(parts) - {merged}:
                part.unlink()
        finish_failed(self.path, (clip for part in self._parts() for clip in read_ids(part)))
        for stale in self.path.glob(_UNFINISHED):
            if stale.is_dir():
                shutil.rmtree(stale)
            else:
                stale.unlink()
        return embedded

    def _new_name(self, rank: int) -> str:
        number = sum(1 for _ in self.path.glob(f"part-{rank:05}-*.parquet"))
        # The same number may be taken by a run at the same time, or may have been by one before.
        return f"part-{rank:05}-{number:05}-{secrets.token_hex(4)}"

    def _parts(self) -> list[Path]:
        return [*self.path.glob(_MERGED), *sorted(self.path.glob("part-*.parquet"))]

    def _compare(self, given: Mapping[str, Any]) -> None:
        manifest = self.manifest
        if manifest is None:
            return
        there = {key: manifest.get(key) for key in given}
        here = dict(given)
        if here["provenance"].get(_WEIGHTS) is not None:
            # The same weights may go by another name.
            for values in (there, here):
                values["provenance"] = {**(values["provenance"] or {}), _MODEL: None}
        if differing := find_differences(there, here):
            lines = "".join(f"\n  {key}: {old!r}, now {new!r}" for key, old, new in differing)
            raise ValueError(
                f"Expected the weights and options that {str(self.path)!r} was made with; write to "
                f"another folder. What differs:{lines}"
            )
