import os

import matplotlib.image
import numpy as np
import pytest

from vggish_hf.plotting import check_picture, draw_scores


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow), 400])
def test_scores(count, tmp_path):
    # A formula that is none, a letter that the font has not, a long name.
    names = [r"a$\frac$b.wav", "音.wav", "folder/" * 20 + "c.wav"]
    scores = [(names[i % 3], float(i**2)) for i in range(count)]
    draw_scores(tmp_path / "scores.PNG", scores, "a $title")
    picture = matplotlib.image.imread(tmp_path / "scores.PNG", format="png")
    assert np.ptp(picture) > 0.5
    assert os.listdir(tmp_path) == ["scores.PNG"]


@pytest.mark.parametrize("name", ["a.pdf", "b.svg"])
def test_formats(name, tmp_path):
    draw_scores(tmp_path / name, [("a", 1.0)], "title")
    assert (tmp_path / name).stat().st_size > 1000


def test_no_scores(tmp_path):
    with pytest.raises(ValueError, match="at least one clip with a score to draw, got none"):
        draw_scores(tmp_path / "a.png", [], "title")
    with pytest.raises(ValueError, match=r"ends in one of .*png.*, got 'a.wav'"):
        check_picture("a.wav")
    assert not os.listdir(tmp_path)
