"""Scores in real trainings."""

import numpy as np
import pytest
import torch
from fad_training import RATE, Generator, fit, make_clips
from folders import TESTS
from processes import run_processes
from tones import make_trainer
from torch.utils.data import DataLoader

from vggish_hf import VGGishPipeline
from vggish_hf.lightning import FADCallback
from vggish_hf.metrics import (
    ClipEmbedder,
    SmallSampleWarning,
    embed_set,
    frechet_audio_distance,
)

pytestmark = [
    # Lightning asks torch in a way that torch deprecates
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # a few clips in memory need none
    pytest.mark.filterwarnings(r"ignore:The '\w+_dataloader' does not have many workers"),
]

COUNT = 70  # with two examples each, more than an embedding has dimensions


@pytest.fixture
def pipe(lively_model_folder):
    return VGGishPipeline.from_pretrained(lively_model_folder)


@pytest.fixture
def clips():
    return make_clips(COUNT)


@pytest.fixture
def real(pipe, clips):
    """The statistics of the same clips, with a tone."""
    tone = torch.sin(torch.arange(clips.shape[1]) / 5) / 4
    return embed_set([(clip + tone, RATE) for clip in clips], ClipEmbedder(pipe)).statistics


@pytest.fixture
def expected(pipe, clips, real):
    return distance(real, clips, pipe)


def distance(real, clips, pipe):
    return frechet_audio_distance(real, [(clip, RATE) for clip in clips], model=pipe).score


def test_each_epoch(pipe, real, clips, expected):
    callback = FADCallback(real, pipe, sampling_rate=RATE)
    assert fit(callback, clips, epochs=2) == [pytest.approx(expected, rel=1e-4)] * 2
    assert expected > 1


@pytest.mark.slow
def test_every_n_epochs(lively_model_folder, real, clips, expected, tmp_path):
    real.save(tmp_path / "real.npz")
    callback = FADCallback(
        tmp_path / "real.npz", lively_model_folder, sampling_rate=RATE, every_n_epochs=2
    )
    found = fit(callback, clips, epochs=5)
    score = pytest.approx(expected, rel=1e-4)
    assert found == [None, score, None, score, None]


@pytest.mark.slow
def test_validation_alone(pipe, real, clips, expected):
    callback = FADCallback(real, pipe, sampling_rate=RATE, every_n_epochs=9, name="distance")
    trainer = make_trainer(callbacks=[callback])
    (logged,) = trainer.validate(Generator(), DataLoader(clips, batch_size=4), verbose=False)
    assert logged == {"distance": pytest.approx(expected, rel=1e-4)}


