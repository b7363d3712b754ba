"""Pictures in real trainings, as the loggers keep them."""

import sys
from pathlib import Path

import lightning.pytorch as pl
import matplotlib.image
import numpy as np
import pytest
import torch
from folders import TESTS
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from processes import run_processes
from tones import CLASSES, TINY, load, make_tones, make_trainer

from vggish_hf.lightning import EmbeddingProjector, VGGishClassifier
from vggish_hf.plotting import draw_confusion

pytestmark = [
    # Lightning asks torch in a way that torch deprecates
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # a few clips in memory need none
    pytest.mark.filterwarnings(r"ignore:The '\w+_dataloader' does not have many workers"),
]


@pytest.fixture
def clips(generator):
    return make_tones(9, generator)


def make_classifier(task="single_label"):
    torch.manual_seed(0)
    return VGGishClassifier(CLASSES, task, config=TINY)


def fit(clips, *callbacks, task="single_label", epochs=1, **options):
    trainer = make_trainer(
        max_epochs=epochs, callbacks=list(callbacks), log_every_n_steps=1, **options
    )
    trainer.fit(make_classifier(task), load(clips, 4), load(clips, 4))
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_beside_the_metrics(task, clips, tmp_path):
    logger = CSVLogger(tmp_path)
    fit(clips, EmbeddingProjector(2), task=task, epochs=5, logger=logger)
    folder = Path(logger.log_dir)
    assert (folder / "metrics.csv").exists()
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert pictures == [
        f"{name}-{epoch:04d}.png" for name in ("confusion", "embeddings") for epoch in (1, 3)
    ]
    for name in pictures:
        picture = matplotlib.image.imread(folder / name)
        assert picture.shape[0] > 300
        assert np.ptp(picture) > 0.5
    assert not list(folder.glob(".*"))


def test_a_class_is_named_with_its_number_of_clips(clips, monkeypatch, tmp_path):
    drawn = []

    def draw(*arguments):
        drawn.append(draw_confusion(*arguments))
        return drawn[-1]

    monkeypatch.setattr("vggish_hf.lightning.projector.draw_confusion", draw)
    fit(clips[:1], EmbeddingProjector(), logger=CSVLogger(tmp_path))
    (figure,) = drawn
    found = int(clips[0]["target"].argmax())
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{name} ({int(i == found)})" for i, name in enumerate(CLASSES)
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == CLASSES


def test_a_step_of_ones_own_must_give_what_is_drawn(clips, tmp_path):
    class Silent(VGGishClassifier):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return None

    trainer = make_trainer(
        max_epochs=1,
        callbacks=[EmbeddingProjector()],
        logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
    )
    with pytest.raises(ValueError, match=r"`validation_step` to return a dict with .*, got None"):
        trainer.fit(Silent(CLASSES, config=TINY), load(clips, 4), load(clips, 4))


