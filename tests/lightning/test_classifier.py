"""The classifier: what it computes, that it learns, and that it comes back as it was."""

import json
import shutil
from typing import ClassVar

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch
from folders import TESTS
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import run_processes
from tones import CLASSES, TINY, load, make_tones, make_trainer
from torch.utils.data import DataLoader

from vggish_hf import VGGishConfig, VGGishFeatureConfig, VGGishPipeline
from vggish_hf.lightning import HeadConfig, VGGishClassifier, VGGishFinetuning
from vggish_hf.lightning._predictions import read_prediction
from vggish_hf.lightning.classified import TooShortError
from vggish_hf.modeling import VGGishPostprocessor
from vggish_hf.training.batches import collate_waveforms, extract_batch

pytestmark = [
    # Lightning asks torch in a way that torch deprecates
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # a few clips in memory need none
    pytest.mark.filterwarnings(r"ignore:The '\w+_dataloader' does not have many workers"),
]
# Where a graph ends, the compiler asks the next one's inputs for their gradient.
compiling = pytest.mark.filterwarnings(
    r"ignore:The \.grad attribute of a Tensor that is not a leaf"
)


def make_classifier(**options):
    torch.manual_seed(0)
    return VGGishClassifier(CLASSES, **{"config": TINY, **options})


def assert_same(found, expected):
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.fixture
def clips(generator):
    return make_tones(6, generator)


@pytest.fixture
def batch(clips):
    return collate_waveforms(clips)


@pytest.fixture
def embedding_batch(generator):
    mask = torch.arange(4) < torch.tensor([[4], [1], [3]])
    embedding = torch.randint(256, (3, 4, 128), generator=generator, dtype=torch.uint8)
    return {
        "id": ["a", "b", "c"],
        "embedding": embedding.masked_fill(~mask[..., None], 0),
        "mask": mask,
        "target": torch.eye(3),
    }


