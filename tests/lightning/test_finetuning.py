"""Block by block: what learns when, at which rate, and that an interruption changes nothing."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from folders import TESTS
from lightning.pytorch.callbacks import BackboneFinetuning
from processes import run_processes
from tones import CLASSES, TINY, load, make_tones, make_trainer

from vggish_hf.lightning import HeadConfig, VGGishClassifier, VGGishFinetuning
from vggish_hf.lightning.finetuning import BLOCKS
from vggish_hf.training.schedule import WarmupCosine

pytestmark = [
    # Lightning asks torch in a way that torch deprecates
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # a few clips in memory need none
    pytest.mark.filterwarnings(r"ignore:The '\w+_dataloader' does not have many workers"),
]

RATE = 0.01
STEPS = 3  # of an epoch


def make_classifier():
    torch.manual_seed(0)
    head = HeadConfig("mlp", hidden_size=8)
    return VGGishClassifier(CLASSES, config=TINY, head=head, learning_rate=RATE, warmup_steps=2)


@pytest.fixture
def clips(generator):
    return load(make_tones(4 * STEPS, generator), 4)


class Watch(pl.Callback):
    """Notes each step's learning rates, and which layers have changed in each epoch."""

    def __init__(self):
        self.rates, self.changed = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.before = copy.deepcopy(pl_module.state_dict())

    def on_train_batch_start(self, trainer, *_):
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_epoch_end(self, trainer, pl_module):
        after = pl_module.state_dict()
        changed = {name for name in after if not torch.equal(after[name], self.before[name])}
        self.changed.append({name.split(".")[1] for name in changed if "backbone" in name})
        assert any("head" in name for name in changed)


def fit(classifier, clips, *callbacks, epochs, **options):
    watch = Watch()
    trainer = make_trainer(max_epochs=epochs, callbacks=[*callbacks, watch])
    trainer.fit(classifier, clips, clips, **options)
    return trainer, watch


def schedule_factors(epochs):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = WarmupCosine(optimizer, 2, epochs * STEPS)
    return [schedule.factor(step) for step in range(epochs * STEPS)]


def layers_of(num_blocks):
    return {layer for block in BLOCKS[:num_blocks] for layer in block}