@pytest.mark.slow
def test_in_tensorboard(clips, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    fit(clips, EmbeddingProjector(), epochs=2, logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["confusion", "embeddings"]
    for name in ("confusion", "embeddings"):
        images = events.Images(name)
        assert [image.step for image in images] == [3, 6]
        assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in images)


@pytest.mark.slow
def test_both_loggers(clips, tmp_path):
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tensorboard")]
    fit(clips, EmbeddingProjector(), logger=loggers)
    assert len(list((tmp_path / "csv").rglob("*.png"))) == 2
    assert any((tmp_path / "tensorboard").rglob("events.out.*"))


class Samples(EmbeddingProjector):
    """Keeps what would be drawn."""

    def __init__(self, **options):
        super().__init__(**options)
        self.samples = []

    def on_validation_epoch_end(self, trainer, pl_module):
        if self._sample is not None:
            self.samples.append(self._sample)
        super().on_validation_epoch_end(trainer, pl_module)


def test_what_is_drawn(clips, tmp_path):
    projector = Samples()

    class Expected(pl.Callback):
        @torch.no_grad()
        def on_validation_end(self, trainer, pl_module):
            self.embeddings, self.labels, self.predicted = [], [], []
            for clip in clips:
                examples = pl_module.extractor(clip["waveform"], clip["sampling_rate"])
                embedding = pl_module.backbone(examples).mean(0)
                self.embeddings.append(embedding)
                self.labels.append(clip["target"].argmax())
                self.predicted.append(pl_module.head.classifier(embedding).argmax())

    expected = Expected()
    fit(clips, projector, expected, logger=CSVLogger(tmp_path))
    (sample,) = projector.samples
    embeddings, labels = torch.stack(expected.embeddings), torch.stack(expected.labels)
    found = torch.cat((sample.embeddings, sample.labels[:, None]), dim=1)
    wanted = torch.cat((embeddings, labels[:, None]), dim=1)
    distance = torch.cdist(found, wanted)
    assert (distance.min(0).values < 1e-4).all()
    assert len(found) == 9
    counts = torch.zeros(3, 3)
    for label, predicted in zip(expected.labels, expected.predicted, strict=True):
        counts[label, predicted] += 1
    assert torch.allclose(sample.confusion(), counts / counts.sum(1, keepdim=True))


@pytest.mark.slow
def test_points_are_bounded(clips, tmp_path):
    projector = Samples(max_clips=5)
    fit(clips, projector, epochs=2, logger=CSVLogger(tmp_path))
    assert [len(sample.labels) for sample in projector.samples] == [5, 5]


@pytest.mark.slow
def test_a_training_goes_the_same_way(clips, tmp_path):
    with_pictures = fit(clips, EmbeddingProjector(), epochs=2, logger=CSVLogger(tmp_path))
    without = fit(clips, epochs=2)
    for found, expected in zip(
        with_pictures.model.parameters(), without.model.parameters(), strict=True
    ):
        assert torch.equal(found, expected)


def test_only_in_training(clips, tmp_path):
    trainer = make_trainer(callbacks=[EmbeddingProjector()], logger=CSVLogger(tmp_path))
    trainer.validate(make_classifier(), load(clips), verbose=False)
    assert not list(tmp_path.rglob("*.png"))


def test_a_fast_run_draws_nothing(clips):
    fit(clips, EmbeddingProjector(), fast_dev_run=True)


def test_pyplot_is_left_alone(clips, tmp_path):
    import matplotlib.pyplot as plt

    fit(clips, EmbeddingProjector(), logger=CSVLogger(tmp_path))
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Expected a TensorBoardLogger or a CSVLogger, got none"),
        ({"logger": pl.loggers.logger.DummyLogger()}, "a CSVLogger, got DummyLogger"),
    ],
)
def test_it_needs_a_logger(options, message, clips):
    with pytest.raises(ValueError, match=message):
        fit(clips, EmbeddingProjector(), **options)


def test_it_needs_a_classifier(tmp_path):
    options = {"callbacks": [EmbeddingProjector()], "logger": CSVLogger(tmp_path)}
    trainer = make_trainer(max_epochs=1, **options)
    with pytest.raises(TypeError, match="Expected a VGGishClassifier, got BoringModel"):
        trainer.fit(BoringModel())


def test_it_needs_matplotlib(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'vggish-hf\[plot\]'"):
        fit(clips, EmbeddingProjector(), logger=CSVLogger(tmp_path))


@pytest.mark.parametrize("options", [{"every_n_epochs": 0}, {"max_clips": 0}])
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match="`every_n_epochs` and `max_clips` of at least 1, got"):
        EmbeddingProjector(**options)


@pytest.mark.slow
def test_two_processes_draw_once(clips, tmp_path):
    torch.save(clips, tmp_path / "clips.pt")
    script = """
        import sys, warnings
        import torch

        sys.path.append(sys.argv[2])
        from lightning.pytorch.loggers import CSVLogger
        from tones import CLASSES, TINY, load, make_trainer
        from vggish_hf.lightning import EmbeddingProjector, VGGishClassifier

        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is", FutureWarning)
        warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
        clips = torch.load(sys.argv[1], weights_only=True)

        class Samples(EmbeddingProjector):
            def _log(self, trainer, figures):
                groups = figures["embeddings"].axes[0].collections
                print(sum(len(group.get_offsets()) for group in groups))
                super()._log(trainer, figures)

        torch.manual_seed(0)
        trainer = make_trainer(
            strategy="ddp",
            devices=2,
            max_epochs=1,
            log_every_n_steps=1,
            callbacks=[Samples()],
            logger=CSVLogger(sys.argv[3]),
        )
        loader = load(clips[:8], 4)
        trainer.fit(VGGishClassifier(CLASSES, config=TINY), loader, loader)
    """
    logs = tmp_path / "logs"
    outputs = run_processes(script, tmp_path / "clips.pt", TESTS, logs)
    assert outputs == ["8\n", ""]
    assert len(list(logs.rglob("*.png"))) == 2