class TestForward:
    @torch.no_grad()
    @pytest.mark.parametrize("kind", ["linear", "mlp", "attention", "decision_attention"])
    def test_equals_clip_by_clip(self, kind, clips, batch):
        classifier = make_classifier(head=HeadConfig(kind, hidden_size=8)).eval()
        logits = classifier(batch)
        assert logits.shape == (6, 3)
        for clip, row in zip(clips, logits, strict=True):
            examples = classifier.extractor(clip["waveform"], clip["sampling_rate"])
            embeddings = classifier.backbone(examples)
            mask = torch.ones(1, len(embeddings), dtype=torch.bool)
            assert torch.allclose(row, classifier.head(embeddings[None], mask)[0], atol=1e-5)

    @torch.no_grad()
    def test_embeddings(self, embedding_batch):
        classifier = VGGishClassifier(CLASSES, postprocess="pca").eval()
        assert classifier.backbone is None
        logits = classifier(embedding_batch)
        rows = VGGishPostprocessor.dequantize(embedding_batch["embedding"])
        for row, mask, found in zip(rows, embedding_batch["mask"], logits, strict=True):
            expected = classifier.head.classifier(row[mask].mean(0))
            assert torch.allclose(found, expected, atol=1e-6)
        as_floats = {**embedding_batch, "embedding": rows}
        assert torch.equal(classifier(as_floats), logits)

    @torch.no_grad()
    def test_embeddings_pass_a_network_by(self, small_model_folder, embedding_batch):
        classifier = make_classifier(
            config=None, pretrained=str(small_model_folder), postprocess="pca"
        ).eval()
        head = VGGishClassifier(CLASSES, postprocess="pca").eval()
        head.head.load_state_dict(classifier.head.state_dict())
        assert torch.equal(classifier(embedding_batch), head(embedding_batch))

    def test_quantised_embeddings_of_another_type(self, embedding_batch):
        quantised = embedding_batch["embedding"]
        for postprocess in ("pca", "none"):
            classifier = VGGishClassifier(CLASSES, postprocess=postprocess).eval()
            for dtype in (torch.int64, torch.int16, torch.int8, torch.bool):
                batch = {**embedding_batch, "embedding": quantised.to(dtype)}
                with pytest.raises(ValueError, match=r"of floats or uint8, got torch.* as uint8"):
                    classifier(batch)
            for dtype in (torch.float32, torch.float64, torch.float16):
                batch = {**embedding_batch, "embedding": quantised.to(dtype)}
                with pytest.raises(ValueError, match="only whole numbers, up to 25"):
                    classifier(batch)
            for values in (torch.zeros(3, 4, 128), torch.full((3, 4, 128), 30.5)):
                classifier({**embedding_batch, "embedding": values})

    @torch.no_grad()
    def test_floats_of_any_width(self, embedding_batch):
        classifier = VGGishClassifier(CLASSES).eval()
        rows = torch.randn(3, 4, 128, dtype=torch.float64)
        expected = classifier({**embedding_batch, "embedding": rows.float()})
        for dtype in (torch.float64, torch.float16):
            found = classifier({**embedding_batch, "embedding": rows.to(dtype)})
            assert torch.allclose(found, expected, atol=1e-2)

    def test_released_embeddings_are_whitened(self, embedding_batch):
        with pytest.raises(ValueError, match="Expected postprocess='pca' for embeddings of uint8"):
            VGGishClassifier(CLASSES)(embedding_batch)

    def test_audio_needs_a_network(self, batch):
        with pytest.raises(ValueError, match="has no network for audio; pass `pretrained` or"):
            VGGishClassifier(CLASSES)(batch)

    def test_provenance_tells_front_ends_apart(self):
        plain, overlapping = (
            json.loads(json.dumps(make_classifier(feature_config=values).provenance()))
            for values in ({}, {"example_hop_seconds": 0.48})
        )
        assert plain.pop("feature_config") != overlapping.pop("feature_config")
        assert plain == overlapping

    def test_a_feature_config_of_some_fields_keeps_the_rest(self):
        classifier = make_classifier(feature_config={"example_hop_seconds": 0.48})
        assert classifier.extractor.config == VGGishFeatureConfig(
            example_hop_seconds=0.48, padding="short"
        )

    @torch.no_grad()
    def test_clips_without_an_example(self, clips):
        classifier = make_classifier(feature_config=VGGishFeatureConfig()).eval()
        short = {**clips[0], "waveform": torch.ones(100)}
        logits = classifier(collate_waveforms([short, clips[1]]))
        assert torch.allclose(logits[0], classifier.head.classifier.bias)
        (prediction,) = make_trainer().predict(classifier, load([short, clips[1]]))
        assert prediction["num_examples"][0] == 0
        assert prediction["scores"].isnan().all(1).tolist() == [True, False]
        assert torch.allclose(logits[1], classifier(collate_waveforms([clips[1]]))[0], atol=1e-6)
        assert torch.equal(classifier(collate_waveforms([short]))[0], logits[0])

    @torch.no_grad()
    def test_whitened_embeddings(self, small_model_folder, batch):
        options = {"config": None, "pretrained": str(small_model_folder)}
        classifier = make_classifier(**options, postprocess="pca").eval()
        examples, mask = extract_batch(classifier.extractor, batch)
        embeddings = classifier.backbone.postprocessor(classifier.backbone(examples))
        assert torch.allclose(classifier(batch), classifier.head(embeddings, mask), atol=1e-5)

    @torch.no_grad()
    def test_whitening_is_never_of_sixteen_bits(self, small_model_folder, batch):
        options = {"config": None, "pretrained": str(small_model_folder)}
        classifier = make_classifier(**options, postprocess="pca").eval()
        seen = []
        classifier.backbone.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
        classifier.head.register_forward_pre_hook(lambda _module, inputs: seen.extend(inputs))
        with torch.autocast("cpu", torch.bfloat16):
            classifier(batch)
        rows, embeddings, mask = seen
        expected = classifier.backbone.postprocessor(rows.float())
        assert torch.equal(embeddings[mask], expected)

    @torch.no_grad()
    def test_only_the_network_is_of_sixteen_bits(self, batch):
        classifier = make_classifier().eval()
        dtypes = []
        classifier.backbone.register_forward_hook(
            lambda module, inputs, output: dtypes.extend([inputs[0].dtype, output.dtype])
        )
        expected = classifier(batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = classifier(batch)
        assert dtypes == [torch.float32, torch.float32, torch.float32, torch.bfloat16]
        assert found.dtype == torch.float32
        assert torch.allclose(found, expected, atol=0.05)

    @compiling
    def test_compiled(self, batch):
        classifier = make_classifier().eval()
        compiled = torch.compile(classifier, backend="eager")
        assert torch.allclose(compiled(batch), classifier(batch), atol=1e-6)

    def test_every_layer_learns(self, batch):
        classifier = make_classifier()
        classifier(batch).square().sum().backward()
        assert all(parameter.grad.norm() > 0 for parameter in classifier.parameters())


class TestAugmentation:
    OPTIONS = (
        {"gain_db": 12.0},
        {"shift_seconds": 0.5},
        {"speed": 0.2},
        {"max_bands": 20},
        {"max_frames": 40},
    )

    @pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
    @torch.no_grad()
    def test_in_training_alone(self, options, batch):
        plain, augmented = make_classifier(), make_classifier(**options)
        assert_same(augmented, plain)
        assert not torch.allclose(augmented(batch), plain(batch), rtol=1e-4)
        augmented.eval()
        assert torch.equal(augmented(batch), plain.eval()(batch))

    @pytest.mark.parametrize("of_embeddings", [False, True])
    @torch.no_grad()
    def test_mixup(self, of_embeddings, batch, embedding_batch):
        network = {"config": None, "postprocess": "pca"} if of_embeddings else {}
        plain = make_classifier(**network)
        mixed = make_classifier(**network, mixup_alpha=1.0)
        losses = []
        for classifier in (plain, mixed):
            make_trainer().strategy.connect(classifier)
            classifier.log = lambda *args, **kwargs: None
            losses.append(classifier.training_step(embedding_batch if of_embeddings else batch, 0))
        assert losses[0] != losses[1]
        # A batch of a clip and itself is what it was, however it is mixed.
        same = embedding_batch if of_embeddings else batch
        same = {name: value[:1] for name, value in same.items()}
        assert torch.allclose(mixed.training_step(same, 0), plain.training_step(same, 0))


def fit(classifier, generator, *, labels=1, epochs=6, **options):
    trainer = make_trainer(max_epochs=epochs, **options)
    train = load(make_tones(96, generator, labels=labels), shuffle=True, generator=generator)
    trainer.fit(classifier, train, load(make_tones(24, generator, labels=labels)))
    return trainer


class TestTraining:
    def test_from_nothing(self, generator):
        classifier = make_classifier(batch_norm=True, learning_rate=1e-2, warmup_steps=6)
        before = make_trainer().validate(
            classifier, load(make_tones(24, generator)), verbose=False
        )[0]
        found = fit(classifier, generator).callback_metrics
        assert before["val_accuracy"] < 0.7
        assert found["val_accuracy"] >= 0.9
        assert found["val_loss"] < before["val_loss"] / 2
        assert found["train_loss"] < before["val_loss"] / 2
        names = ("loss", "mAP", "AUC", "d_prime", "F1", "accuracy")
        assert found.keys() == {"train_loss", *(f"val_{name}" for name in names)}

    def test_several_loaders(self, generator):
        first, second = make_tones(5, generator), make_tones(7, generator)
        classifier = make_classifier()
        loaders = [load(first), load(second)]
        trainer = make_trainer()
        found = trainer.validate(classifier, loaders, verbose=False)
        for number, clips in enumerate((first, second)):
            (alone,) = make_trainer().validate(classifier, load(clips), verbose=False)
            assert {f"{name}/dataloader_idx_{number}" for name in alone} <= set(
                map(str, trainer.callback_metrics)
            )
            for name, value in alone.items():
                key = f"{name}/dataloader_idx_{number}"
                assert trainer.callback_metrics[key].item() == pytest.approx(value, nan_ok=True)
        assert len(found) == 2
        make_trainer(max_epochs=1).fit(classifier, load(first), loaders)
        make_trainer().test(classifier, loaders, verbose=False)
        predicted = make_trainer().predict(classifier, loaders)
        assert [batch["id"] for loader in predicted for batch in loader] == [
            [clip["id"] for clip in clips] for clips in (first, second)
        ]

    @pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
    def test_sixteen_bits_for_all(self, generator, precision):
        clips = load(make_tones(3, generator))
        with pytest.raises(ValueError, match=f"'bf16-mixed', .* got '{precision}'"):
            make_trainer(max_epochs=1, precision=precision).fit(make_classifier(), clips, clips)

    def test_losses_are_means_over_clips(self, generator):
        clips = make_tones(5, generator)
        classifier = make_classifier(learning_rate=0.0, label_smoothing=0.2)
        trainer = make_trainer(max_epochs=1)
        trainer.fit(classifier, load(clips, 4), load(clips, 4))
        batch = collate_waveforms(clips)
        for name, smoothing in (("train_loss", 0.2), ("val_loss", 0.0)):
            expected = torch.nn.functional.cross_entropy(
                classifier(batch), batch["target"], label_smoothing=smoothing
            )
            assert trainer.callback_metrics[name].item() == pytest.approx(expected.item())

    @pytest.mark.slow
    def test_many_labels(self, generator):
        options = {"batch_norm": True, "learning_rate": 1e-2}
        head = HeadConfig("decision_attention", hidden_size=16)
        classifier = make_classifier(task="multi_label", head=head, **options)
        found = fit(classifier, generator, labels=2, epochs=8).callback_metrics
        assert found["val_mAP"] > 0.95
        assert found["val_AUC"] > 0.9
        assert "val_accuracy" not in found

    @pytest.mark.slow
    def test_with_everything(self, generator):
        classifier = make_classifier(
            batch_norm=True,
            learning_rate=1e-2,
            label_smoothing=0.1,
            mixup_alpha=0.3,
            gain_db=6.0,
            shift_seconds=0.3,
            speed=0.02,
            max_bands=8,
            max_frames=16,
        )
        trainer = fit(classifier, generator, epochs=8, precision="bf16-mixed")
        assert trainer.callback_metrics["val_accuracy"] >= 0.8
        tested = trainer.test(classifier, load(make_tones(24, generator)), verbose=False)[0]
        assert tested.keys() == {
            f"test_{name}" for name in ("loss", "mAP", "AUC", "d_prime", "F1", "accuracy")
        }
        assert tested["test_accuracy"] >= 0.8

    def test_a_head_on_embeddings(self, generator):
        centres = torch.randn(3, 128, generator=generator)
        batches = []
        for _ in range(20):
            labels = torch.randint(3, (16,), generator=generator)
            noise = torch.randn(16, 5, 128, generator=generator)
            mask = torch.arange(5) < torch.randint(1, 6, (16, 1), generator=generator)
            batches.append(
                {
                    "id": [""] * 16,
                    "embedding": centres[labels][:, None] + noise,
                    "mask": mask,
                    "target": torch.eye(3)[labels],
                }
            )
        classifier = VGGishClassifier(CLASSES, head=HeadConfig("attention", batch_norm=True))
        trainer = make_trainer(max_epochs=2)
        as_it_is = {"batch_size": None, "collate_fn": lambda batch: batch}
        trainer.fit(
            classifier, DataLoader(batches[:15], **as_it_is), DataLoader(batches[15:], **as_it_is)
        )
        assert trainer.callback_metrics["val_accuracy"] >= 0.95

    @pytest.mark.slow
    @compiling
    def test_compiled(self, generator):
        classifier = make_classifier()
        before = {name: value.clone() for name, value in classifier.state_dict().items()}
        compiled = torch.compile(classifier, backend="eager")
        clips = load(make_tones(3, generator), 3)
        make_trainer(max_epochs=1, num_sanity_val_steps=0).fit(compiled, clips, clips)
        assert any((value != before[name]).any() for name, value in classifier.state_dict().items())

    def test_the_learning_rate_at_each_step(self, generator):
        rates = []

        class Watch(pl.Callback):
            def on_train_batch_start(self, trainer, *_):
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        classifier = make_classifier(learning_rate=0.1, warmup_steps=2)
        trainer = make_trainer(max_epochs=2, callbacks=[Watch()])
        trainer.fit(classifier, load(make_tones(12, generator), 4), load(make_tones(1, generator)))
        schedule = trainer.lr_scheduler_configs[0].scheduler
        assert rates == pytest.approx([0.1 * schedule.factor(step) for step in range(6)])
        assert schedule.total_steps == 6

    def test_steps_without_an_end(self, generator):
        classifier = make_classifier(learning_rate=0.1)
        trainer = make_trainer(max_epochs=-1, max_time={"seconds": 1})
        trainer.fit(classifier, load(make_tones(4, generator)), load(make_tones(1, generator)))
        assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1


class TestCheckpoints:
    def test_a_file_has_all_it_needs(self, small_model, small_model_folder, tmp_path, generator):
        folder = tmp_path / "vggish"
        shutil.copytree(small_model_folder, folder)
        classifier = VGGishClassifier(
            CLASSES,
            pretrained=str(folder),
            head=HeadConfig("attention", num_heads=4),
            postprocess="pca",
        )
        assert torch.equal(classifier.backbone.fc2.weight, small_model.fc2.weight)
        assert classifier.hparams.initial_weights == str(folder)
        checkpoint = ModelCheckpoint(
            tmp_path / "checkpoints", "{epoch}-{val_mAP:.2f}", monitor="val_mAP", mode="max"
        )
        trainer = make_trainer(
            max_epochs=1, enable_checkpointing=True, callbacks=[checkpoint], limit_train_batches=1
        )
        trainer.fit(classifier, load(make_tones(4, generator)), load(make_tones(6, generator)))
        (path,) = (tmp_path / "checkpoints").iterdir()
        assert path.name == f"epoch=0-val_mAP={trainer.callback_metrics['val_mAP']:.2f}.ckpt"
        shutil.rmtree(folder)
        loaded = VGGishClassifier.load_from_checkpoint(path, weights_only=True)
        assert_same(loaded, classifier)
        assert loaded.extractor.config == classifier.extractor.config
        assert loaded.hparams.head == classifier.hparams.head
        assert loaded.postprocess == "pca"

    def test_hyperparameters_of_numpy_and_torch(self, tmp_path, generator):
        classifier = VGGishClassifier(
            np.unique(CLASSES),
            np.str_("single_label"),
            config={"conv_channels": np.array([4, 4, 8, 8, 8, 8]), "hidden_size": np.int64(16)},
            feature_config={"example_hop_seconds": np.float64(0.48)},
            head={"kind": np.str_("mlp"), "hidden_size": torch.tensor(8)},
            learning_rate=np.float64(1e-3),
            warmup_steps=np.int64(1),
            weight_decay=torch.tensor(0.0),
            gain_db=np.float32(1.0),
            batch_norm=np.bool_(True),
        )
        finetuning = VGGishFinetuning(np.int64(0), learning_rate_factor=np.float64(0.1))
        trainer = make_trainer(max_epochs=1, callbacks=[finetuning])
        trainer.fit(classifier, load(make_tones(8, generator)), load(make_tones(3, generator)))
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        content = torch.load(tmp_path / "a.ckpt", weights_only=True)
        assert content["hyper_parameters"]["classes"] == sorted(CLASSES)
        assert {type(name) for name in content["hyper_parameters"]["classes"]} == {str}
        loaded = VGGishClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
        assert_same(loaded, classifier)
        classifier.save_pretrained(tmp_path / "saved")
        assert VGGishClassifier.from_pretrained(tmp_path / "saved").classes == sorted(CLASSES)

    def test_pretrained_as_a_path(self, small_model_folder, tmp_path):
        classifier = VGGishClassifier(tuple(CLASSES), pretrained=small_model_folder)
        assert classifier.hparams.initial_weights == str(small_model_folder)
        classifier.save_pretrained(tmp_path)
        assert VGGishClassifier.from_pretrained(tmp_path).classes == CLASSES

    def test_other_classes_are_named(self, tmp_path, generator):
        trainer = make_trainer(max_epochs=1)
        trainer.fit(make_classifier(), *[load(make_tones(4, generator))] * 2)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        for classes, message in (
            (["low", "middle", "shrill"], "got one without 'shrill' and with 'high'$"),
            (["low", "middle", "high", "none"], "got one without 'none'$"),
            (["high", "middle", "low"], "got one of another order: "),
        ):
            other = VGGishClassifier(classes, config=TINY)
            with pytest.raises(ValueError, match=message):
                make_trainer(max_epochs=2).fit(
                    other,
                    *[load(make_tones(4, generator))] * 2,
                    ckpt_path=tmp_path / "a.ckpt",
                    weights_only=True,
                )

    def test_loading_is_strict(self, tmp_path, generator):
        classifier = make_classifier()
        trainer = make_trainer(max_epochs=1)
        trainer.fit(classifier, *[load(make_tones(4, generator))] * 2)
        path = tmp_path / "a.ckpt"
        trainer.save_checkpoint(path)
        content = torch.load(path, weights_only=True)
        del content["state_dict"]["backbone.fc2.bias"]
        torch.save(content, path)
        with pytest.raises(RuntimeError, match=r'Missing key.*"backbone\.fc2\.bias"'):
            VGGishClassifier.load_from_checkpoint(path, weights_only=True)

    def test_resumed_as_never_interrupted(self, tmp_path, generator):
        clips = load(make_tones(12, generator), 4)

        class Save(pl.Callback):
            def on_train_epoch_end(self, trainer, *_):
                trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

        options = {"learning_rate": 1e-2, "warmup_steps": 2, "head": HeadConfig("mlp")}
        whole = make_classifier(**options)
        make_trainer(max_epochs=3, callbacks=[Save()]).fit(whole, clips, clips)
        resumed = make_classifier(**options)
        make_trainer(max_epochs=3).fit(
            resumed, clips, clips, ckpt_path=tmp_path / "1.ckpt", weights_only=True
        )
        assert_same(resumed, whole)

    def test_hyperparameters_are_json(self, small_model_folder):
        classifier = VGGishClassifier(CLASSES, pretrained=str(small_model_folder))
        values = json.loads(json.dumps(dict(classifier.hparams)))
        assert values["config"]["postprocessor"] is True
        assert values["feature_config"]["padding"] == "short"
        del values["initial_weights"]
        again = VGGishClassifier(**values)
        assert dict(again.hparams) == {**classifier.hparams, "initial_weights": None}


@pytest.fixture
def saved(tmp_path):
    """A classifier with batch normalisation that has seen something, saved."""
    classifier = make_classifier(
        batch_norm=True,
        max_bands=8,
        head=HeadConfig("mlp", hidden_size=8, batch_norm=True),
        feature_config=VGGishFeatureConfig(padding="tail"),
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        classifier(collate_waveforms(make_tones(6, generator)))
    classifier.eval().save_pretrained(tmp_path / "saved")
    return classifier, tmp_path / "saved"


class TestFolders:
    def test_there_and_back(self, saved, batch):
        classifier, folder = saved
        loaded = VGGishClassifier.from_pretrained(folder)
        assert not loaded.training
        assert loaded.device == torch.device("cpu")
        assert not any(value.is_meta for value in loaded.state_dict().values())
        assert (loaded.classes, loaded.task) == (CLASSES, "single_label")
        assert loaded.extractor.config == classifier.extractor.config
        expected = classifier(batch)
        assert torch.allclose(loaded(batch), expected, atol=1e-5)
        loaded.save_pretrained(folder.parent / "again")
        assert_same(VGGishClassifier.from_pretrained(folder.parent / "again"), loaded)

    def test_loading_draws_no_weights(self, saved):
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        VGGishClassifier.from_pretrained(saved[1])
        assert torch.equal(torch.rand(1), expected)

    def test_what_is_loaded_learns_on(self, saved, generator):
        loaded = VGGishClassifier.from_pretrained(saved[1]).train()
        trainer = make_trainer(max_epochs=1)
        trainer.fit(loaded, load(make_tones(8, generator)), load(make_tones(8, generator)))
        assert torch.isfinite(trainer.callback_metrics["val_loss"])

    def test_files(self, saved):
        _, folder = saved
        assert {path.name for path in folder.iterdir()} == {
            "README.md",
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        }
        values = json.loads((folder / "config.json").read_text())
        assert values["classifier_type"] == "VGGishClassifier"
        assert values["training"]["batch_norm"] is True
        assert "feature_config" not in values | values["training"]
        card = (folder / "README.md").read_text()
        assert "single_label, 3 classes, HeadConfig(kind='mlp', num_layers=1" in card
        assert 'classify(["a.wav", "b.mp3"]):' in card

    def test_a_card_that_is_there_stays(self, saved):
        classifier, folder = saved
        (folder / "README.md").write_text("mine")
        classifier.save_pretrained(folder)
        assert (folder / "README.md").read_text() == "mine"

    def test_a_head_alone(self, tmp_path, embedding_batch):
        classifier = VGGishClassifier(CLASSES, "multi_label", postprocess="pca").eval()
        classifier.save_pretrained(tmp_path)
        loaded = VGGishClassifier.from_pretrained(tmp_path)
        assert loaded.backbone is None
        assert loaded.task == "multi_label"
        assert torch.equal(loaded(embedding_batch), classifier(embedding_batch))
        assert "pipeline=VGGishPipeline" in (tmp_path / "README.md").read_text()

    def test_the_hub(self, saved, hub, tmp_path, batch):
        classifier, _ = saved
        options = {"token": hub.token}
        classifier.push_to_hub("org/tones", **options)
        loaded = VGGishClassifier.from_pretrained("org/tones", cache_dir=tmp_path, **options)
        assert torch.allclose(loaded(batch), classifier(batch), atol=1e-5)
        with pytest.raises(TypeError, match="got 'retries'"):
            VGGishClassifier.from_pretrained("org/tones", retries=3)

    def test_every_tensor_that_differs_is_listed(self, saved):
        _, folder = saved
        path = folder / "config.json"
        values = json.loads(path.read_text())
        values["classes"].append("none")
        values["head"]["batch_norm"] = False
        path.write_text(json.dumps(values))
        with pytest.raises(ValueError, match="to hold exactly the config's tensors") as error:
            VGGishClassifier.from_pretrained(folder)
        assert [line.split(maxsplit=1) for line in str(error.value).splitlines()[1:]] == [
            ["misshapen", "head.classifier.weight: expected (4, 8), found (3, 8)"],
            ["misshapen", "head.classifier.bias: expected (4,), found (3,)"],
            ["unexpected", "head.hidden.norms.0.bias: found (8,)"],
            ["unexpected", "head.hidden.norms.0.running_mean: found (8,)"],
            ["unexpected", "head.hidden.norms.0.running_variance: found (8,)"],
            ["unexpected", "head.hidden.norms.0.weight: found (8,)"],
        ]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pretrained": "org/other"}, "Expected classes, task, config, .* got .*, pretrained$"),
            ({"classifier_type": "ASTModel"}, "got that of a 'ASTModel'"),
            ({"head": {"kind": "linear", "depth": 3}}, "HeadConfig has no 'depth'"),
            ({"config": {"hidden_size": 1 << 40}}, "`hidden_size` to be an int from 1 to 65536"),
            ({"classes": "abc"}, "`classes` to be a list of names .*, got 'abc'"),
        ],
    )
    def test_configs_from_elsewhere(self, change, message, saved):
        path = saved[1] / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(ValueError, match=message):
            VGGishClassifier.from_pretrained(saved[1])

    @torch.no_grad()
    def test_the_network_alone(self, saved, clips):
        classifier, folder = saved
        classifier.to_pipeline().save_pretrained(folder.parent / "network")
        pipeline = VGGishPipeline.from_pretrained(folder.parent / "network")
        assert pipeline.extractor.config == classifier.extractor.config
        waveform, rate = clips[0]["waveform"], clips[0]["sampling_rate"]
        expected = classifier.backbone(classifier.extractor(waveform, rate))
        assert torch.allclose(pipeline((waveform, rate)).embeddings, expected, atol=1e-5)

    def test_a_network_of_its_own(self):
        classifier = make_classifier()
        network = classifier.to_pipeline()
        assert_same(network.model, classifier.backbone)
        torch.nn.init.zeros_(network.model.fc2.weight)
        assert classifier.backbone.fc2.weight.any()
        with pytest.raises(ValueError, match="with a network, this one is only a head"):
            VGGishClassifier(CLASSES).to_pipeline()

    def test_a_network_without_a_head(self, small_model_folder):
        with pytest.raises(ValueError, match=r"none of a classifier; .* VGGishModel loads VGGish"):
            VGGishClassifier.from_pretrained(small_model_folder)


