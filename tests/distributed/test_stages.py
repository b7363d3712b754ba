"""That parts pass through rows of arrays and JSON as they do through a job on one machine."""

import json
import os

import embedding_faults as faults
import numpy as np
import pytest
import torch
from folders import TESTS

from vggish_hf import VGGishPipeline
from vggish_hf.audio import AudioLimits
from vggish_hf.distributed.stages import (
    PartEmbedder,
    embedded_block,
    part_row,
    read_part,
    write_part,
)
from vggish_hf.inputs import Clip
from vggish_hf.jobs import blocks
from vggish_hf.jobs.embedded import ClipJoiner
from vggish_hf.jobs.job import EmbeddingJob
from vggish_hf.jobs.to_folder import embed_to_folder
from vggish_hf.outputs.folder import EmbeddingFolder

AUDIO = TESTS / "data" / "audio_cases"
LIMITS = AudioLimits()


@pytest.fixture
def pipeline(small_model_folder):
    return VGGishPipeline.from_pretrained(small_model_folder)


def start(pipeline, folder, postprocess="none"):
    with EmbeddingJob([], folder, pipeline, postprocess, LIMITS):
        return str(folder)


def read(pipeline, clips):
    options = {"dtype": torch.float32, "limits": LIMITS, "num_workers": 2}
    return list(read_part(part_row(clips), config=pipeline.extractor.config, **options))


@pytest.mark.parametrize("postprocess", ["none", pytest.param("uint8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("block_examples", [pytest.param(4096, marks=pytest.mark.slow), 12])
def test_the_same_as_one_machine(
    pipeline, small_model_folder, tmp_path, monkeypatch, postprocess, block_examples
):
    monkeypatch.setattr(blocks, "BLOCK_EXAMPLES", block_examples)
    clips = [Clip(path.name, str(path)) for path in sorted(AUDIO.iterdir())]
    out = start(pipeline, tmp_path / "out", postprocess)
    embedder = PartEmbedder(str(small_model_folder), {}, out, postprocess, 5, LIMITS)
    joiner = ClipJoiner(pipeline.extractor)
    counts, failed, pieces = {}, {}, 0
    for row in read(pipeline, clips):
        for value in row.values():
            assert isinstance(value, (str, np.ndarray))
        done = write_part(embedder(row), folder=out, config=pipeline.extractor.config)
        assert json.loads(done["error"]) is None
        block = embedded_block(done, pipeline.extractor) if row["piece"] != "null" else None
        if block is not None:
            if (block := joiner.add(block)) is None:
                continue
            block.write(EmbeddingFolder(out))
            counts |= block.counts
            pieces += 1
        else:
            assert len(done["embeddings"]) == 0
            counts |= json.loads(done["counts"])
        failed |= json.loads(done["failed"])
    assert (pieces > 0) == (block_examples == 12)
    summary = embed_to_folder(
        pipeline, clips, tmp_path / "local", postprocess=postprocess, batch_size=5
    )
    assert (len(counts), sum(counts.values())) == (summary.clips, summary.examples)
    assert failed == summary.failed
    faults.assert_same_rows(tmp_path / "out", tmp_path / "local")


def test_a_part_of_which_all_fail(pipeline, small_model_folder, tmp_path):
    out = start(pipeline, tmp_path / "out")
    (row,) = read(pipeline, [Clip("none", "/none.wav")])
    embedded = PartEmbedder(str(small_model_folder), {}, out, "none", 32, LIMITS)(row)
    done = write_part(embedded, folder=out, config=pipeline.extractor.config)
    assert json.loads(done["counts"]) == {}
    assert json.loads(done["failed"]).keys() == {"none"}
    assert EmbeddingFolder(out).failed().keys() == {"none"}


def test_any_name_passes(pipeline):
    path = os.fsdecode(b"/caf\xe9.wav")
    (row,) = read(
        pipeline, [Clip("café", path), Clip("row", path, "3"), Clip("3", path, "m", 5, 7)]
    )
    assert row["counts"].isascii()
    assert json.loads(row["failed"]).keys() == {"café", "row", "3"}
    assert row["examples"].shape == (0, 96, 64)


def test_other_weights_are_refused(pipeline, small_model_folder, tmp_path):
    out = start(pipeline, tmp_path / "out")
    with torch.no_grad():
        pipeline.model.fc2.weight.mul_(2)
    pipeline.save_pretrained(tmp_path / "scaled")
    (row,) = read(pipeline, [Clip("a", str(AUDIO / "harritaylor__test.wav"))])
    PartEmbedder(f"{small_model_folder}/", {}, out, "none", 32, LIMITS)(row)  # by another name
    scaled = PartEmbedder(str(tmp_path / "scaled"), {"padding": "short"}, out, "none", 32, LIMITS)
    with pytest.raises(ValueError, match="weights_sha256"):
        scaled(row)
    limits = AudioLimits(max_seconds=1)
    limited = PartEmbedder(str(small_model_folder), {}, out, "none", 32, limits)
    with pytest.raises(ValueError, match="max_seconds"):
        limited(row)


def test_a_folder_that_is_not_here_is_refused(pipeline, small_model_folder, tmp_path):
    (row,) = read(pipeline, [Clip("a", str(AUDIO / "harritaylor__test.wav"))])
    embedder = PartEmbedder(str(small_model_folder), {}, str(tmp_path / "out"), "none", 32, LIMITS)
    with pytest.raises(ValueError, match=r"all machines share, '.*out' is not here"):
        embedder(row)


def test_a_failed_write_is_reported(pipeline, small_model_folder, tmp_path):
    out = start(pipeline, tmp_path / "out")
    (row,) = read(pipeline, [Clip("a", str(AUDIO / "harritaylor__test.wav"))])
    embedded = PartEmbedder(str(small_model_folder), {}, out, "none", 32, LIMITS)(row)
    done = write_part(embedded, folder=out, config=pipeline.extractor.config)
    assert json.loads(done["error"]) is None
    (name,) = faults.parts(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / name).mkdir()
    done = write_part(embedded, folder=out, config=pipeline.extractor.config)
    number, text = json.loads(done["error"])
    assert number
    assert "run the command again" in text
