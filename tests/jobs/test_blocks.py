"""That blocks hold whole clips, are bounded, and become what the pipeline makes of each clip."""

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
from vggish_hf.jobs.blocks import read_blocks
from vggish_hf.jobs.embedded import BlockEmbedder, ClipJoiner
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


def embed_joined(pipeline, blocks, order=lambda embedded: embedded):
    joiner = ClipJoiner(pipeline.extractor)
    with BlockEmbedder(pipeline, "none", 32) as embedder:
        embedded = [embedder.start(block)() for block in blocks]
    return [whole for block in order(embedded) if (whole := joiner.add(block)) is not None]


def test_a_long_clip_comes_in_pieces_and_is_decoded_once(pipeline, make_clip, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_EXAMPLES", 40)
    clips = [make_clip("3", 3), make_clip("100", 100), make_clip("2", 2)]
    opened, samples = [], []

    def count(clip):
        opened.append(clip.id)
        stream = open_audio(clip.load())
        return stream._replace(blocks=(samples.append(len(b)) or b for b in stream.blocks))

    blocks = list(read_blocks(clips, pipeline.extractor, count))
    assert [(dict(block.counts), block.piece) for block in blocks] == [
        ({"3": 3}, None),
        ({"100": 40}, (0, False)),
        ({"100": 40}, (1, False)),
        ({"100": 20}, (2, True)),
        ({"2": 2}, None),
    ]
    assert sorted(opened) == ["100", "2", "3"]
    assert sum(samples) == sum(15_600 + 15_360 * (n - 1) for n in (3, 100, 2))
    expected = pipeline(clips[1].path)
    for order in (
        list,
        lambda embedded: embedded[::-1],
        lambda embedded: embedded[2:] + embedded[:3],
    ):
        (long,) = [
            block.outputs["100"]
            for block in embed_joined(pipeline, blocks, order)
            if "100" in block.outputs
        ]
        assert torch.allclose(long.embeddings, expected.embeddings, **TOLERANCE)
        assert torch.equal(long.start_seconds, expected.start_seconds)


@pytest.mark.parametrize("examples", [39, 40, 41, 80, 81])
def test_the_edges_of_a_block(pipeline, make_clip, monkeypatch, examples):
    monkeypatch.setattr(blocks_module, "BLOCK_EXAMPLES", 40)
    clip = make_clip(f"{examples}", examples)
    blocks = read(pipeline, [clip])
    assert all(0 < len(block.examples) <= 40 for block in blocks)
    assert (blocks[0].piece is None) == (examples <= 40)
    (whole,) = embed_joined(pipeline, blocks)
    assert whole.counts == {clip.id: examples}
    expected = pipeline(clip.path).embeddings
    assert torch.allclose(whole.outputs[clip.id].embeddings, expected, **TOLERANCE)


def test_a_long_clip_that_fails_late_has_no_rows(pipeline, make_clip, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_EXAMPLES", 40)
    clips = [make_clip("3", 3), make_clip("100", 100), make_clip("2", 2)]

    def broken(clip):
        def blocks():
            yield torch.zeros(15_360 * 90)
            raise ValueError("lost sync")

        stream = open_audio(clip.load())
        return stream._replace(blocks=blocks()) if clip.id == "100" else stream

    blocks = list(read_blocks(clips, pipeline.extractor, broken))
    assert any(block.piece is not None for block in blocks)
    found, failed = {}, {}
    for block in embed_joined(pipeline, blocks):
        found |= block.counts
        failed |= block.failed
    assert found == {"3": 3, "2": 2}
    assert failed == {"100": "lost sync"}


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_rows_go_back_to_their_clips(pipeline, make_clip, batch_size):
    clips = [make_clip("3", 3), Clip("none", "/none.wav"), make_clip("5", 5)]
    (block,) = read(pipeline, clips)
    with BlockEmbedder(pipeline, "none", batch_size) as embedder:
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
    with BlockEmbedder(pipeline, "none", 32) as embedder:
        embedded = embedder.start(block)()
    assert embedded.outputs["short"].embeddings.shape == (0, 128)


def test_what_is_written(pipeline, make_clip, tmp_path):
    (block,) = read(pipeline, [make_clip("2", 2), Clip("none", "/none.wav")])
    with BlockEmbedder(pipeline, "none", 32) as embedder:
        embedded = embedder.start(block)()
    folder = EmbeddingFolder(tmp_path / "out")
    folder.start({}, 128, torch.float32)
    for _ in range(2):
        embedded.write(folder)
        assert len(list(folder.path.glob("part-*.parquet"))) == 1
    assert list(folder.completed_ids()) == ["2"]
    assert folder.failed().keys() == {"none"}


def test_a_try_that_finds_less_replaces_nothing(pipeline, make_clip, tmp_path):
    blocks = [
        read(pipeline, [make_clip("1", 1), clip]) for clip in (make_clip("2", 2), Clip("2", "/2"))
    ]
    folder = EmbeddingFolder(tmp_path / "out")
    folder.start({}, 128, torch.float32)
    with BlockEmbedder(pipeline, "none", 32) as embedder:
        for (block,) in blocks:
            embedder.start(block)().write(folder)
    assert folder.finish() == 2
    assert sorted(folder.completed_ids()) == ["1", "2"]
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
