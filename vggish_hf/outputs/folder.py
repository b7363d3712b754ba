"""Embeddings as a resumable folder of Parquet files that many processes write.

    .embeddings.json                      weights, options and size, common to all files
    .embeddings.lock                      the job that is writing to the folder
    part-00000-00000-1f0c93ab.parquet     whole clips: rank, number and a random suffix
    part-8f14e45fceea167a.parquet         whole clips: a hash of their ids, see `part_name`
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
_UNFINISHED = ".*.unfinished"  # names of `unfinished_file` and `merge_parts`


def part_name(ids: Iterable[str]) -> str:
    """Name a part after its clips, so that a repeated part replaces the old one.

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
    """Its file when it was embedded, if known."""
    part: Path | None
    """The file with its rows."""


class EmbeddingFolder:
    """A folder of embeddings; each file appears only when it is complete.

    Any number of processes on any number of machines may write parts at the same time; the last one
    calls `finish`. All state is on disk, so each process may have its own object.

    Args:
        path: The folder; `start` creates it if needed.

    Raises:
        ValueError: The path is a file, or a folder with other content.

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
        # Listed first: another process may be writing the manifest, which precedes the parts.
        foreign = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
        if foreign and not self._manifest_path.exists():
            raise ValueError(
                f"Expected a folder of embeddings, or an empty or new one, {str(path)!r} has other "
                f"content, such as {min(foreign)!r}; choose another"
            )

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The arguments of `start`, or None before its first call."""
        return read_json(self._manifest_path) if self._manifest_path.exists() else None

    @property
    def failed_path(self) -> Path:
        """The JSON Lines that `finish` writes: `id` and `reason` of failed clips.

        The reason is null for a clip without a whole example, which has not failed.
        """
        return self.path / FAILED_NAME

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other jobs from the folder; call it in one process of a job.

        The folder is created if needed, and deleted again if it stays empty.

        Raises:
            OSError: Another job writes to it; the message gives its process.
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
        """Raise ValueError with the differences if the folder has other settings.

        Also if neither the folder nor `provenance` names its weights: they may differ.
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
        """Create the folder, or check that an existing one has the same settings.

        Args:
            provenance: How the embeddings are made, see `VGGishPipeline.provenance`; JSON values
                that do not change between runs.
            embedding_size: Width of an embedding.
            dtype: `torch.float32` or `torch.uint8`.

        Raises:
            ValueError: The folder has other settings; the message lists the differences.
        """
        manifest = {
            "embedding_size": embedding_size,
            "dtype": str(dtype).removeprefix("torch."),
            "provenance": dict(provenance),
        }
        if not self._manifest_path.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            # Processes that start at the same time write the same; `unfinished_file` would delete
            # another's file.
            unfinished = self.path / f"{_MANIFEST}.{secrets.token_hex(4)}.unfinished"
            write_json(unfinished, manifest)
            unfinished.replace(self._manifest_path)
        self._compare(manifest)

    def completed_ids(self) -> Iterator[str]:
        """List the clips that are done, read from the files piece by piece.

        They have rows, or no whole example. Failed clips may be tried again and are not listed. A
        clip that two processes have embedded appears twice until `finish`.
        """
        return (clip.id for clip in self.completed())

    def completed(self) -> Iterator[CompletedClip]:
        """List the same clips with their files, if known."""
        for part in self._parts():
            sources = read_sources(part)
            for clip in read_ids(part):
                yield CompletedClip(clip, sources.get(clip), part)
        for clip, (reason, source) in read_failed(self.path).items():
            if reason is None:
                yield CompletedClip(clip, source, None)

    def drop(self, part: Path, clips: Iterable[str]) -> None:
        """Delete the rows of clips from a part that newer rows replace."""
        if part.exists():
            drop_clips(part, set(clips))

    def failed(self) -> dict[str, str]:
        """Collect the clips that failed and were not embedded since, with reasons."""
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
        """Write whole clips to a new file, which appears when it is complete.

        Args:
            clips: Their outputs by id, including those without an example.
            failed: The failed clips with reasons.
            sources: The clips' files when they were read, if known.
            rank: The process's number; it starts the file's name, so that files of one process sort
                together.
            name: The file's name from `part_name`, instead of a unique one; a part of that name is
                replaced.

        Raises:
            ValueError: `start` was never called, or an output has another size or dtype than
                announced.
            OSError: It cannot be written; the folder stays as it is.
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
        # In a separate folder: two processes may write the same part, if one was given up.
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
        """Clean up the folder after all processes have ended.

        The newest part keeps a clip that several have; one file lists the failed clips; leftovers
        of killed processes are deleted. May be interrupted and repeated.

        Args:
            merge: Merge all parts into one file, `embeddings.parquet`, sorted by id.

        Returns:
            The number of clips with rows.
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
        # A parallel or an earlier run may use the same number.
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
            # The same weights may have another name.
            for values in (there, here):
                values["provenance"] = {**(values["provenance"] or {}), _MODEL: None}
        if differing := find_differences(there, here):
            lines = "".join(f"\n  {key}: {old!r}, now {new!r}" for key, old, new in differing)
            raise ValueError(
                f"{str(self.path)!r} was made with other weights or options; write to another "
                f"folder. Differences:{lines}"
            )
