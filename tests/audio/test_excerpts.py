"""Excerpts of files: their limits, and what is read to find them."""

import numpy as np
import pytest
import soundfile
import torch

from vggish_hf.audio import AudioError, AudioLimits, excerpts
from vggish_hf.audio.excerpts import Excerpt
from vggish_hf.audio.sources import open_excerpt

RATE = 8000


@pytest.fixture
def path(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    return tmp_path / "a.wav"


def read(path, excerpt, limits):
    return torch.cat(list(open_excerpt(path, excerpt, limits).blocks))


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_the_limit_is_of_the_excerpt_and_not_of_the_file(path, place):
    limits = AudioLimits(max_seconds=3)
    assert len(read(path, Excerpt(2, place, 10), limits)) == 2 * RATE
    with pytest.raises(AudioError, match="3 seconds"):
        read(path, Excerpt(4, place, 10), limits)


def test_a_file_is_searched_once_until_it_changes(path, monkeypatch):
    searched = []
    find_streams = excerpts.find_streams
    monkeypatch.setattr(
        excerpts, "find_streams", lambda file: searched.append(file) or find_streams(file)
    )
    found = [read(path, Excerpt(1, place), AudioLimits()) for place in (0.2, 0.9, 0.2)]
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert len(searched) == 1
    soundfile.write(path, np.full(5 * RATE, 0.25), RATE)
    assert torch.all(read(path, Excerpt(1, 0.2), AudioLimits()) == 0.25)
    assert len(searched) == 2
