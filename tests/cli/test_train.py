"""`vggish-hf train`: the ready configs learn, what they give loads, mistakes are told in a line."""

import inspect
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import lightning.pytorch as pl
import pytest
import torch
import yaml
from folders import TESTS
from safetensors.torch import load_file
from sounds import CLASSES, write_sounds

import vggish_hf
from vggish_hf import VGGishPipeline
from vggish_hf.cli import main
from vggish_hf.lightning import (
    AudioFolderDataModule,
    AudioSetEmbeddingsDataModule,
    VGGishClassifier,
)

# The demo's recipe, shortened: batches, and an average over steps, for 27 clips in place of 320.
SHORT = [
    *("--config", "esc10-demo", "--data.test_folds", "[4]", "--data.batch_size", "8"),
    *("--trainer.max_epochs", "8", "--model.warmup_steps", "5"),
    *("--trainer.callbacks.init_args.decay", "0.8"),
]
ONE_EPOCH = [*("--config", "esc10-demo", "--trainer.max_epochs", "1"), "--data.batch_size", "8"]
CONFIGS = Path(vggish_hf.__file__).parent / "assets" / "training"
AUDIOSET = TESTS / "data" / "audioset"


@pytest.fixture(autouse=True)
def environment():
    """Lightning puts the seed into it."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("train") / "sounds")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, in which nothing may appear."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def trained(sounds, tmp_path_factory):
    """What the shortened demo recipe prints and writes."""
    folder = tmp_path_factory.mktemp("trained")
    output, network = folder / "classifier", folder / "network"
    arguments = [*SHORT, "--data.source", sounds, "--output", output, "--network", network]
    printed = StringIO()
    with redirect_stdout(printed), patch.dict(os.environ):
        code = main(["train", *map(str, arguments)])
    return SimpleNamespace(
        code=code, lines=printed.getvalue().splitlines(), output=output, network=network
    )


def run_command(*arguments, **options):
    command = [sys.executable, "-m", "vggish_hf.cli", "train", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def read_scores(line):
    return {name: float(value) for name, value in re.findall(r"(\w+_\w+) (-?[\d.e-]+|inf)", line)}


def read_losses(lines):
    return [read_scores(line)["train_loss"] for line in lines if line.startswith("epoch ")]


class TestDemo:
    def test_it_learns(self, trained):
        assert trained.code == 0
        losses = read_losses(trained.lines)
        assert len(losses) == 8
        assert losses[-1] < 0.5 * max(losses)
        assert trained.lines[-1].startswith("test: ")
        assert read_scores(trained.lines[-1])["test_accuracy"] >= 0.8  # chance: a third

    def test_what_it_prints(self, trained):
        *epochs, classifier, network, _ = trained.lines
        assert [line.partition(":")[0] for line in epochs] == [f"epoch {i}" for i in range(8)]
        assert classifier == f"the classifier is in {trained.output}"
        assert network == f"the network is in {trained.network}"

    def test_the_output_is_a_classifier(self, trained, sounds):
        classifier = VGGishClassifier.from_pretrained(trained.output)
        assert classifier.classes == CLASSES
        paths = [path for name in CLASSES for path in sorted((sounds / name).glob("4-*"))]
        found = [classifier.classes[clip.scores.argmax()] for clip in classifier.classify(paths)]
        right = [name == path.parent.name for name, path in zip(found, paths, strict=True)]
        assert sum(right) >= 0.8 * len(paths)

    def test_the_network_is_a_model(self, trained):
        model = VGGishPipeline.from_pretrained(trained.network).model
        assert model.config.conv_channels == (8, 16, 32, 32, 64, 64)
        backbone = VGGishClassifier.from_pretrained(trained.output).backbone
        for name, value in backbone.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name

    @pytest.mark.slow
    def test_its_config_gives_the_same_again(self, sounds, tmp_path, here):
        once, again = tmp_path / "once", tmp_path / "again"
        arguments = [*ONE_EPOCH, "--data.source", str(sounds), "--output", str(once)]
        assert main(["train", *arguments, "--network", str(tmp_path / "network")]) == 0
        arguments = ["--config", once / "training.yaml", "--output", again]
        assert main(["train", *map(str, arguments), "--network", "null"]) == 0
        expected = load_file(once / "model.safetensors")
        found = load_file(again / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert list(here.iterdir()) == []

    @pytest.mark.slow
    def test_real_sounds(self, shared, here, capsys):
        arguments = [*("--data.source", shared / "data" / "esc10"), "--data.clip_seconds", 2]
        arguments += ["--data.batch_size", 16, "--trainer.max_epochs", 6]
        assert main(["train", *SHORT, *map(str, arguments)]) == 0
        lines = capsys.readouterr().out.splitlines()
        losses = read_losses(lines)
        assert losses[-1] < 0.8 * losses[0]
        assert read_scores(lines[-1])["test_accuracy"] > 0.4  # chance: a tenth


@pytest.mark.filterwarnings("ignore:.* classes have no clip to learn from")
class TestAudioSet:
    def test_it_learns(self, tmp_path, here, capsys):
        output = tmp_path / "tagger"
        arguments = [*("--data.train_source", AUDIOSET), "--data.test_source", AUDIOSET]
        arguments += ["--data.test_split", "bal_train", "--data.cache_dir", tmp_path / "cache"]
        arguments += ["--trainer.max_epochs", 20, "--model.warmup_steps", 2, "--output", output]
        arguments += ["--model.head.hidden_size", 256, "--model.head.dropout", 0]
        arguments += ["--data.batch_size", 5, "--model.mixup_alpha", 0]
        assert main(["train", "--config", "audioset-embeddings", *map(str, arguments)]) == 0
        lines = capsys.readouterr().out.splitlines()
        losses = read_losses(lines)
        assert losses[-1] < 0.5 * losses[0]
        assert read_scores(lines[-1])["test_mAP"] > 0.9  # 15 clips, learnt by heart
        tagger = VGGishClassifier.from_pretrained(output)
        assert (len(tagger.classes), tagger.task, tagger.backbone) == (527, "multi_label", None)
        assert list(here.iterdir()) == []

    @pytest.mark.slow
    def test_real_embeddings(self, shared, tmp_path, here, capsys):
        data = shared / "data" / "audioset"
        arguments = [*("--data.train_source", data / "bal_train.tar"), "--data.batch_size", 64]
        arguments += ["--data.test_source", data / "eval_quarter.tar"]
        arguments += ["--data.cache_dir", tmp_path, "--trainer.max_epochs", 2]
        arguments += ["--model.warmup_steps", 20, "--model.head.hidden_size", 512]
        assert main(["train", "--config", "audioset-embeddings", *map(str, arguments)]) == 0
        lines = capsys.readouterr().out.splitlines()
        losses = read_losses(lines)
        assert losses[-1] < losses[0]
        scores = read_scores(lines[-1])
        assert scores["test_mAP"] > 0.08  # chance: less than 0.01
        assert scores["test_AUC"] > 0.8  # chance: 0.5


class TestCommand:
    """As its users start it."""

    @pytest.mark.slow
    def test_it_writes_and_says_no_more_than_it_should(self, sounds, tmp_path, here):
        arguments = [*ONE_EPOCH, "--data.source", sounds, "--output", tmp_path / "mine"]
        done = run_command(*arguments, "--data.validation_fraction", 0.25, cwd=here)
        assert done.returncode == 0, done.stderr
        epoch, saved = done.stdout.splitlines()
        assert re.match(r"epoch 0: train_loss \S+, val_loss \S+, val_mAP .* val_accuracy", epoch)
        assert saved == f"the classifier is in {tmp_path / 'mine'}"
        assert done.stderr.splitlines() == [
            "Seed set to 0",
            f"GPU available: {torch.cuda.is_available()}"
            + (f" (cuda), used: {True}" if torch.cuda.is_available() else ", used: False"),
            "`Trainer.fit` stopped: `max_epochs=1` reached.",
        ]
        assert {path.name for path in (tmp_path / "mine").iterdir()} == {
            "README.md",
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "training.yaml",
        }
        assert list(here.iterdir()) == []

    @pytest.mark.slow
    def test_data_modules_by_their_names(self):
        done = run_command("--data", "AudioSetEmbeddingsDataModule")  # imported by nothing else
        assert done.returncode == 2
        message = "--data: the following arguments are required: train_source"
        assert done.stderr == f"vggish-hf: error: {message}\n"

    @pytest.mark.slow
    def test_two_processes(self, sounds, tmp_path):
        arguments = [*ONE_EPOCH, "--data.source", sounds, "--output", tmp_path / "mine"]
        arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]
        done = run_command(*arguments, "--data.test_folds", "[4]", timeout=300)
        assert done.returncode == 0, done.stderr
        epoch, saved, test = done.stdout.splitlines()
        assert epoch.startswith("epoch 0: train_loss ")
        assert saved == f"the classifier is in {tmp_path / 'mine'}"
        assert test.startswith("test: test_loss ")

    @pytest.mark.slow
    def test_an_interrupt_leaves_nothing(self, sounds, tmp_path):
        arguments = [*ONE_EPOCH, "--data.source", sounds, "--output", tmp_path / "mine"]
        command = [sys.executable, "-m", "vggish_hf.cli", "train", *map(str, arguments)]
        command += ["--trainer.max_epochs", "1000"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout.readline().startswith("epoch 0: ")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130
        assert stderr.splitlines()[-1] == "vggish-hf: interrupted"
        assert "Traceback" not in stderr
        assert list(tmp_path.iterdir()) == []


class TestFinetune:
    """The recipe for sounds of your own, on a folder as it is."""

    @pytest.fixture
    def plain(self, tmp_path):
        """A folder without folds, classes of unequal size, and litter."""
        folder = write_sounds(tmp_path / "sounds", clips=6)
        for number, path in enumerate(sorted(folder.rglob("*.wav"))):
            path.rename(path.with_name(f"recording {number}.wav"))
        for path in sorted((folder / "rain").iterdir())[1:]:
            path.unlink()
        (folder / "bird" / "._a.wav").write_bytes(b"litter")
        return folder

    def test_it_learns_and_is_validated(self, plain, tmp_path, here, capsys):
        arguments = ["--data.source", plain, "--output", tmp_path / "mine"]
        arguments += ["--trainer.max_epochs", 4, "--trainer.callbacks.init_args.first_epoch", 2]
        assert main(["train", "--config", "finetune", *map(str, arguments)]) == 0
        lines = capsys.readouterr().out.splitlines()
        losses = read_losses(lines)
        assert losses[-1] < losses[0]
        assert all("val_accuracy" in read_scores(line) for line in lines[:4])
        classifier = VGGishClassifier.from_pretrained(tmp_path / "mine")
        assert classifier.classes == CLASSES
        demo = VGGishPipeline.from_pretrained("demo").model
        assert torch.equal(classifier.backbone.conv1.weight, demo.conv1.weight)  # pretrained
        assert not torch.equal(classifier.backbone.fc2.weight, demo.fc2.weight)  # and tuned

    def test_its_options(self, plain, here, capsys):
        arguments = ["--config", "finetune", "--data.source", str(plain)]
        arguments += ["--model.pretrained", "google", "--model.head", "attention"]
        with pytest.raises(SystemExit, match="0"):
            main(["train", *arguments, "--print_config"])
        config = yaml.safe_load(capsys.readouterr().out)
        assert config["model"]["pretrained"] == "google"
        assert config["model"]["head"] == "attention"
        assert config["data"]["init_args"]["balanced_sampling"] is True


@pytest.mark.slow
def test_what_is_saved_does_not_depend_on_the_working_folder(sounds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(sounds.parent)
    arguments = ["--config", "finetune", "--trainer.max_epochs", "1", "--data.source", sounds.name]
    relative = os.path.relpath(tmp_path / "mine")
    assert main(["train", *arguments, "--output", relative]) == 0
    config = yaml.safe_load((tmp_path / "mine" / "training.yaml").read_text(encoding="utf-8"))
    assert config["data"]["init_args"]["source"] == str(sounds)
    assert config["output"] == str(tmp_path / "mine")
    assert config["model"]["pretrained"] == "demo"


def test_a_checkpoint_is_gone_on_with(sounds, tmp_path, here, capsys):
    arguments = [*ONE_EPOCH, "--data.source", str(sounds), "--trainer.callbacks+=ModelCheckpoint"]
    arguments += [f"--trainer.callbacks.dirpath={tmp_path / 'kept'}"]
    assert main(["train", *arguments, "--trainer.callbacks.filename=last"]) == 0
    on = ["--ckpt_path", str(tmp_path / "kept" / "last.ckpt"), "--trainer.max_epochs", "2"]
    with pytest.warns(UserWarning, match="exists and is not empty"):
        assert main(["train", *arguments, *on]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in lines] == ["epoch 0:", "epoch 1:"]
    assert list(here.iterdir()) == []
    with pytest.warns(UserWarning, match="exists and is not empty"):
        assert main(["train", *arguments, *on, "--model.config.hidden_size", "8"]) == 2
    assert "error: Expected a checkpoint of this classifier: " in capsys.readouterr().err


@pytest.mark.slow
def test_the_last_checkpoint_of_the_output(sounds, tmp_path, here, capsys):
    output = tmp_path / "mine"
    arguments = [*ONE_EPOCH, "--data.source", str(sounds), "--trainer.callbacks+=ModelCheckpoint"]
    arguments += ["--output", str(output)]
    assert main(["train", *arguments]) == 0
    assert len(list((output / "checkpoints").glob("*.ckpt"))) == 1
    on = ["--ckpt_path=last", "--trainer.max_epochs", "2"]
    with pytest.warns(UserWarning, match="exists and is not empty"):
        assert main(["train", *arguments, *on]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in lines if line.startswith("epoch")] == ["epoch 0:", "epoch 1:"]
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_scores_of_another_epoch_are_not_repeated(sounds, here, capsys):
    arguments = ["--data.source", str(sounds), "--data.validation_folds", "[3]"]
    arguments += ["--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "2"]
    assert main(["train", *ONE_EPOCH, *arguments]) == 0
    first, second, third = map(read_scores, capsys.readouterr().out.splitlines())
    assert first.keys() == third.keys() == {"train_loss"}
    assert {"train_loss", "val_loss", "val_accuracy"} <= second.keys()


def test_no_test_on_request(sounds, here, capsys):
    arguments = ["--data.source", str(sounds), "--data.test_folds", "[4]", "--test", "false"]
    assert main(["train", *ONE_EPOCH, *arguments]) == 0
    captured = capsys.readouterr()
    assert "test" not in captured.out
    assert captured.err == "nothing will be saved: see --output and --network\n"


def test_help_names_the_ready_configs(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = capsys.readouterr().out
    names = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert names == {"audioset-embeddings", "esc10-demo", "finetune"}
    assert set(re.findall(r"--config (\S+)\b", " ".join(text.split()))) >= names


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = capsys.readouterr().out
    trainer = set(inspect.signature(pl.Trainer).parameters)
    model = set(inspect.signature(VGGishClassifier).parameters) - {"classes", "task"}
    options = {f"trainer.{name}" for name in trainer} | {f"model.{name}" for name in model}
    options |= {"config", "data", "data.help", "output", "network", "test", "checkpoint"}
    assert {option for option in options if not re.search(rf"--{option}\b", text)} == set()
    for module in (AudioFolderDataModule, AudioSetEmbeddingsDataModule):
        assert f"vggish_hf.lightning.{module.__name__}" in text
        with pytest.raises(SystemExit, match="0"):
            main(["train", f"--data.help={module.__name__}"])
        text_of_data = capsys.readouterr().out
        for name in inspect.signature(module).parameters:
            assert f"--data.{name}" in text_of_data


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: data"),
        (["--bogus", "3"], "unrecognized arguments: --bogus 3"),
        (["--config", "esc10-demo"], "--data: the following arguments are required: source"),
        (
            ["--config", "demos"],
            "Expected audioset-embeddings, esc10-demo, finetune or a YAML",
        ),
        (
            ["--config=demos"],
            "Expected audioset-embeddings, esc10-demo, finetune or a YAML",
        ),
        ([*ONE_EPOCH, "--data.source", "gone"], "Expected a folder or a table, 'gone' does"),
        ([*ONE_EPOCH, "--data.bogus", "3"], "--data: Option 'bogus' is not accepted"),
        (["--data.source", "sounds"], "Expected --data, the kind of data, beside --data.source: "),
        (["--data.source=sounds"], "Expected --data, the kind of data, beside --data.source: "),
        ([*ONE_EPOCH, "{source}", "--checkpoint", "last"], "Expected a checkpoint below --output"),
        (["--data", "AudioFilesDataModule"], "--data: Expected a dot import path string"),
        ([*ONE_EPOCH, "--model.learning_rate", "x"], "--model.learning_rate: Expected a"),
        ([*ONE_EPOCH, "{source}", "--model.label_smoothing", "3"], "Expected `label_smoothing`"),
        ([*ONE_EPOCH, "{source}", "--model.config.conv_channels", "[1]"], "Expected six `conv_"),
        ([*ONE_EPOCH, "{source}", "--trainer.devices", "0"], "`Trainer(devices='0')`"),
        ([*ONE_EPOCH, "{source}", "--checkpoint", "a.ckpt"], "Expected a Lightning checkpoint"),
        ([*ONE_EPOCH, "{source}", "--output", "file"], "Expected a folder for --output, "),
        ([*ONE_EPOCH, "{source}", "--output", "file/mine"], "Expected a folder for --output, "),
        (
            [*ONE_EPOCH, "{source}", "--output", "mine", "--network", "./mine"],
            "Expected two folders for --output and --network",
        ),
        (
            ["--data=AudioFolderDataModule", "{source}", "--network", "mine"],
            "Expected no --network: this classifier is a head alone",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(sounds, here, capsys, arguments, message):
    (here / "file").write_text("text")
    given = [text.format(source=f"--data.source={sounds}") for text in arguments]
    assert main(["train", *given]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"vggish-hf: error: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_told_in_a_line(sounds, tmp_path, here, capsys, workers):
    folder = tmp_path / "sounds"
    write_sounds(folder, clips=1)
    (folder / "engine" / "1-0.wav").write_bytes(b"junk")
    arguments = ["--data.source", str(folder), "--data.num_workers", str(workers)]
    assert main(["train", *ONE_EPOCH, *arguments, "--output", str(tmp_path / "mine")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"vggish-hf: error: {folder}/engine/1-0.wav: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "mine").exists()


def test_real_warnings_are_heard(sounds, here):
    # A logging interval that is longer than an epoch is a warning of Lightning's own.
    arguments = ["--data.source", str(sounds), "--trainer.logger=CSVLogger"]
    arguments += [f"--trainer.logger.save_dir={here}"]
    with pytest.warns(UserWarning, match="smaller than the logging interval"):
        assert main(["train", *ONE_EPOCH, *arguments]) == 0
    assert [path.name for path in here.iterdir()] == ["lightning_logs"]


def test_what_is_saved_names_no_default_by_chance(trained):
    config = yaml.safe_load((trained.output / "training.yaml").read_text(encoding="utf-8"))
    assert config["seed_everything"] == 0
    assert config["trainer"]["max_epochs"] == 8
    assert config["data"]["init_args"]["test_folds"] == [4]
