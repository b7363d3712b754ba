"""The stages of an embedding job as functions of rows of arrays and JSON, to run anywhere.

A row is what Ray Data moves from one machine to the other: nothing in it is pickled.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from vggish_hf.audio import AudioLimits, IsolatedDecoders
from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.inputs import Clip, make_decoder
from vggish_hf.jobs.blocks import (
    BlockEmbedder,
    EmbeddedBlock,
    ExampleBlock,
    clip_outputs,
    read_blocks,
)
from vggish_hf.jobs.job import job_provenance
from vggish_hf.outputs.folder import EmbeddingFolder
from vggish_hf.pipeline import Postprocess, VGGishPipeline

Row = dict[str, Any]


def part_row(clips: list[Clip]) -> Row:
    """The row of a part: `clips`."""
    return {"clips": json.dumps([asdict(clip) for clip in clips])}


def read_part(
    row: Row,
    *,
    config: VGGishFeatureConfig,
    dtype: torch.dtype,
    limits: AudioLimits,
    num_workers: int,
) -> Iterator[Row]:
    """Read a part, see `read_blocks`.

    Yields:
        Rows of `counts`, `failed`, `long` and `examples`, see `ExampleBlock`.
    """
    clips = [Clip(**fields) for fields in json.loads(row["clips"])]
    decoders = IsolatedDecoders()
    blocks = read_blocks(
        clips,
        VGGishFeatureExtractor(config),
        make_decoder(decoders, limits),
        dtype=dtype,
        num_workers=num_workers,
    )
    with decoders:
        for block in blocks:
            yield {
                **_outcome(block.counts, block.failed),
                "long": json.dumps(asdict(block.long) if block.long else None),
                "examples": block.examples.numpy(),
            }


class PartEmbedder:
    """Loads a model once, and embeds rows of examples.

    Args:
        model: As for `VGGishPipeline.from_pretrained`.
        settings: How to load it, as there.
        folder: Where the job writes to.
        postprocess: As for calling a pipeline.
        batch_size: Examples that the network takes at once.
        limits: What a clip may be at most.

    Raises:
        ValueError: The folder is not there, or was made from other weights than this machine's.
    """

    def __init__(
        self,
        model: str,
        settings: Mapping[str, Any],
        folder: str,
        postprocess: Postprocess,
        batch_size: int,
        limits: AudioLimits,
    ) -> None:
        pipeline = VGGishPipeline.from_pretrained(model, **settings)
        output = EmbeddingFolder(folder)
        if output.manifest is None:
            raise ValueError(f"Expected a folder that all machines share, {folder!r} is not here")
        output.check(job_provenance(pipeline, postprocess, limits))
        decode = make_decoder(IsolatedDecoders(), limits)
        self._embedder = BlockEmbedder(pipeline, postprocess, batch_size, decode)

    def __call__(self, row: Row) -> Row:
        """Embed a row of `read_part` into one of `counts`, `failed` and `embeddings`."""
        long = json.loads(row["long"])
        block = ExampleBlock(
            json.loads(row["counts"]),
            torch.tensor(row["examples"]),
            json.loads(row["failed"]),
            Clip(**long) if long else None,
        )
        embedded = self._embedder.start(block)()
        rows = [output.embeddings for output in embedded.outputs.values()]
        return {
            **_outcome(embedded.counts, embedded.failed),
            "embeddings": torch.cat(rows or [torch.empty(0, 0)]).numpy(),
        }


def write_part(row: Row, *, folder: str, config: VGGishFeatureConfig) -> Row:
    """Write a row of `PartEmbedder`.

    Returns:
        Its `counts` and `failed`, and as `error` the number and text of the OSError, where there
        was one: Ray would wrap it in pages of its own.
    """
    counts, failed = json.loads(row["counts"]), json.loads(row["failed"])
    rows: Tensor = torch.tensor(row["embeddings"])
    outputs = clip_outputs(counts, rows, VGGishFeatureExtractor(config))
    error = None
    try:
        EmbeddedBlock(outputs, failed).write(EmbeddingFolder(folder))
    except OSError as refused:
        error = (refused.errno, refused.strerror)
    return {**_outcome(counts, failed), "error": json.dumps(error)}


def _outcome(counts: Mapping[str, int], failed: Mapping[str, str]) -> Row:
    return {"counts": json.dumps(dict(counts)), "failed": json.dumps(dict(failed))}
