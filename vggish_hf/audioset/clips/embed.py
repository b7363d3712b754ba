"""Embeddings of AudioSet's clips in the format of the release."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from vggish_hf._runtime.files import write_json
from vggish_hf.audio import AudioSource
from vggish_hf.audioset.clips.cutting import read_clips
from vggish_hf.audioset.clips.export import CONFIG as CLIPS
from vggish_hf.audioset.clips.index import (
    AudioInputs,
    ClipFile,
    ClipIndex,
    LeftOut,
    index_clips,
)
from vggish_hf.audioset.clips.splits import ClipSplit, write_split
from vggish_hf.audioset.hub_folder import unfinished_file
from vggish_hf.audioset.labels import AudioSetLabels
from vggish_hf.audioset.released.export import CONFIG
from vggish_hf.audioset.released.files import write_release
from vggish_hf.audioset.released.records import EMBEDDING_SIZE, AudioSetRecord
from vggish_hf.audioset.released.tables import embedding_features, record_table
from vggish_hf.audioset.segments import Segment, read_segments, split_of
from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.inputs.parquet_pages import read_batches
from vggish_hf.inputs.tables import open_table
from vggish_hf.pipeline import VGGishPipeline

_ABOUT = """\
## Embeddings

One row per clip: `video_id`, `start_time_seconds`, `end_time_seconds`, `labels` (indices into the
527 classes of AudioSet, whose names the features hold) and `embedding`: 128 uint8 for each 0.96 s,
VGGish embeddings, PCA-whitened, clipped to [-2, 2] and quantised; `q * 4 / 255 + 4 / 512 - 2`
undoes that. Made from audio by vggish-hf; the metadata of each file name the weights.
"""
_SHARD_NAME = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}\.parquet")


def embed_clips(
    clips: AudioInputs,
    pipeline: VGGishPipeline,
    folder: str | os.PathLike[str],
    *,
    segments: str | os.PathLike[str] | None = None,
    split: str | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    file_clips: int = 2048,
) -> dict[str, ClipSplit]:
    """Embed clips, one row per 0.96 s, quantised to uint8, and write them twice.

    - Parquet files and a card, as configuration `embeddings`; those of an earlier run are skipped.
    - TFRecord files `{split}/XX.tfrecord`, made from the Parquet files; see
      `vggish_hf.audioset.released.files`.

    A clip of ten seconds has ten rows; a file longer than its clip does not give more.

    Args:
        clips: The folder that `export_clips` wrote; or, with `segments`, the audio: one or several
            inputs of `find_clips`.
        pipeline: Embeds them.
        folder: The folder to write to, created if needed.
        segments: The CSV, if `clips` is audio; see `AudioSetClips`.
        split: Name of the split; the default is all of `clips`, or from the CSV's name.
        batch_size: Examples that the network takes at once.
        num_workers: Clips decoded at once.
        file_clips: Clips per Parquet file; an interruption loses at most one file.

    Returns:
        The splits, by name.

    Raises:
        FileNotFoundError: A folder, a file or the CSV does not exist.
        ValueError: The split or all of its clips are missing; the pipeline does not embed like the
            release; or the folder has files from another source or other options.
    """
    _check_pipeline(pipeline)
    if segments is not None:
        index = index_clips(read_segments(segments), clips)
        indices = {split or split_of(segments): index}
    else:
        folders = [clips] if isinstance(clips, (str, os.PathLike)) else list(clips)
        if len(folders) != 1:
            raise ValueError(
                f"Expected one folder of `export-clips`, got {len(folders)} inputs; audio "
                "files need the segments CSV: pass `segments`"
            )
        indices = find_exported(Path(folders[0]))
        if split is not None:
            if split not in indices:
                raise ValueError(f"Expected a split among {', '.join(indices)}, got {split!r}")
            indices = {split: indices[split]}
    folder = Path(folder)
    provenance = pipeline.provenance("uint8")

    def make_tables(files: Iterator[ClipFile], left_out: list[LeftOut]) -> Iterator[pa.Table]:
        records = list(_embed(files, pipeline, left_out, batch_size, num_workers))
        if records:
            yield record_table(records)

    embedded = {}
    for name, index in indices.items():
        embedded[name] = write_split(
            index,
            make_tables,
            folder,
            CONFIG,
            name,
            schema=embedding_features().arrow_schema,
            made_from=provenance,
            file_clips=file_clips,
            about=_ABOUT,
        )
        write_release(embedded[name].files, folder / name)
        with unfinished_file(folder / name / "provenance.json") as unfinished:
            write_json(unfinished, provenance)
    return embedded


def find_exported(folder: Path) -> dict[str, ClipIndex]:
    """Find the clips that `export_clips` wrote into a folder.

    Returns:
        The clips by split.

    Raises:
        ValueError: None are found, or a file has other columns or values.
    """
    paths: dict[str, list[Path]] = {}
    for path in sorted((folder / CLIPS).glob("*.parquet")):
        match = _SHARD_NAME.fullmatch(path.name)
        if match is not None:
            paths.setdefault(match["split"], []).append(path)
    if not paths:
        raise ValueError(
            f"Expected a folder of `export-clips`, but {str(folder)!r} has no "
            f"{CLIPS}/SPLIT-*.parquet; audio files need the segments CSV: pass `segments`"
        )
    indices = {}
    for split, shards in paths.items():
        read = {path: _read_segments(path) for path in shards}
        segments = {
            video_id: segment for rows in read.values() for video_id, segment in rows.items()
        }
        # A file whose clips all failed has no row, and so no audio.
        filled = [path for path, rows in read.items() if rows]
        indices[split] = index_clips(segments, filled, are_cut=True)
    return indices


def _read_segments(path: Path) -> dict[str, Segment]:
    """Read the columns of an exported file except the audio."""
    names = [field.name for field in fields(Segment)]
    classes = len(AudioSetLabels())
    segments = {}
    try:
        for row in _read_rows(path, names):
            row["labels"] = tuple(row["labels"])
            segment = Segment(**row)
            if not all(0 <= label < classes for label in segment.labels):
                raise ValueError(f"Expected labels of 0 to {classes - 1}, got {segment.labels}")
            segments[segment.video_id] = segment
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Expected {path} to be a file of `export-clips`: {error}") from error
    return segments


def _read_rows(path: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    with open_table(str(path)) as (table, file_bytes):
        found = table.schema_arrow.names
        if missing := [name for name in [*names, "audio"] if name not in found]:
            raise ValueError(
                f"Expected the columns {', '.join([*names, 'audio'])}; missing: "
                f"{', '.join(missing)}; found: {', '.join(found)}"
            )
        for batch in read_batches(str(path), table, names, file_bytes):
            yield from batch.to_pylist()


def _check_pipeline(pipeline: VGGishPipeline) -> None:
    released = VGGishFeatureConfig().example_hop_seconds
    hop = pipeline.extractor.config.example_hop_seconds
    size = pipeline.model.config.embedding_size
    if hop != released or size != EMBEDDING_SIZE:
        raise ValueError(
            f"Expected a model of {EMBEDDING_SIZE} dimensions with an example per {released} s, "
            f"like the release; got {size}, each {hop} s"
        )
    if pipeline.model.postprocessor is None:
        raise ValueError(
            "Expected a model with a post-processor, which makes the release's uint8; load "
            "'google', or convert the checkpoint with its PCA file (`vggish-hf convert --pca`)"
        )


def _embed(
    files: Iterable[ClipFile],
    pipeline: VGGishPipeline,
    left_out: list[LeftOut],
    batch_size: int,
    num_workers: int,
) -> Iterator[AudioSetRecord]:
    waiting: dict[int, Segment] = {}  # those inside the pipeline, by position
    positions = count()

    def contents() -> Iterator[AudioSource]:
        clips = read_clips(files, in_memory=False, verify=False, num_workers=num_workers)
        for clip in clips:
            if isinstance(clip, LeftOut):
                left_out.append(clip)
            else:
                waiting[next(positions)] = clip.segment
                yield clip.content

    def note(position: int, _content: AudioSource, error: Exception) -> None:
        left_out.append(LeftOut(waiting.pop(position).video_id, str(error)))

    outputs = pipeline.stream(
        contents(),
        postprocess="uint8",
        batch_size=batch_size,
        num_workers=num_workers,
        isolated=True,
        on_error=note,
    )
    config = pipeline.extractor.config
    for output in outputs:
        segment = waiting.pop(output.index)
        most = config.num_examples(round(segment.duration * config.sampling_rate))
        rows = output.embeddings[: max(most, 1)].numpy()
        if len(rows):
            yield AudioSetRecord(
                segment.video_id,
                segment.start_time_seconds,
                segment.end_time_seconds,
                segment.labels,
                rows,
            )
        else:
            left_out.append(LeftOut(segment.video_id, "shorter than one example"))