def test_blocks_are_the_whole_network():
    layers = [layer for block in BLOCKS for layer in block]
    model = make_classifier().backbone
    assert sorted(layers) == sorted(name for name, _ in model.named_children())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 5]),
        pytest.param({"first_epoch": 0}, [1, 2, 3, 4, 5], marks=pytest.mark.slow),
        pytest.param(
            {"first_epoch": 2, "epochs_per_block": 0}, [0, 0, 5, 5], marks=pytest.mark.slow
        ),
        pytest.param(
            {"epochs_per_block": 2, "num_blocks": 2}, [0, 1, 1, 2, 2, 2], marks=pytest.mark.slow
        ),
        pytest.param({"num_blocks": 0}, [0, 0, 0], marks=pytest.mark.slow),
    ],
)
def test_what_learns_when_and_how_fast(options, expected, clips):
    epochs = len(expected)
    finetuning = VGGishFinetuning(**options, learning_rate_factor=0.3)
    _, watch = fit(make_classifier(), clips, finetuning, epochs=epochs)
    assert watch.changed == [layers_of(count) for count in expected]
    factors = schedule_factors(epochs)
    for step, rates in enumerate(watch.rates):
        count = expected[step // STEPS]
        head = RATE * factors[step]
        assert rates == pytest.approx([head] + count * [0.3 * head]), step


@pytest.mark.slow
def test_frozen_layers_need_no_gradient(clips):
    classifier = make_classifier()
    trainer, _ = fit(classifier, clips, VGGishFinetuning(num_blocks=2), epochs=4)
    for name, parameter in classifier.backbone.named_parameters():
        learns = name.split(".")[0] in layers_of(2)
        assert parameter.requires_grad == learns
        assert (parameter in trainer.optimizers[0].state) == learns


class Save(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("interrupted_after", [0, 1, 2, 4])
def test_resumed_as_never_interrupted(interrupted_after, clips, tmp_path):
    whole = make_classifier()
    trainer, watch = fit(whole, clips, VGGishFinetuning(), Save(tmp_path), epochs=7)
    resumed = make_classifier()
    path = tmp_path / f"{interrupted_after}.ckpt"
    again, resumed_watch = fit(
        resumed, clips, VGGishFinetuning(), epochs=7, ckpt_path=path, weights_only=True
    )
    assert resumed_watch.rates == watch.rates[(interrupted_after + 1) * STEPS :]
    assert resumed_watch.changed == watch.changed[interrupted_after + 1 :]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    groups, again_groups = (t.optimizers[0].param_groups for t in (trainer, again))
    assert len(again_groups) == len(groups) == 6
    for group, other in zip(groups, again_groups, strict=True):
        assert len(group.pop("params")) == len(other.pop("params"))
        assert group == other


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_resumed_in_the_middle_of_an_epoch(clips, tmp_path):
    # Lightning starts no epoch then, and would leave frozen what had begun to learn.
    class SaveInside(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2 * STEPS + 1:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")

    fit(make_classifier(), clips, VGGishFinetuning(), SaveInside(), epochs=4)
    classifier = make_classifier()

    class Compare(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.current_epoch == 2:
                learning = {
                    name.split(".")[0]
                    for name, parameter in classifier.backbone.named_parameters()
                    if parameter.requires_grad
                }
                assert learning == layers_of(2)
                assert len(trainer.optimizers[0].param_groups) == 3

    trainer = make_trainer(max_epochs=4, callbacks=[VGGishFinetuning(), Compare()])
    trainer.fit(classifier, clips, clips, ckpt_path=tmp_path / "inside.ckpt", weights_only=True)
    assert len(trainer.optimizers[0].param_groups) == 4


@pytest.mark.slow
def test_two_trainings_with_one_callback(clips, tmp_path):
    finetuning = VGGishFinetuning()
    fit(make_classifier(), clips, finetuning, epochs=3)
    fit(make_classifier(), clips, finetuning, Save(tmp_path), epochs=3)
    state = torch.load(tmp_path / "2.ckpt", weights_only=True)
    (metadata,) = state["callbacks"]["VGGishFinetuning"]["internal_optimizer_metadata"].values()
    assert len(metadata) == len(state["optimizer_states"][0]["param_groups"]) == 3


def test_layers_of_equal_values_all_learn(clips):
    # Lightning's own way to add parameters leaves out those that are equal to others.
    classifier = make_classifier()
    for layer in ("conv3_1", "conv3_2", "conv4_1", "conv4_2"):
        torch.nn.init.zeros_(getattr(classifier.backbone, layer).bias)
    trainer, _ = fit(classifier, clips, VGGishFinetuning(0, epochs_per_block=0), epochs=1)
    groups = trainer.optimizers[0].param_groups
    assert [len(group["params"]) for group in groups] == [4, 6, 4, 4, 2, 2]


def test_lightnings_own_finetuning(clips):
    finetuning = BackboneFinetuning(
        unfreeze_backbone_at_epoch=2, backbone_initial_lr=1e-4, lambda_func=lambda epoch: 1.5
    )
    _, watch = fit(make_classifier(), clips, finetuning, epochs=5)
    assert watch.changed == [set(), set(), *[layers_of(5)] * 3]
    factors = schedule_factors(5)
    for step, (head, *backbone) in enumerate(watch.rates):
        assert head == pytest.approx(RATE * factors[step])
        epoch = step // STEPS
        # What the callback says, at most the head's rate at the start of the epoch.
        most = RATE * factors[epoch * STEPS]
        expected = [min(1e-4 * 1.5 ** (epoch - 2), most)] if epoch >= 2 else []
        assert backbone == pytest.approx(expected)


def test_it_needs_a_network(clips):
    with pytest.raises(ValueError, match="a VGGishModel as its `backbone`, got NoneType; VGGishCl"):
        fit(VGGishClassifier(CLASSES), clips, VGGishFinetuning(), epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_epoch": -1}, "`epochs_per_block` of at least 0, got -1 and 1"),
        ({"epochs_per_block": -1}, "`epochs_per_block` of at least 0, got 1 and -1"),
        ({"num_blocks": 6}, "`num_blocks` from 0 to 5, got 6"),
        ({"num_blocks": -1}, "`num_blocks` from 0 to 5, got -1"),
        ({"learning_rate_factor": 0}, "`learning_rate_factor` to be positive, got 0"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        VGGishFinetuning(**options)


@pytest.mark.slow
def test_two_processes_learn_the_same(tmp_path, generator):
    torch.save(make_tones(16, generator), tmp_path / "clips.pt")
    script = """
        import sys, warnings
        import torch

        sys.path.append(sys.argv[2])
        from tones import CLASSES, TINY, load, make_trainer
        from vggish_hf.lightning import VGGishClassifier, VGGishFinetuning

        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is", FutureWarning)
        warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
        clips = torch.load(sys.argv[1], weights_only=True)
        devices, batch_size = int(sys.argv[3]), int(sys.argv[4])

        class Classifier(VGGishClassifier):
            def configure_optimizers(self):  # AdamW would make up for gradients of another scale
                return torch.optim.SGD(self.head.parameters(), lr=1.0)

        torch.manual_seed(0)
        classifier = Classifier(CLASSES, config=TINY)
        finetuning = VGGishFinetuning(epochs_per_block=0)
        trainer = make_trainer(
            strategy="ddp", devices=devices, max_epochs=2, callbacks=[finetuning]
        )
        trainer.fit(classifier, *[load(clips, batch_size)] * 2)
        torch.save(classifier.state_dict(), f"{sys.argv[1]}.{devices}.{trainer.global_rank}")
    """
    tests = TESTS
    run_processes(script, tmp_path / "clips.pt", tests, 2, 4)
    run_processes(script, tmp_path / "clips.pt", tests, 1, 8, count=1)
    first, second, alone = (
        torch.load(tmp_path / f"clips.pt.{name}", weights_only=True)
        for name in ("2.0", "2.1", "1.0")
    )
    torch.manual_seed(0)
    initial = VGGishClassifier(CLASSES, config=TINY).state_dict()
    for name, value in first.items():
        assert torch.equal(second[name], value), name
        # Both see the same clips at each step, in another order.
        moved = (alone[name] - initial[name]).norm()
        assert moved > 0, name
        assert (value - alone[name]).norm() < 1e-3 * moved, name