class TestClassify:
    @pytest.fixture
    def files(self, tmp_path, clips):
        paths = []
        for clip in clips:
            paths.append(tmp_path / f"{clip['id']}.wav")
            soundfile.write(
                paths[-1], clip["waveform"].numpy(), clip["sampling_rate"], subtype="FLOAT"
            )
        return paths

    @pytest.mark.parametrize("task", ["single_label", "multi_label"])
    def test_equals_forward(self, task, files, batch):
        classifier = make_classifier(task=task, gain_db=20.0, head=HeadConfig("mlp", dropout=0.5))
        found = list(classifier.classify(files, batch_size=5))
        assert [clip.index for clip in found] == list(range(6))
        logits = classifier(batch).detach()
        expected = logits.softmax(1) if task == "single_label" else logits.sigmoid()
        assert torch.allclose(torch.stack([clip.scores for clip in found]), expected, atol=1e-5)

    def test_results_have_names(self, files):
        classifier = make_classifier()
        (clip,) = classifier.classify(files[:1])
        assert clip.label == CLASSES[clip.scores.argmax()]
        assert clip.top(2) == [
            (CLASSES[place], clip.scores[place].item())
            for place in clip.scores.argsort(descending=True)[:2]
        ]
        assert len(clip.top(99)) == 3

    def test_one_clip_is_one_input(self, files, clips):
        classifier = make_classifier()
        (expected,) = classifier.classify(files[:1])
        waveform, rate = clips[0]["waveform"], clips[0]["sampling_rate"]
        for one in (
            str(files[0]),
            files[0],
            files[0].read_bytes(),
            (waveform, rate),
            {"array": waveform, "sampling_rate": rate},
            {"path": str(files[0]), "bytes": None},
            files[0].open("rb"),
        ):
            (found,) = classifier.classify(one)
            assert torch.allclose(found.scores, expected.scores, atol=1e-6)
            if hasattr(one, "close"):
                one.close()
        assert len(list(classifier.classify((str(files[0]), str(files[1]))))) == 2
        with pytest.raises(ValueError, match="Expected clips to classify, got 3"):
            classifier.classify(3)

    def test_clips_without_an_example(self, clips):
        classifier = make_classifier(feature_config={"padding": "none"})
        short = (torch.ones(100), 16_000)
        inputs = [short, (clips[0]["waveform"], clips[0]["sampling_rate"])]
        failed = []
        found = classifier.classify(inputs, on_error=lambda *args: failed.append(args))
        assert [clip.index for clip in found] == [1]
        [(index, source, error)] = failed
        assert (index, source) == (0, short)
        assert isinstance(error, TooShortError)
        with pytest.raises(TooShortError, match="Input 0 is shorter than an example"):
            list(classifier.classify(inputs))

    def test_other_weights_than_it_learnt_from(self, small_model_folder, lively_model_folder):
        learnt, other = map(
            VGGishPipeline.from_pretrained, (small_model_folder, lively_model_folder)
        )
        head = VGGishClassifier(CLASSES, embeddings_from=learnt.provenance("none"))
        head.classify([], pipeline=learnt)
        with pytest.warns(UserWarning, match=f"weights {learnt.weights_sha256[:12]}, but now"):
            head.classify([], pipeline=other)
        VGGishClassifier(CLASSES).classify([], pipeline=other)  # nothing is known

    def test_what_the_data_module_knows_is_saved(self, tmp_path, embedding_batch):
        class Data(pl.LightningDataModule):
            provenance: ClassVar = {"weights_sha256": "0" * 64, "model": "org/vggish"}

            def train_dataloader(self):
                return DataLoader([embedding_batch], batch_size=None)

            val_dataloader = train_dataloader

        classifier = VGGishClassifier(CLASSES, postprocess="pca")
        make_trainer(max_epochs=1).fit(classifier, datamodule=Data())
        classifier.save_pretrained(tmp_path)
        loaded = VGGishClassifier.from_pretrained(tmp_path)
        assert loaded.hparams.embeddings_from == Data.provenance

    def test_bad_files(self, files, tmp_path):
        bad = tmp_path / "bad.wav"
        bad.write_bytes(b"no audio")
        classifier = make_classifier()
        failed = []
        found = list(
            classifier.classify(
                [files[0], bad, files[1]],
                on_error=lambda index, source, error: failed.append((index, source)),
            )
        )
        assert failed == [(1, bad)]
        assert [clip.index for clip in found] == [0, 2]
        with pytest.raises(ValueError, match="libsndfile"):
            list(classifier.classify([bad]))

    def test_inputs_are_read_as_needed(self, files):
        taken = []

        def inputs():
            for path in files * 100:
                taken.append(path)
                yield path

        found = make_classifier().classify(inputs(), batch_size=2)
        next(found)
        assert len(taken) < 20
        found.close()

    def test_arguments_are_checked_at_once(self):
        with pytest.raises(ValueError, match="`batch_size` of at least 1, got 0"):
            make_classifier().classify([], batch_size=0)
        with pytest.raises(ValueError, match="Expected a `pipeline` that embeds the clips"):
            VGGishClassifier(CLASSES).classify([])

    def test_a_head_with_what_embedded_its_data(self, small_model_folder, files, batch):
        head = VGGishClassifier(CLASSES, postprocess="pca")
        whole = VGGishClassifier(CLASSES, pretrained=str(small_model_folder), postprocess="pca")
        whole.head.load_state_dict(head.head.state_dict())
        pipeline = VGGishPipeline.from_pretrained(small_model_folder)
        expected = whole(batch).softmax(1).detach()
        for classified in (head.classify(files, pipeline=pipeline), whole.classify(files)):
            found = torch.stack([clip.scores for clip in classified])
            assert torch.allclose(found, expected, atol=1e-5)


