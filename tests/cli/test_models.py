"""`info`, `push` and `convert`: on models, classifiers and folders that are there."""

import json

import pytest
import torch

from vggish_hf import VGGishConfig, VGGishModel
from vggish_hf.cli import main


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    lightning = pytest.importorskip("vggish_hf.lightning")
    folder = tmp_path_factory.mktemp("models") / "tagger"
    config = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16)
    lightning.VGGishClassifier(["dog", "cat"], config=config).save_pretrained(folder)
    return folder


def test_info_describes_a_classifier(classifier_folder, capsys):
    assert main(["info", str(classifier_folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classifier_type"] == "VGGishClassifier"
    assert (found["classes"], found["task"]) == (["dog", "cat"], "single_label")
    assert found["head"]["kind"]
    assert found["config"]["hidden_size"] == 16


def test_info_without_a_model(capsys):
    assert main(["info"]) == 2
    assert "Expected a MODEL, --runtime or both" in capsys.readouterr().err


def test_info_of_a_model_and_what_runs_it(small_model_folder, capsys, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert main(["info", str(small_model_folder), "--runtime"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["hidden_size"] == 16
    assert found["runtime"]["network"] == "plain"
    assert found["runtime"]["threads"] == torch.get_num_threads()


def test_push_of_a_classifier(classifier_folder, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert main(["push", str(classifier_folder), "tester/tagger"]) == 0
    assert "/tester/tagger/commit/" in capsys.readouterr().out
    expected = {path.name: path.read_bytes() for path in classifier_folder.iterdir()}
    assert hub.files("tester/tagger") == expected


def test_push_of_a_damaged_classifier(classifier_folder, hub, tmp_path, capsys):
    for path in classifier_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"0")
    assert main(["push", str(tmp_path), "tester/damaged"]) == 2
    assert "safetensors" in capsys.readouterr().err
    assert ("model", "tester/damaged") not in hub.repositories


def test_convert_into_a_folder_that_is_not_empty(tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "config.json").write_text("{}")
    command = ["convert", str(tiny_checkpoint), "-o", str(tmp_path)]
    assert main(command) == 2
    assert "pass --force to replace the model in it" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"
    assert main([*command, "--force"]) == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert VGGishModel.from_pretrained(tmp_path).config.embedding_size == 16
