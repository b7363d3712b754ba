"""Which clips are kept, and how classes are confused."""

import pytest
import torch
from processes import run_processes

from vggish_hf.lightning.clip_sample import ClipSample


def make_sample(task="single_label", max_clips=10, **options):
    return ClipSample(task, max_clips, embedding_size=2, num_classes=3, **options)


def batches(count, size, generator):
    """Batches whose embeddings say which clip, and of which class, they are."""
    for start in range(0, count, size):
        labels = torch.randint(3, (size,), generator=generator)
        number = torch.arange(start, start + size)
        embeddings = torch.stack((number, labels), dim=1).float()
        logits = torch.randn(size, 3, generator=generator)
        yield embeddings, logits, torch.eye(3)[labels]


def test_support():
    sample = make_sample()
    sample.add(torch.zeros(3, 2), torch.eye(3), torch.eye(3)[[0, 2, 2]])
    assert sample.support() == [1, 0, 2]


def test_few_clips_are_all_kept(generator):
    sample = make_sample()
    for batch in batches(8, 4, generator):
        sample.add(*batch)
    assert sorted(sample.embeddings[:, 0].tolist()) == list(range(8))
    assert torch.equal(sample.embeddings[:, 1], sample.labels.float())


@pytest.mark.slow
def test_of_many_clips_each_is_kept_as_often(generator):
    # The mean number of a uniform sample of 0 to 999 is 499.5, its deviation 288.7 / sqrt(5000).
    kept = []
    for seed in range(100):
        sample = make_sample(max_clips=50, seed=seed)
        for batch in batches(1000, 20, generator):
            sample.add(*batch)
        assert len(sample.labels) == len(sample.embeddings) == 50
        assert torch.equal(sample.embeddings[:, 1], sample.labels.float())
        kept.append(sample.embeddings[:, 0])
    kept = torch.cat(kept)
    assert abs(kept.mean() - 499.5) < 4 * 288.7 / 5000**0.5
    counts = kept.long().bincount(minlength=1000)
    assert (counts[:500].sum() - 2500).abs() < 4 * (5000 * 0.25) ** 0.5


def test_a_seed_is_repeatable_and_disturbs_nothing():
    torch.manual_seed(0)
    expected = torch.rand(3)
    samples = []
    for _ in range(2):
        torch.manual_seed(0)
        sample = make_sample(max_clips=5)
        for batch in batches(100, 10, torch.Generator().manual_seed(1)):
            sample.add(*batch)
        samples.append(sample.embeddings)
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(*samples)


def test_confusion_of_a_single_label():
    sample = make_sample(max_clips=1)
    logits = torch.eye(3)[[0, 0, 1, 2]]
    sample.add(torch.zeros(4, 2), logits, torch.eye(3)[[0, 1, 1, 1]])
    found = sample.confusion()
    third = 1 / 3
    assert torch.allclose(found[:2], torch.tensor([[1.0, 0.0, 0.0], [third, third, third]]))
    assert torch.isnan(found[2]).all()


def test_confusion_of_many_labels(generator):
    sample = make_sample("multi_label")
    logits = torch.randn(7, 3, generator=generator)
    target = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]])[[0, 1, 2, 3, 1, 0, 3]]
    for part in (slice(3), slice(3, 7)):
        sample.add(torch.zeros(7, 2)[part], logits[part], target[part].float())
    for k, row in enumerate(sample.confusion()):
        assert torch.allclose(row, logits[target[:, k] == 1].sigmoid().mean(0))
    assert sorted(sample.labels.tolist()) == [-1, 0, 0, 0, 0, 2, 2]


@pytest.mark.slow
def test_two_processes(tmp_path):
    script = """
        import sys, torch
        from vggish_hf.lightning.clip_sample import ClipSample
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
        sample = ClipSample("single_label", 30, embedding_size=2, num_classes=2, seed=rank)
        count = 10 if rank else 40
        labels = torch.full((count,), rank)
        embeddings = torch.stack((torch.arange(count), labels), dim=1).float()
        sample.add(embeddings, torch.zeros(count, 2), torch.eye(2)[labels])
        sample.gather()
        torch.save((sample.embeddings, sample.labels, sample.confusion()), sys.argv[1] + str(rank))
        torch.distributed.destroy_process_group()
    """
    run_processes(script, tmp_path / "sample")
    first, second = (torch.load(tmp_path / f"sample{rank}") for rank in (0, 1))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    embeddings, labels, confusion = first
    assert len(labels) == 30
    assert torch.equal(embeddings[:, 1], labels.float())
    assert {0, 1} == set(labels.tolist())
    assert confusion.tolist() == [[1, 0], [1, 0]]