def test_the_sanity_check_scores_nothing(pipe, real, clips):
    callback = FADCallback(real, pipe, sampling_rate=RATE)
    seen = []
    callback._find_waveforms = lambda *_: seen.append(1)
    trainer = make_trainer(callbacks=[callback], num_sanity_val_steps=2, max_steps=0)
    loader = DataLoader(clips, batch_size=4)
    trainer.fit(Generator(), loader, loader)
    assert not seen


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Generator((-1, 1, 2 * RATE)), {}),
        pytest.param(Generator(key="audio"), {"waveforms": "audio"}, marks=pytest.mark.slow),
        pytest.param(
            Generator(key="none"),
            {"waveforms": lambda module, outputs, batch: list(batch)},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            Generator(key="x"),
            {"waveforms": lambda module, outputs, batch: outputs[module.key]},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_where_the_waveforms_are(module, options, pipe, real, clips, expected):
    callback = FADCallback(real, pipe, sampling_rate=RATE, **options)
    assert fit(callback, clips, module=module) == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.slow
def test_several_channels(pipe, real):
    stereo = make_clips(2 * COUNT).reshape(-1, 2, RATE)
    callback = FADCallback(real, pipe, sampling_rate=RATE)
    found = fit(callback, stereo, module=Generator((-1, 2, RATE)))
    assert found == [pytest.approx(distance(real, stereo, pipe), rel=1e-4)]


@pytest.mark.slow
def test_training_in_half_precision(pipe, real, clips, expected):
    class Half(Generator):
        def validation_step(self, batch):
            return {"waveform": batch.bfloat16()}

    callback = FADCallback(real, pipe, sampling_rate=RATE)
    (found,) = fit(callback, clips, module=Half(), precision="bf16-mixed")
    assert found == pytest.approx(distance(real, clips.bfloat16(), pipe), rel=1e-4)
    assert callback.metric.embedder.pipeline.model.dtype == torch.float32


@pytest.mark.slow
def test_a_preset(pipe, real, clips):
    google = embed_set([(clip, RATE) for clip in clips], ClipEmbedder(pipe, "google")).statistics
    with pytest.raises(ValueError, match=r"embedded differently(.|\n)*preset.peak_floor"):
        FADCallback(google, pipe, sampling_rate=RATE)
    callback = FADCallback(google, pipe, sampling_rate=RATE, preset="google")
    assert fit(callback, clips) == [pytest.approx(0, abs=1e-6)]
    assert len(fit(FADCallback(google, pipe, sampling_rate=RATE, force=True), clips)) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_examples_are_not_logged(count, pipe, real, recwarn):
    one_second = [torch.zeros(RATE)]
    callback = FADCallback(real, pipe, sampling_rate=RATE, waveforms=lambda *_: one_second[:count])
    assert fit(callback, torch.zeros(1, 4), epochs=3, module=Generator((1, -1))) == [None] * 3
    (warning,) = [w for w in recwarn if w.category is SmallSampleWarning]
    message = str(warning.message)
    assert message.startswith("val_fad is not logged: expected at least 2 examples of generated ")
    assert f"got {count};" in message


def test_few_examples_are_logged_with_a_warning(pipe, real, clips, recwarn):
    found = fit(FADCallback(real, pipe, sampling_rate=RATE), clips[:9], epochs=3)
    assert found == [pytest.approx(distance(real, clips[:9], pipe), rel=1e-4)] * 3
    (warning,) = [w for w in recwarn if w.category is SmallSampleWarning]
    assert "val_fad: 18 examples of 128 dimensions: the covariance is singular" in str(
        warning.message
    )


def test_errors(pipe, real, clips):
    with pytest.raises(ValueError, match="`every_n_epochs` of at least 1, got 0"):
        FADCallback(real, pipe, sampling_rate=RATE, every_n_epochs=0)
    with pytest.raises(ValueError, match="positive whole number of Hz"):
        FADCallback(real, pipe, sampling_rate=0)
    callback = FADCallback(real, pipe, sampling_rate=RATE)
    with pytest.raises(ValueError, match=r"a dict with 'waveform', .*, got \['audio'\]; return it"):
        fit(callback, clips, module=Generator(key="audio"))
    broken = torch.full_like(clips, torch.nan)
    with pytest.raises(ValueError, match="finite"):
        fit(callback, broken)


def test_nothing_else_changes(pipe, real, clips):
    """Neither what a checkpoint holds, nor a model's randomness."""
    callback = FADCallback(real, pipe, sampling_rate=RATE)
    assert callback.state_dict() == {}
    drawn = []
    for callbacks in ([callback], []):
        torch.manual_seed(0)
        trainer = make_trainer(callbacks=callbacks)
        trainer.validate(Generator(), DataLoader(clips, batch_size=4), verbose=False)
        drawn.append(torch.rand(1))
    assert drawn[0] == drawn[1]


@pytest.mark.slow
@pytest.mark.parametrize("count", [COUNT, COUNT + 1])
def test_two_processes_score_as_one(count, lively_model_folder, pipe, real, tmp_path):
    """Of an odd number, Lightning gives one clip to both."""
    real.save(tmp_path / "real.npz")
    script = """
        import sys, warnings

        import torch

        sys.path.append(sys.argv[1])
        from fad_training import RATE, fit, make_clips
        from vggish_hf.lightning import FADCallback

        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is", FutureWarning)
        warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
        callback = FADCallback(sys.argv[2], sys.argv[3], sampling_rate=RATE)
        clips = make_clips(int(sys.argv[4]))
        print(*fit(callback, clips, epochs=2, strategy="ddp", devices=2))
        torch.distributed.destroy_process_group()  # else torch may abort when it exits
    """
    arguments = (TESTS, tmp_path / "real.npz", lively_model_folder, count)
    outputs = run_processes(script, *arguments)
    expected = distance(real, make_clips(count), pipe)
    for output in outputs:
        assert np.allclose([float(score) for score in output.split()], [expected] * 2, rtol=1e-4)
        assert len(output.split()) == 2
