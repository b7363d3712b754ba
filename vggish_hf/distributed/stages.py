"""The stages of an embedding job as functions of rows of arrays and JSON, to run anywhere.

Ray Data moves rows between machines; nothing in them is pickled.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vggish_hf.audio import AudioLimits, IsolatedDecoders
from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.inputs import Clip, make_decoder
from vggish_hf.jobs.blocks import ExampleBlock, Piece, read_blocks
from vggish_hf.jobs.embedded import BlockEmbedder, EmbeddedBlock, clip_outputs
from vggish_hf.jobs.job import job_provenance
from vggish_hf.modeling.pooling import Pool
from vggish_hf.outputs.folder import EmbeddingFolder
from vggish_hf.outputs.sources import Source
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
        Rows of `counts`, `failed`, `sources`, `piece` and `examples`, see `ExampleBlock`.
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
            yield {**_facts(block), "examples": block.examples.numpy()}


class PartEmbedder:
    """Loads a model at the first call, and embeds rows of examples.

    A call that raises ends the job. A constructor that raises would not: if Ray makes the object
    again, in the place of one that died, it waits for it without end.

    Args:
        model: As for `VGGishPipeline.from_pretrained`.
        settings: How to load it, as there.
        folder: The job's output folder.
        postprocess: As for calling a pipeline.
        batch_size: Examples that the network takes at once.
        limits: Limits of a clip.
        pool: As for `embed_to_folder`.
    """

    def __init__(
        self,
        model: str,
        settings: Mapping[str, Any],
        folder: str,
        postprocess: Postprocess,
        batch_size: int,
        limits: AudioLimits,
        pool: Pool | None = None,
    ) -> None:
        self._model = model
        self._settings = settings
        self._folder = folder
        self._postprocess: Postprocess = postprocess
        self._batch_size = batch_size
        self._limits = limits
        self._pool: Pool | None = pool

    @cached_property
    def _embedder(self) -> BlockEmbedder:
        pipeline = VGGishPipeline.from_pretrained(self._model, **self._settings)
        folder = EmbeddingFolder(self._folder)
        if folder.manifest is None:
            raise ValueError(
                f"Expected a folder that all machines share, {self._folder!r} is not here"
            )
        folder.check(job_provenance(pipeline, self._postprocess, self._limits, self._pool))
        return BlockEmbedder(pipeline, self._postprocess, self._batch_size)

    def __call__(self, row: Row) -> Row:
        """Embed a row of `read_part`: `embeddings` replace `examples`.

        Raises:
            ValueError: The folder is missing, or was made from other weights than this machine's.
        """
        block = ExampleBlock(
            json.loads(row["counts"]),
            torch.tensor(row["examples"]),
            json.loads(row["failed"]),
            _sources(row),
            _piece(row),
        )
        embedded = self._embedder.start(block)()
        rows = [output.embeddings for output in embedded.outputs.values()]
        nothing = torch.empty(0, 0)
        return {**_facts(embedded), "embeddings": torch.cat(rows or [nothing]).numpy()}


def write_part(
    row: Row, *, folder: str, config: VGGishFeatureConfig, pool: Pool | None = None
) -> Row:
    """Write a row of `PartEmbedder`, except pieces of a clip, which the driver joins.

    Returns:
        The row, without written `embeddings`; `error` has the number and text of an OSError, since
        Ray would wrap it in pages of text.
    """
    block = embedded_block(row, VGGishFeatureExtractor(config))
    error = None
    if block.piece is None:
        row = {**row, "embeddings": torch.empty(0, 0).numpy()}
        try:
            block.write(EmbeddingFolder(folder), pool)
        except OSError as refused:
            error = (refused.errno, refused.strerror)
    return {**row, "error": json.dumps(error)}


def embedded_block(row: Row, extractor: VGGishFeatureExtractor) -> EmbeddedBlock:
    """The block of a row of `PartEmbedder`."""
    rows: Tensor = torch.tensor(row["embeddings"])
    outputs = clip_outputs(json.loads(row["counts"]), rows, extractor)
    return EmbeddedBlock(outputs, json.loads(row["failed"]), _sources(row), _piece(row))


def _facts(block: ExampleBlock | EmbeddedBlock) -> Row:
    return {
        "counts": json.dumps(dict(block.counts)),
        "failed": json.dumps(dict(block.failed)),
        "sources": json.dumps(dict(block.sources)),
        "piece": json.dumps(block.piece),
    }


def _sources(row: Row) -> dict[str, Source]:
    return {clip: (size, time) for clip, (size, time) in json.loads(row["sources"]).items()}


def _piece(row: Row) -> Piece | None:
    piece = json.loads(row["piece"])
    return None if piece is None else Piece(*piece)
