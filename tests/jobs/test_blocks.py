"""That blocks hold whole clips, are bounded, and become what the pipeline makes of each clip."""

import os
import threading
from contextlib import closing

import numpy as np
import pytest
import soundfile
import torch

from vggish_hf import VGGishPipeline
from vggish_hf.audio import AudioError, AudioLimits, IsolatedDecoders, open_audio
from vggish_hf.inputs import Clip, make_decoder
from vggish_hf.jobs import blocks as blocks_module
from vggish_hf.jobs.blocks import BlockEmbedder, read_blocks
from vggish_hf.outputs.folder import EmbeddingFolder

# Batches of other sizes add in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def pipeline(lively_model_folder):
    return VGGishPipeline.from_pretrained(lively_model_folder)


@pytest.fixture
def make_clip(tmp_path):
    def make(name, examples):
        path = tmp_path / name
        noise = np.random.default_rng(examples).uniform(-0.5, 0.5, 15_600 + 15_360 * (examples - 1))
        soundfile.write(path, noise, 16_000, format="WAV", subtype="FLOAT")
        return Clip(name, str(path))

    return make


def decode(clip):
    return open_audio(clip.load())


def read(pipeline, clips):
    return list(read_blocks(clips, pipeline.extractor, decode))


def test_a_block_holds_whole_clips_in_order(pipeline, make_clip, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_EXAMPLES", 6)
    clips = [make_clip(f"{number}", number) for number in (3, 2, 1, 4, 6, 5)]
    blocks = read(pipeline, clips)
    assert [dict(block.counts) for block in blocks] == [
        {"3": 3, "2": 2, "1": 1},
        {"4": 4},
        {"6": 6},
        {"5": 5},
    ]
    for block in blocks:
        expected = [
            pipeline.extractor(*waveform(clip)) for clip in clips if clip.id in block.counts
        ]
        assert torch.allclose(block.examples, torch.cat(expected), **TOLERANCE)


def waveform(clip):
    samples, rate = soundfile.read(clip.path, dtype="float32")
    return torch.from_numpy(samples), rate


def test_those_that_fail_are_named(pipeline, make_clip, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_EXAMPLES", 4)
    clips = [
        Clip("none", "/none.wav"),
        make_clip("3", 3),
        Clip("problem", "x.tar", problem="the archive is damaged"),
        make_clip("2", 2),
    ]
    first, second = read(pipeline, clips)
    assert first.failed.keys() == {"none", "problem"}
    assert "No such audio file: '/none.wav'" in first.failed["none"]
    assert first.failed["problem"] == "the archive is damaged"
    assert (first.counts, second.counts, second.failed) == ({"3": 3}, {"2": 2}, {})
    (alone,) = read(pipeline, clips[:1])
    assert (alone.counts, alone.failed.keys(), len(alone.examples)) == ({}, {"none"}, 0)
    assert read(pipeline, []) == []


def test_an_error_that_is_not_the_clip_s_is_raised(pipeline, make_clip):
    def broken(_clip):
        raise RuntimeError("no more threads")

    with pytest.raises(RuntimeError, match="no more threads"):
        list(read_blocks([make_clip("1", 1)], pipeline.extractor, broken))


def test_a_long_clip_is_alone_and_not_read_to_its_end(pipeline, make_clip, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_EXAMPLES", 40)
    clips = [make_clip("3", 3), make_clip("400", 400), make_clip("2", 2)]
    given = []

    def count(clip):
        stream = open_audio(clip.load())
        return stream._replace(blocks=(given.append(clip.id) or block for block in stream.blocks))

    long, rest = read_blocks(clips, pipeline.extractor, count)
    assert (long.long, dict(long.counts), len(long.examples)) == (clips[1], {}, 0)
    assert dict(rest.counts) == {"3": 3, "2": 2}
    assert given.count("400") < 400 * 0.96 / 20
    with BlockEmbedder(pipeline, "none", 32, decode) as embedder:
        embedded = embedder.start(long)()
    assert embedded.counts == {"400": 400}
    expected = pipeline(clips[1].path)
    assert torch.equal(embedded.outputs["400"].embeddings, expected.embeddings)
    assert torch.equal(embedded.outputs["400"].start_seconds, expected.start_seconds)
    os.unlink(clips[1].path)
    with BlockEmbedder(pipeline, "none", 32, decode) as embedder:
        embedded = embedder.start(long)()
    assert embedded.outputs == {}
    assert "No such audio file" in embedded.failed["400"]


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_rows_go_back_to_their_clips(pipeline, make_clip, batch_size):
    clips = [make_clip("3", 3), Clip("none", "/none.wav"), make_clip("5", 5)]
    (block,) = read(pipeline, clips)
    with BlockEmbedder(pipeline, "none", batch_size, decode) as embedder:
        first, second = embedder.start(block), embedder.start(block)
        embedded, again = first(), second()
    assert embedded.counts == {"3": 3, "5": 5}
    assert embedded.failed.keys() == {"none"}
    for clip in (clips[0], clips[2]):
        output, expected = embedded.outputs[clip.id], pipeline(clip.path)
        assert torch.allclose(output.embeddings, expected.embeddings, **TOLERANCE)
        assert torch.equal(output.embeddings, again.outputs[clip.id].embeddings)
        assert torch.equal(output.start_seconds, expected.start_seconds)


def test_clips_without_an_example(lively_model_folder, make_clip):
    pipeline = VGGishPipeline.from_pretrained(lively_model_folder, padding="none")
    short = make_clip("short", 1)
    soundfile.write(short.path, np.zeros(100), 16_000, format="WAV")
    (block,) = read(pipeline, [short])
    assert dict(block.counts) == {"short": 0}
    with BlockEmbedder(pipeline, "none", 32, decode) as embedder:
        embedded = embedder.start(block)()
    assert embedded.outputs["short"].embeddings.shape == (0, 128)


def test_what_is_written(pipeline, make_clip, tmp_path):
    (block,) = read(pipeline, [make_clip("2", 2), Clip("none", "/none.wav")])
    with BlockEmbedder(pipeline, "none", 32, decode) as embedder:
        embedded = embedder.start(block)()
    folder = EmbeddingFolder(tmp_path / "out")
    folder.start({}, 128, torch.float32)
    for _ in range(2):
        embedded.write(folder)
        assert len(list(folder.path.glob("part-*.parquet"))) == 1
    assert list(folder.ids()) == ["2"]
    assert folder.failed().keys() == {"none"}


def test_a_try_that_finds_less_replaces_nothing(pipeline, make_clip, tmp_path):
    blocks = [
        read(pipeline, [make_clip("1", 1), clip]) for clip in (make_clip("2", 2), Clip("2", "/2"))
    ]
    folder = EmbeddingFolder(tmp_path / "out")
    folder.start({}, 128, torch.float32)
    with BlockEmbedder(pipeline, "none", 32, decode) as embedder:
        for (block,) in blocks:
            embedder.start(block)().write(folder)
    assert folder.finish() == 2
    assert sorted(folder.ids()) == ["1", "2"]
    assert folder.failed() == {}


def test_closing_it_ends_the_reading(pipeline, make_clip, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_EXAMPLES", 1)
    opened = []

    def note(clip):
        opened.append(clip.id)
        return decode(clip)

    clips = [make_clip(f"{number}", 1) for number in range(1, 30)]
    with closing(read_blocks(clips, pipeline.extractor, note)) as blocks:
        next(blocks)
    assert not [
        thread for thread in threading.enumerate() if thread.name in ("vggish-hf-0", "vggish-hf-1")
    ]
    assert len(opened) < len(clips)


def test_limits_reach_the_decoders(make_clip):
    with IsolatedDecoders() as decoders:
        open_ = make_decoder(decoders, AudioLimits(max_seconds=2))
        assert len(torch.cat(list(open_(make_clip("1", 1)).blocks))) == 15_600
        with pytest.raises(AudioError, match="at most 2 seconds"):
            list(open_(make_clip("3", 3)).blocks)
