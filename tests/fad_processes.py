"""What the processes of tests/test_metrics_audio_distance.py do."""

import torch

from vggish_hf.metrics import FrechetAudioDistance

SIZE = 8


def rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, SIZE, generator=generator) @ torch.randn(SIZE, SIZE)
    return mixed + seed


def batches():
    """Batches of both sets, of unequal sizes; some are empty."""
    torch.manual_seed(0)
    return [(rows(count, seed), seed % 2 == 0) for seed, count in enumerate((30, 50, 1, 7, 0, 90))]


def distances_of_shares(rank, shares):
    """For each share, the distance, and the count of this process before and after computing it."""
    return [_distance_of_share(rank, share) for share in shares]


def _distance_of_share(rank, share):
    metric = FrechetAudioDistance(embedding_size=SIZE)
    metric.update(torch.zeros(0, SIZE), real=True)  # a process without a batch says nothing new
    for process, (embeddings, real) in zip(share, batches(), strict=True):
        if process == rank:
            metric.update(embeddings, real)
    before = float(metric.fake_moments[-1, 0])
    distance = float(metric.compute())
    return distance, before, float(metric.fake_moments[-1, 0])
