import pickle
from functools import partial

import pytest
import torch
from folders import TESTS
from torch.utils.data import DataLoader

from vggish_hf.audioset import (
    AudioSetEmbeddings,
    AudioSetEmbeddingsDataset,
    AudioSetLabels,
    RecordReader,
    collate_padded,
    collate_ragged,
    parse_audioset,
)

RELEASED = TESTS / "data" / "audioset"
RECORDS = [
    parse_audioset(data)
    for path in sorted((RELEASED / "bal_train").iterdir())
    for data in RecordReader(path)
]
SECONDS = [len(record.embedding) for record in RECORDS]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    builder = AudioSetEmbeddings(RELEASED, cache_dir=tmp_path_factory.mktemp("cache"))
    builder.download_and_prepare()
    return builder.as_dataset(split="bal_train")


@pytest.fixture
def clips(prepared):
    return AudioSetEmbeddingsDataset(prepared)


def test_clips(clips):
    assert len(clips) == len(RECORDS)
    assert min(SECONDS) == 1
    labels = AudioSetLabels()
    for clip, record in zip(clips, RECORDS, strict=False):
        assert clip["video_id"] == record.video_id
        assert clip["start_time_seconds"] == record.start_time_seconds
        assert clip["end_time_seconds"] == record.end_time_seconds
        assert clip["embedding"].dtype == torch.uint8
        assert torch.equal(clip["embedding"], torch.from_numpy(record.embedding))
        assert torch.equal(clip["target"], labels.encode(record.labels))


def test_the_format_that_it_avoids(prepared):
    assert prepared.with_format("torch")[0]["embedding"].dtype == torch.int64


def test_indices(clips):
    assert clips[-1]["video_id"] == RECORDS[-1].video_id
    found = [clip["video_id"] for clip in clips.__getitems__([3, 3, 0])]
    assert found == [RECORDS[i].video_id for i in (3, 3, 0)]
    with pytest.raises(IndexError):
        clips[len(RECORDS)]


def test_a_clip_may_be_changed(clips):
    clips[0]["embedding"].zero_()
    assert torch.equal(clips[0]["embedding"], torch.from_numpy(RECORDS[0].embedding))


def test_a_selection(prepared):
    chosen = prepared.shuffle(seed=0).filter(lambda row: len(row["embedding"]) < 10)
    clips = AudioSetEmbeddingsDataset(chosen.with_format("numpy"))
    expected = {record.video_id for record in RECORDS if len(record.embedding) < 10}
    assert {clip["video_id"] for clip in (clips[i] for i in range(len(clips)))} == expected
    assert clips[0]["embedding"].dtype == torch.uint8


def test_dequantized(prepared, small_model):
    clips = AudioSetEmbeddingsDataset(prepared, dequantize=True)
    expected = small_model.postprocessor.dequantize(torch.from_numpy(RECORDS[2].embedding))
    assert clips[2]["embedding"].dtype == torch.float32
    assert torch.equal(clips[2]["embedding"], expected)
    assert clips[2]["embedding"].min() < 0


def test_it_goes_to_other_processes(clips):
    again = pickle.loads(pickle.dumps(clips))
    assert torch.equal(again[5]["embedding"], clips[5]["embedding"])


def test_other_columns(prepared):
    with pytest.raises(ValueError, match="got for `labels` None"):
        AudioSetEmbeddingsDataset(prepared.remove_columns("labels"))
    extra = prepared.add_column("note", ["x"] * len(RECORDS))
    assert AudioSetEmbeddingsDataset(extra)[0].keys() == {
        "video_id",
        "start_time_seconds",
        "end_time_seconds",
        "embedding",
        "target",
    }


def test_streaming_has_no_random_access(prepared):
    with pytest.raises(ValueError, match="got IterableDataset; pass one split"):
        AudioSetEmbeddingsDataset(prepared.to_iterable_dataset())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_padded_batches(clips, num_workers):
    loader = DataLoader(clips, 4, collate_fn=collate_padded, num_workers=num_workers)
    start = 0
    for batch in loader:
        records = RECORDS[start : start + 4]
        start += 4
        assert batch["embedding"].shape == (len(records), 10, 128)
        assert batch["embedding"].dtype == torch.uint8
        assert batch["mask"].dtype == torch.bool
        assert batch["target"].shape == (len(records), 527)
        assert batch["video_id"] == [record.video_id for record in records]
        assert batch["start_time_seconds"].tolist() == [r.start_time_seconds for r in records]
        assert batch["end_time_seconds"].tolist() == [r.end_time_seconds for r in records]
        for rows, mask, record in zip(batch["embedding"], batch["mask"], records, strict=True):
            assert torch.equal(rows[mask], torch.from_numpy(record.embedding))
            assert not rows[~mask].any()
            assert mask.tolist() == sorted(mask.tolist(), reverse=True)
    assert start >= len(RECORDS)


def test_padding_keeps_the_dtype(prepared):
    clips = AudioSetEmbeddingsDataset(prepared, dequantize=True)
    batch = collate_padded([clips[i] for i in range(len(clips))])
    assert batch["embedding"].dtype == torch.float32
    assert not batch["embedding"][~batch["mask"]].any()


def test_clips_longer_than_the_batch(clips):
    batch = [clips[i] for i in range(len(clips))]
    assert collate_padded(batch, seconds=12)["mask"].sum(1).tolist() == SECONDS
    with pytest.raises(ValueError, match="at most 9 rows, got one of 10; pass `seconds`"):
        collate_padded(batch, seconds=9)


def test_ragged_batches(clips):
    (batch,) = DataLoader(clips, len(clips), collate_fn=collate_ragged)
    assert batch["lengths"].tolist() == SECONDS
    assert batch["embedding"].dtype == torch.uint8
    parts = batch["embedding"].split(batch["lengths"].tolist())
    for part, record in zip(parts, RECORDS, strict=True):
        assert torch.equal(part, torch.from_numpy(record.embedding))
    padded = collate_padded([clips[i] for i in range(len(clips))])
    assert torch.equal(padded["embedding"][padded["mask"]], batch["embedding"])
    assert torch.equal(padded["target"], batch["target"])


def test_a_partial_collate_passes_to_workers(clips):
    loader = DataLoader(clips, 8, collate_fn=partial(collate_padded, seconds=11), num_workers=1)
    assert [batch["embedding"].shape[:2] for batch in loader] == [(8, 11), (7, 11)]
