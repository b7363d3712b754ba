"""Maps and matrices, read back from the figures."""

import io

import pytest
import torch
from matplotlib.colors import to_rgba

from vggish_hf.plotting import draw_confusion, draw_map, project_to_plane

CLASSES = ["dog", "_hidden", r"$\cash$"]


def draw(figure):
    """Render, as saving does: what matplotlib refuses or warns of appears only now."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


class TestProjection:
    def test_a_plane_is_kept(self, generator):
        plane = torch.randn(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([3, 1])
        axes = torch.linalg.qr(torch.randn(8, 2, generator=generator, dtype=torch.float64)).Q
        points, shares = project_to_plane(plane @ axes.mT + 5)
        distances, expected = torch.cdist(points, points), torch.cdist(plane, plane)
        assert torch.allclose(distances, expected, atol=1e-6)
        assert shares.sum().item() == pytest.approx(1)
        assert torch.allclose(points.var(0) / points.var(0).sum(), shares)
        assert shares[0] > shares[1]

    def test_axes_point_to_their_largest_weight(self, generator):
        for scale in (1, -1):
            embeddings = scale * torch.randn(50, 8, generator=generator) * torch.arange(1, 9)
            points, _ = project_to_plane(embeddings)
            weights = (embeddings - embeddings.mean(0)).double().mT @ points
            assert (weights.gather(0, weights.abs().argmax(0, keepdim=True)) > 0).all()

    @pytest.mark.parametrize("shape", [(1, 5), (2, 5), (5, 1), (1, 1)])
    def test_hardly_anything(self, shape, generator):
        points, shares = project_to_plane(torch.randn(shape, generator=generator))
        assert points.shape == (shape[0], 2)
        assert shares.shape == (2,)
        assert torch.isfinite(points).all()
        assert torch.isfinite(shares).all()

    def test_all_in_one_place(self):
        points, shares = project_to_plane(torch.ones(4, 3))
        assert not points.any()
        assert not shares.any()


class TestMap:
    def test_points_have_their_class(self, generator):
        embeddings = torch.randn(30, 4, generator=generator)
        labels = torch.randint(-1, 3, (30,), generator=generator)
        figure = draw_map(embeddings, labels, CLASSES, "epoch 3")
        (axes,) = figure.axes
        assert axes.get_title() == "epoch 3"
        points, shares = project_to_plane(embeddings)
        drawn = {group.get_label().strip(): group.get_offsets().data for group in axes.collections}
        assert drawn.keys() == {"none", *CLASSES}
        for label, name in enumerate(["none", *CLASSES], start=-1):
            assert torch.allclose(torch.from_numpy(drawn[name]), points[labels == label])
        texts = [text.get_text().strip() for text in axes.get_legend().get_texts()]
        assert texts == ["none", *CLASSES]
        colours = [tuple(group.get_facecolor()[0]) for group in axes.collections]
        assert colours[0] == to_rgba("grey")
        assert len(set(colours)) == 4
        assert f"{shares[0]:.0%}" in axes.get_xlabel()
        draw(figure)

    def test_colours_stay_when_a_class_is_missing(self, generator):
        embeddings = torch.randn(2, 4, generator=generator)

        def colour_of_the_last(labels):
            axes = draw_map(embeddings, torch.tensor(labels), CLASSES, "").axes[0]
            return tuple(axes.collections[-1].get_facecolor()[0])

        assert colour_of_the_last([0, 2]) == colour_of_the_last([2, 2])

    @pytest.mark.slow
    def test_very_many_classes_have_no_legend(self, generator):
        embeddings = torch.randn(200, 4, generator=generator)
        classes = [f"class {i}" for i in range(527)]
        figure = draw_map(embeddings, torch.randperm(527)[:200], classes, "")
        assert figure.axes[0].get_legend() is None
        colours = {tuple(group.get_facecolor()[0]) for group in figure.axes[0].collections}
        assert len(colours) > 150
        draw(figure)

    @pytest.mark.parametrize("finite", [0, 1, 5])
    def test_a_training_that_diverged(self, finite, generator):
        embeddings = torch.randn(6, 4, generator=generator)
        embeddings[finite:, 0] = torch.nan
        figure = draw_map(embeddings, torch.zeros(6, dtype=torch.int64), CLASSES, "")
        assert sum(len(group.get_offsets()) for group in figure.axes[0].collections) == finite
        draw(figure)


class TestConfusion:
    def test_values(self):
        confusion = torch.tensor([[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [torch.nan] * 3])
        figure = draw_confusion(confusion, CLASSES, "epoch 3")
        axes = figure.axes[0]
        assert axes.get_title() == "epoch 3"
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
        image = torch.from_numpy(axes.images[0].get_array().filled(torch.nan))
        assert torch.allclose(image, confusion, equal_nan=True)
        assert [tick.get_text() for tick in axes.get_xticklabels()] == CLASSES
        assert [tick.get_text() for tick in axes.get_yticklabels()] == CLASSES
        texts = {text.get_position(): text.get_text() for text in axes.texts}
        assert texts[0, 0] == "75%"
        assert texts[1, 0] == "25%"
        assert len(texts) == 6
        draw(figure)

    @pytest.mark.parametrize("count", [pytest.param(40, marks=pytest.mark.slow), 41, 527])
    def test_names_only_where_there_is_room(self, count):
        classes = [f"class {i}" for i in range(count)]
        figure = draw_confusion(torch.eye(count), classes, "")
        named = [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == classes
        assert named == (count <= 40)
        assert not figure.axes[0].texts
        draw(figure)
