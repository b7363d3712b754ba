import pickle

import pytest
import torch
from folders import TESTS
from torch.utils.data import DataLoader, Subset

from vggish_hf.audioset import (
    AudioSetEmbeddings,
    AudioSetEmbeddingsDataset,
    collate_padded,
)
from vggish_hf.lightning.data_module import identity_collate
from vggish_hf.lightning.embedding_batches import EmbeddingBatches

RELEASED = TESTS / "data" / "audioset"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    builder = AudioSetEmbeddings(RELEASED, cache_dir=tmp_path_factory.mktemp("cache"))
    builder.download_and_prepare()
    return builder.as_dataset(split="bal_train")


def assert_same(batch, clips):
    expected = collate_padded(clips, max(len(clip["embedding"]) for clip in clips))
    assert batch["id"] == expected["video_id"]
    assert batch["embedding"].dtype == torch.uint8
    assert batch["mask"].dtype == torch.bool
    assert batch["target"].dtype == torch.float32
    for name in ("embedding", "mask", "target"):
        assert torch.equal(batch[name], expected[name])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_single_clips(prepared, num_workers):
    batches = EmbeddingBatches(prepared)
    loader = DataLoader(batches, 4, collate_fn=identity_collate, num_workers=num_workers)
    clips = list(AudioSetEmbeddingsDataset(prepared))
    assert len(batches) == len(clips) == 15
    found = list(loader)
    assert [len(batch["id"]) for batch in found] == [4, 4, 4, 3]
    for i, batch in enumerate(found):
        assert_same(batch, clips[4 * i : 4 * i + 4])


def test_lengths_differ(prepared):
    lengths = {len(clip["embedding"]) for clip in AudioSetEmbeddingsDataset(prepared)}
    assert len(lengths) > 1  # else the tests here would prove little


def test_any_order_and_each_alone(prepared):
    batches = EmbeddingBatches(prepared.shuffle(seed=0))
    clips = AudioSetEmbeddingsDataset(prepared.shuffle(seed=0))
    assert_same(batches.__getitems__([7, 2, 2, 14]), [clips[i] for i in (7, 2, 2, 14)])
    for i in range(len(clips)):
        assert_same(batches[i], [clips[i]])
    assert_same(Subset(batches, [3, 9]).__getitems__([1, 0]), [clips[9], clips[3]])


def test_a_clip_without_labels(prepared):
    dataset = prepared.map(
        lambda row, i: {"labels": [] if i == 1 else row["labels"]},
        with_indices=True,
        features=prepared.features,
    )
    target = EmbeddingBatches(dataset).__getitems__([0, 1, 2])["target"]
    assert target.any(1).tolist() == [True, False, True]


def test_a_batch_may_be_changed(prepared):
    batches = EmbeddingBatches(prepared)
    batches[0]["embedding"].zero_()
    assert batches[0]["embedding"].any()


def test_other_columns(prepared):
    with pytest.raises(ValueError, match="got for `labels` None"):
        EmbeddingBatches(prepared.remove_columns("labels"))


def test_it_goes_to_other_processes(prepared):
    batches = EmbeddingBatches(prepared)
    again = pickle.loads(pickle.dumps(batches))
    assert torch.equal(again[5]["embedding"], batches[5]["embedding"])