class TestPredict:
    def test_scores_and_embeddings(self, clips):
        classifier = make_classifier().eval()
        (prediction,) = make_trainer().predict(classifier, load(clips))
        expected = torch.stack(
            [
                c.scores
                for c in classifier.classify([(c["waveform"], c["sampling_rate"]) for c in clips])
            ]
        )
        assert torch.allclose(prediction["scores"], expected, atol=1e-5)
        parts = read_prediction(prediction, hop_seconds=0.0)
        assert [part.id for part in parts] == [clip["id"] for clip in clips]
        for part, clip in zip(parts, clips, strict=True):
            examples = classifier.extractor(clip["waveform"], clip["sampling_rate"])
            embeddings = classifier.backbone(examples)
            assert torch.allclose(part.embedding, embeddings, atol=1e-5)
            times = classifier.extractor.example_times(len(examples))
            assert torch.equal(part.start_seconds, times)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"classes": []}, r"`classes` to be a list of names .*, got \[\]"),
            ({"classes": 3}, r"`classes` to be a list of names such as \['dog', 'rain'\], got 3"),
            ({"classes": {"a": 1}}, "`classes` to be a list of names"),
            ({"classes": ["a", 1]}, "`classes` to be a list of names"),
            ({"head": "transformer"}, "`kind` to be one of 'linear', 'mlp', .* got 'transformer'"),
            ({"head": 3}, "Expected `head` to be a HeadConfig or a dict of its fields, got 3"),
            ({"config": "tiny"}, "Expected `config` to be a VGGishConfig or a dict of its fields"),
            ({"feature_config": 3}, "Expected `feature_config` to be a VGGishFeatureConfig or a"),
            ({"learning_rate": object()}, "Expected `learning_rate` to be a number"),
            ({"classes": ["a", "b", "a"]}, "`classes` of different names"),
            ({"task": "tagging"}, "`task` to be one of 'single_label', 'multi_label', got"),
            ({"pretrained": "google"}, "`pretrained` or `config`, got both: the weights of 'goo"),
            ({"config": None, "batch_norm": True}, "batch_norm=True needs `config`"),
            ({"config": {"hidden": 3}}, "VGGishConfig has no 'hidden'"),
            ({"feature_config": {"rate": 3}}, "VGGishFeatureConfig has no 'rate'"),
            ({"head": {"kind": "mlp", "depth": 3}}, "HeadConfig has no 'depth'"),
            ({"postprocess": "uint8"}, "`postprocess` to be one of 'none', 'pca', got 'uint8'"),
            ({"postprocess": "pca"}, "postprocess='pca' needs a model with a post-processor"),
            ({"label_smoothing": 1.0}, "`label_smoothing` from 0 to below 1, got 1.0"),
            ({"gain_db": -1.0}, "`gain_db` from 0"),
            (
                {"feature_config": {"num_mel_bins": 32}},
                "an extractor that makes the model's examples",
            ),
        ],
    )
    def test_they_are_checked(self, options, message):
        with pytest.raises(ValueError, match=message):
            VGGishClassifier(**{"classes": CLASSES, "config": TINY, **options})

    def test_configs_as_dicts(self):
        classifier = VGGishClassifier(
            CLASSES,
            config={"conv_channels": [4, 4, 8, 8, 8, 8], "hidden_size": 16, "embedding_size": 16},
            feature_config={"padding": "tail"},
            head={"kind": "attention", "hidden_size": 32},
        )
        assert classifier.backbone.config == TINY
        assert classifier.extractor.config.padding == "tail"
        assert classifier.head.hidden.out_size == 32

    def test_padding_of_a_pretrained_model(self, small_model_folder):
        classifier = VGGishClassifier(CLASSES, pretrained=str(small_model_folder))
        assert classifier.extractor.config == VGGishFeatureConfig(padding="short")

    def test_width_of_the_head(self, tiny_model_folder):
        assert make_classifier().head.classifier.in_features == 16
        assert VGGishClassifier(CLASSES, embedding_size=7).head.classifier.in_features == 7
        tiny = VGGishClassifier(CLASSES, pretrained=str(tiny_model_folder))
        assert tiny.head.classifier.in_features == VGGishConfig(embedding_size=16).embedding_size


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path, generator):
    torch.save(make_tones(24, generator), tmp_path / "clips.pt")
    script = """
        import json, sys, warnings
        import torch

        sys.path.append(sys.argv[2])
        from tones import CLASSES, TINY, load, make_trainer
        from vggish_hf.lightning import VGGishClassifier

        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is", FutureWarning)
        warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
        clips = torch.load(sys.argv[1], weights_only=True)
        torch.manual_seed(0)
        classifier = VGGishClassifier(CLASSES, config=TINY, learning_rate=1e-2)
        trainer = make_trainer(strategy="ddp", devices=2, max_epochs=1)
        trainer.fit(classifier, load(clips, 4), load(clips, 4))
        torch.save(classifier.state_dict(), f"{sys.argv[1]}.{trainer.global_rank}")
        scores = trainer.callback_metrics
        print(json.dumps({name: scores[name].item() for name in scores if "val" in name}))
    """
    outputs = run_processes(script, tmp_path / "clips.pt", TESTS)
    first, second = (
        torch.load(tmp_path / f"clips.pt.{rank}", weights_only=True) for rank in (0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    classifier = make_classifier()
    assert not torch.equal(classifier.head.classifier.weight, first["head.classifier.weight"])
    classifier.load_state_dict(first)
    clips = torch.load(tmp_path / "clips.pt", weights_only=True)
    (expected,) = make_trainer().validate(classifier, load(clips, 4), verbose=False)
    for output in outputs:
        assert json.loads(output) == pytest.approx(expected, rel=1e-5)
